"""Finding key material by path and by content."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from keyark.crypto.slots import generate_key_line
from keyark.errors import UsageError
from keyark.keykinds.discover import DiscoverRequest, discover
from keyark.keykinds.noise import kernel_mounts
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
        "home/a/age.txt": (b"# created\nAGE-SECRET-KEY-1" + b"Q" * 58 + b"\n", "age-identity"),
        "etc/wireguard/wg0.conf": (b"[Interface]\nPrivateKey = " + b"A" * 43 + b"=\n", "vpn-key"),
        "etc/krb5.keytab": (b"\x05\x02" + bytes(20), "kerberos-keytab"),
        "home/a/.vault-token": (b"hvs.x\n", "vault-token"),
        "home/a/minisign.key": (b"untrusted comment: minisign encrypted secret key\nR\n", "signing-key"),
        "srv/no-extension": (pem(encoding=Encoding.DER), "private-key"),
        "srv/encrypted.bin": (
            pem(encoding=Encoding.DER, encryption_algorithm=BestAvailableEncryption(b"pw")),
            "private-key",
        ),
        "srv/unnamed-store": (p12, "keystore"),
        "srv/haproxy.pem": (CERTIFICATE * 700 + pem(), "private-key"),
        "srv/terraform.json": (b'{"private_key_pem": ' + json.dumps(pem().decode()).encode() + b"}", "private-key"),
        "etc/cert-manager.yaml": (b"tls.key: |\n  " + pem().replace(b"\n", b"\n  "), "private-key"),
        "etc/letsencrypt/accounts/x/private_key.json": (
            b'{"kty": "RSA", "n": "x", "d": "' + b"A" * 40 + b'"}',
            "private-key",
        ),
        "srv/secret.yaml": (b"apiVersion: v1\nkind: Secret\ndata:\n  x: eA==\n", "kubernetes-credentials"),
        "srv/vars.yml": (b"$ANSIBLE_VAULT;1.1;AES256\n3030\n", "ansible-vault"),
        "root/init.txt": (b"Unseal Key 1: AAAA\n", "vault-token"),
        "srv/init.json": (b'{"unseal_keys_b64": ["x"]}', "vault-token"),
        "etc/NetworkManager/system-connections/home.nmconnection": (b"[wifi-security]\npsk=x\n", "vpn-key"),
        "etc/wireguard/private.key": (b"A" * 43 + b"=\n", "vpn-key"),
        "etc/bind/rndc.key": (b'key "rndc" {\n\tsecret "AAAAAAAAAAAAAAAAAAAAAA==";\n};\n', "signing-key"),
        "home/a/.config/gh/hosts.yml": (b"oauth_token: x\n", "service-credentials"),
        "home/a/.npmrc": (b"//registry/:_authToken=x\n", "service-credentials"),
        "home/a/.docker/config.json": (b'{"auths": {"x": {"auth": "eA=="}}}', "service-credentials"),
        "srv/deploy/production.env": (b"API_TOKEN=x\n", "env-file"),
        "home/a/adc.json": (b'{"type": "authorized_user", "refresh_token": "x"}', "cloud-credentials"),
        "home/a/backup.borgkey": (b"BORG_KEY " + b"0" * 64 + b"\nhq\n", "backup-key"),
        "etc/cryptsetup-keys.d/data.key": (os.urandom(64), "disk-key"),
        "home/a/.password-store/bank.gpg": (b"\x85\x01", "pgp-private-key"),
    }


CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


NOT_KEYS = {
    "etc/ssl/certs/ca.pem": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "etc/hostname": b"host\n",
    "srv/app/.env.example": b"DB_PASSWORD=change me\n",
    "srv/app/.env.empty": b"# nothing\n",
    "srv/doc.txt": b"the words BEGIN PRIVATE KEY in a sentence\n",
    "home/b/.npmrc": b"registry=https://example.com\n",
    "srv/magic": b"0 string -----BEGIN PGP PRIVATE KEY BLOCK- OpenPGP\n",
    "srv/program.py": b'HEADER = b"-----BEGIN OPENSSH PRIVATE KEY-----"\nrequired = True\n',
    "srv/manual.txt": b"It starts with\n-----BEGIN RSA PRIVATE KEY-----\nand then the body.\n",
    "srv/public.der": ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "srv/app.env": b"PORT=80\n",
    "srv/cut.der": b"\x30\x82\x04\xa4\x02\x01\x00\x02\x82\x01\x01\x00" + bytes(30),
    "srv/project/.git/HEAD": b"ref: refs/heads/main\n",
    "srv/project/tests/certs/server.key": pem(),
    "usr/share/doc/examples/x.key": b"",
    "srv/cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55",
    "srv/cache/x.key": b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64 + b"\n",
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
    fill(tmp_path, {"tls/web.key": pem(), "tls/web.crt": CERTIFICATE, "tls/readme": b"x", "ca/only.crt": CERTIFICATE})
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


def holds_private_key(data: bytes) -> bool:
    """By the parsers of another project; an encrypted key is one too."""
    for load in (load_pem_private_key, load_der_private_key, load_ssh_private_key):
        try:
            load(data, None)  # type: ignore[operator]
            return True
        except TypeError:  # a password is needed
            return True
        except Exception:
            continue
    return False


def test_no_private_key_of_the_vectors_is_missed(tmp_path: Path) -> None:
    vectors = Path(str(importlib.import_module("cryptography_vectors").__file__)).parent
    shutil.copytree(vectors, tmp_path / "host", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys = {
            path
            for path in (tmp_path / "host").rglob("*")
            if path.is_file() and (path.suffix == ".p12" or holds_private_key(path.read_bytes()))
        }
    assert len(keys) > 500
    report = discover(DiscoverRequest((os.fsencode(tmp_path),)), Context())
    found = {Path(os.fsdecode(item.path)) for item in report.found if item.kind.name != "certificate"}
    assert keys - found == set()
    # What is found beyond them are keys that are damaged or of curves that nobody implements: hardly one file in a hundred.
    assert len(found - keys) < 40


COMMANDS = {
    "ssh-keygen": [
        ("-q -t ed25519 -N= -f {}", "ssh-private-key"),
        ("-q -t rsa -b 2048 -m PEM -N secret -f {}", "private-key"),
        ("-q -t ecdsa -m PKCS8 -N secret -f {}", "private-key"),
    ],
    "openssl": [
        ("genpkey -algorithm X25519 -out {}", "private-key"),
        ("genpkey -algorithm ED448 -outform DER -out {}", "private-key"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -aes256 -pass pass:x -out {}", "private-key"),
        ("ecparam -name secp256k1 -genkey -out {}", "private-key"),
        ("genrsa -traditional -aes128 -passout pass:x -out {} 2048", "private-key"),
    ],
    "keytool": [
        (
            f"-genkeypair -alias a -keyalg EC -dname CN=a -storepass secret -keypass secret -storetype {kind} -keystore {{}}",
            "keystore",
        )
        for kind in ("JKS", "JCEKS", "PKCS12")
    ],
    "age-keygen": [("-o {}", "age-identity")],
}


@pytest.mark.parametrize("program", [pytest.param(name, marks=pytest.mark.program(name)) for name in COMMANDS])
def test_keys_of_the_usual_tools_are_recognised_whatever_they_are_called(tmp_path: Path, program: str) -> None:
    for number, (command, kind) in enumerate(COMMANDS[program]):
        path = tmp_path / f"file{number}"
        words = ["" if word == "-N=" else word.format(path) for word in command.replace("-N=", "-N -N=").split()]
        subprocess.run([program, *words], check=True, capture_output=True)
        data = path.read_bytes()
        assert recognise(os.fsencode(path), data) is not None, command
        assert recognise(os.fsencode(path), data).name == kind, command  # type: ignore[union-attr]


@pytest.mark.program("gpg")
def test_an_exported_binary_openpgp_key_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(tmp_path / "home")}
    for arguments in (
        ["--quick-generate-key", "a@example.com", "rsa2048"],
        ["-o", f"{tmp_path}/secret.gpg", "--export-secret-keys"],
    ):
        subprocess.run(
            ["gpg", "--batch", "--passphrase", "", *arguments], env=environment, check=True, capture_output=True
        )
    subprocess.run(
        ["gpg", "--batch", "-o", f"{tmp_path}/public.gpg", "--export"], env=environment, check=True, capture_output=True
    )
    subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False, capture_output=True)
    for name, kind in (("secret", "pgp-private-key"), ("public", None)):
        path = tmp_path / f"{name}.gpg"
        found = recognise(os.fsencode(path), path.read_bytes())
        assert (found and found.name) == kind


def test_kernel_file_systems_caches_and_software_are_left_out_and_said(tmp_path: Path) -> None:
    fill(tmp_path, NOT_KEYS)
    report = discover(DiscoverRequest((os.fsencode(tmp_path),)), Context())
    left_out = {os.path.relpath(os.fsdecode(path), tmp_path) for path in report.left_out}
    assert left_out >= {"srv/node_modules", "srv/project/tests", "srv/cache"}
    assert b"/proc" in kernel_mounts()
    named = discover(DiscoverRequest((os.fsencode(tmp_path / "srv/project/tests"),)), Context())
    assert len(named.found) == 1, "a folder that was named is searched whatever it is called"


def test_a_folder_called_test_outside_of_software_is_searched(tmp_path: Path) -> None:
    fill(tmp_path, {"srv/test/server.key": pem(), "etc/ssl/tests/ca.key": pem()})
    assert len(discover(DiscoverRequest((os.fsencode(tmp_path),)), Context()).found) == 2


def test_a_large_or_strange_file_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "huge.key").open("wb") as file:
        file.write(b"-----BEGIN PRIVATE KEY-----\n")
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "fifo.key")
    (tmp_path / "link.key").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert discover(DiscoverRequest((os.fsencode(tmp_path),)), Context()).found == ()
