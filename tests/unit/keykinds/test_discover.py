"""Finding key material by path and by content."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from keyark.crypto.slots import generate_key_line
from keyark.errors import UsageError
from keyark.keykinds.discover import DiscoverRequest, discover
from keyark.keykinds.recognise import recognise
from keyark.operation import Context
from support import fill


def pem(**options: object) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    choices = {
        "encoding": Encoding.PEM,
        "format": PrivateFormat.PKCS8,
        "encryption_algorithm": NoEncryption(),
        **options,
    }
    return key.private_bytes(**choices)  # type: ignore[arg-type]


def real_keys() -> dict[str, tuple[bytes, str]]:
    """Path below the root -> content, kind. Real encodings, made here."""
    ed = ed25519.Ed25519PrivateKey.generate()
    openssh = ed.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    p12 = serialize_key_and_certificates(b"n", ed, None, None, BestAvailableEncryption(b"pw"))
    return {
        "etc/ssh/ssh_host_ed25519_key": (openssh, "ssh-private-key"),
        "home/a/.ssh/work": (openssh, "ssh-private-key"),
        "home/a/.ssh/old_rsa": (pem(format=PrivateFormat.TraditionalOpenSSL), "ssh-private-key"),
        "etc/ssl/private/web.pem": (b"# comment\n" + pem(), "private-key"),
        "srv/enc.key": (pem(encryption_algorithm=BestAvailableEncryption(b"pw")), "private-key"),
        "srv/raw.der": (pem(encoding=Encoding.DER), "private-key"),
        "srv/store.p12": (p12, "keystore"),
        "srv/app.bin": (b"\xfe\xed\xfe\xed\0\0\0\2" + bytes(50), "keystore"),
        "home/a/.kube/config": (b"apiVersion: v1\nkind: Config\n", "kubernetes-credentials"),
        "etc/k8s/enc.yaml": (b"kind: EncryptionConfiguration\napiVersion: v1\n", "kubernetes-credentials"),
        "home/a/.aws/credentials": (b"[default]\naws_secret_access_key = x\n", "cloud-credentials"),
        "srv/sa.json": (b'{"type": "service_account", "private_key": "-----BEGIN"}', "cloud-credentials"),
        "home/a/.netrc": (b"machine x login y password z\n", "service-credentials"),
        "home/a/.pgpass": (b"*:*:*:me:pw\n", "service-credentials"),
        "srv/app/.env": (b"# x\nDB_PASSWORD=1\n", "env-file"),
        "srv/app/.env.production": (b"export TOKEN=1\n", "env-file"),
        "home/a/age.txt": (b"# created\nAGE-SECRET-KEY-1QQQ\n", "age-identity"),
        "etc/wireguard/wg0.conf": (b"[Interface]\nPrivateKey = " + b"A" * 43 + b"=\n", "vpn-key"),
        "etc/krb5.keytab": (b"\x05\x02" + bytes(20), "kerberos-keytab"),
        "home/a/.vault-token": (b"hvs.x\n", "vault-token"),
        "home/a/minisign.key": (b"untrusted comment: minisign encrypted secret key\nR\n", "signing-key"),
    }


NOT_KEYS = {
    "etc/ssl/certs/ca.pem": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "etc/hostname": b"host\n",
    "srv/app/.env.example": b"DB_PASSWORD=change me\n",
    "srv/app/.env.empty": b"# nothing\n",
    "srv/doc.txt": b"the words BEGIN PRIVATE KEY in a sentence\n",
    "home/a/.npmrc": b"registry=https://example.com\n",
    "srv/node_modules/x/test.key": b"-----BEGIN PRIVATE KEY-----\n",
    "srv/empty.jks": b"",
    "etc/ssl/certs/java/cacerts": b"\xfe\xed\xfe\xed" + bytes(9),
}


def test_real_keys_are_found_by_path_and_content_and_nothing_else(tmp_path: Path) -> None:
    keys = real_keys()
    fill(tmp_path, {path: data for path, (data, _) in keys.items()} | NOT_KEYS)
    report = discover(DiscoverRequest((os.fsencode(tmp_path),)), Context())
    found = {os.path.relpath(os.fsdecode(item.path), tmp_path): item.kind.name for item in report.found}
    assert found == {path: kind for path, (_, kind) in keys.items()}
    assert report.files_seen >= len(keys)


def test_certificates_beside_a_private_key_come_along(tmp_path: Path) -> None:
    certificate = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    fill(tmp_path, {"tls/web.key": pem(), "tls/web.crt": certificate, "tls/readme": b"x", "ca/only.crt": certificate})
    report = discover(DiscoverRequest((os.fsencode(tmp_path),)), Context())
    assert [Path(os.fsdecode(path)).name for path in report.paths] == ["web.crt", "web.key"]


@pytest.mark.program("gpg")
def test_a_gnupg_home_is_found_as_a_whole(tmp_path: Path) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}
    command = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", "test@example.com", "ed25519"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False, capture_output=True)
    report = discover(DiscoverRequest((os.fsencode(tmp_path),)), Context())
    assert [(item.path, item.kind.name) for item in report.found] == [(os.fsencode(home), "gnupg-home")]


def test_keyarks_own_key_is_not_backed_up_with_what_it_opens() -> None:
    line = generate_key_line().reveal()
    assert recognise(b"/srv/backup_master.key", line + b"\n") is None


def test_exposed_keys_are_marked_and_skipped_folders_not_entered(tmp_path: Path) -> None:
    fill(tmp_path, {"open.key": pem(), "closed.key": pem(), "skipped/x.key": pem()})
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "closed.key").chmod(0o600)
    report = discover(DiscoverRequest((os.fsencode(tmp_path),), (os.fsencode(tmp_path / "skipped"),)), Context())
    assert [(Path(os.fsdecode(item.path)).name, item.exposed) for item in report.found] == [
        ("closed.key", False),
        ("open.key", True),
    ]
    with pytest.raises(UsageError):
        discover(DiscoverRequest((b"/nonexistent",)), Context())
