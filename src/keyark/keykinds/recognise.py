"""Recognising key and secret formats: by what a file is called, and by what is in it."""

from __future__ import annotations

import re

from keyark.keykinds.der import recognise_der
from keyark.keykinds.kinds import (
    AGE,
    ANSIBLE,
    BACKUP,
    CLOUD,
    KEYSTORE,
    KEYTAB,
    KUBERNETES,
    PGP,
    PRIVATE_KEY,
    SIGNING,
    SSH,
    VAULT,
    VPN,
    Kind,
)
from keyark.keykinds.names import recognise_name

HEAD = 16 << 10  # bytes of a file that are looked at
TEXT_HEAD = 1 << 20  # bytes of one that starts with PEM: its key may come after a long chain of certificates

# A PEM block whose body is there: text that only speaks of one (a manual, a program, a list of magic numbers) has none.
# Lines may be indented (YAML) or written with \n (JSON).
_END = rb"(?:\s|\\r|\\n|\\\n|[\"'|>+])"
_BODY = _END + rb"+(?:[A-Za-z-]+: [^\n\\]*" + _END + rb"+)*[A-Za-z0-9+/=]{24,}"


def _pem(label: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"-----BEGIN " + label + rb"-----" + _BODY)


_SERVICE_ACCOUNT = rb'"type"\s*:\s*"service_account"'
# What the pattern needs, looked for first since most files hold none of them; the pattern; the kind.
_BY_CONTENT: tuple[tuple[bytes, re.Pattern[bytes], Kind], ...] = (
    (b"OPENSSH PRIVATE KEY", _pem(rb"OPENSSH PRIVATE KEY"), SSH),
    (b"SSH2 ENCRYPTED PRIVATE KEY", re.compile(rb"\A---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"), SSH),
    (b"PGP PRIVATE KEY", _pem(rb"PGP PRIVATE KEY BLOCK"), PGP),
    (b"PRIVATE KEY", _pem(rb"(?:ENCRYPTED )?(?:COSIGN|SIGSTORE) PRIVATE KEY"), SIGNING),
    (b"service_account", re.compile(rb"\A\s*\{(?s:.*)" + _SERVICE_ACCOUNT), CLOUD),
    (b"authorized_user", re.compile(rb'"type"\s*:\s*"authorized_user"'), CLOUD),
    (b"aws_secret_access_key", re.compile(rb"^\s*aws_secret_access_key\s*=\s*\S", re.MULTILINE), CLOUD),
    (b"clientSecret", re.compile(rb'"clientSecret"\s*:\s*"[^"]{8,}"'), CLOUD),
    (b"client-key", re.compile(rb"^\s*client-key(-data)?:\s*\S", re.MULTILINE), KUBERNETES),
    (b"EncryptionConfig", re.compile(rb"^kind:\s*EncryptionConfig(uration)?\s*$", re.MULTILINE), KUBERNETES),
    (b"kind: Secret", re.compile(rb"^kind: Secret\s*$(?s:.*)^(string)?[dD]ata:", re.MULTILINE), KUBERNETES),
    (b"kind: Secret", re.compile(rb"^(string)?[dD]ata:(?s:.*)^kind: Secret\s*$", re.MULTILINE), KUBERNETES),
    (b"PRIVATE KEY", _pem(rb"(?:[A-Z0-9]+ )*PRIVATE KEY"), PRIVATE_KEY),
    (b'"kty"', re.compile(rb'\A\s*[{\[](?s:.*)"(?:d|k)"\s*:\s*"[A-Za-z0-9_-]{20,}"'), PRIVATE_KEY),  # JWK, RFC 7517
    (b"secret key", re.compile(rb"^untrusted comment: .*secret key", re.MULTILINE), SIGNING),
    (b"Private-key-format", re.compile(rb"\APrivate-key-format: v1"), SIGNING),
    (b"ed25519v1-secret", re.compile(rb"\A== ed25519v1-secret"), SIGNING),
    (b"secret", re.compile(rb'^\s*secret\s+"[A-Za-z0-9+/=]{16,}"\s*;', re.MULTILINE), SIGNING),  # TSIG keys of BIND
    (b"PuTTY-User-Key-File", re.compile(rb"\APuTTY-User-Key-File-\d"), SSH),
    (b"AGE-SECRET-KEY", re.compile(rb"^AGE-SECRET-KEY-(PQ-)?1[A-Z0-9]{20,}", re.MULTILINE), AGE),
    (b"AGE-PLUGIN-", re.compile(rb"^AGE-PLUGIN-[A-Z0-9-]+-1[A-Z0-9]+", re.MULTILINE), AGE),
    (b"PrivateKey", re.compile(rb"^\s*PrivateKey\s*=\s*[A-Za-z0-9+/]{43}=", re.MULTILINE), VPN),
    (b"OpenVPN Static key", re.compile(rb"-----BEGIN OpenVPN Static key V1-----\s+[0-9a-f]{32}"), VPN),
    (b"$ANSIBLE_VAULT", re.compile(rb"^\s*\$ANSIBLE_VAULT;\d\.\d;AES", re.MULTILINE), ANSIBLE),
    (b"unseal_keys", re.compile(rb'"unseal_keys_(b64|hex)"|^unseal_keys_', re.MULTILINE), VAULT),
    (b"Unseal Key 1:", re.compile(rb"^Unseal Key 1: \S", re.MULTILINE), VAULT),
    (b"BORG_KEY", re.compile(rb"\ABORG_KEY [0-9a-f]{64}"), BACKUP),
    (b"[client.", re.compile(rb"^\s*key\s*=\s*[A-Za-z0-9+/]{38}==", re.MULTILINE), CLOUD),  # Ceph
    (b"ciphertext", re.compile(rb'\A\s*\{(?s:.*)"crypto"(?s:.*)"ciphertext"(?s:.*)"kdf"', re.IGNORECASE), KEYSTORE),  # Ethereum
)  # fmt: skip
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\xfe\xed\xfe\xed", KEYSTORE),  # JKS
    (b"\xce\xce\xce\xce", KEYSTORE),  # JCEKS
    (b"\x03\xd9\xa2\x9a", KEYSTORE),  # KeePass
    (b"KWALLET\n", KEYSTORE),
)
_PKCS12_NAME = re.compile(rb"\.(p12|pfx|pkcs12)$", re.IGNORECASE)
# An OpenPGP secret-key packet (tag 5, RFC 9580), version 3 to 6, in a file that is called like one.
_PGP_NAME = re.compile(rb"\.(gpg|pgp|key|sec)$", re.IGNORECASE)
_PGP_PACKET = re.compile(rb"(?:\x94.|\x95..|\xc5(?:[\x00-\xbf]|[\xc0-\xdf].|\xff....))[\x03-\x06]", re.DOTALL)
_KEYTAB = re.compile(rb"\x05\x02\x00\x00[\x00-\x0f].\x00[\x01-\x0a]", re.DOTALL)
_OWN = re.compile(rb"^KEYARK-(KEY|CREDENTIAL)-1-|\AKEYARK\x01", re.MULTILINE)
_PUBLIC = re.compile(
    rb"-----BEGIN (TRUSTED )?CERTIFICATE( REQUEST)?-----|-----BEGIN PUBLIC KEY-----|^(ssh|ecdsa|sk)-[a-z0-9@.-]+ AAAA",
    re.MULTILINE,
)


def recognise(path: bytes, head: bytes, size: int | None = None) -> Kind | None:
    """The kind of a file from its absolute path, its first bytes and its size; None when it is no key material.

    Keyark's own keys and credentials are none: a backup's key does not belong into the backup. Nor are trust stores.
    """
    if path.endswith(b"/cacerts") or (b"KEYARK" in head[:4096] and _OWN.search(head[:4096])):
        return None
    kind = recognise_name(path, head)
    if kind is not None:
        return kind
    return _recognise_binary(path, head, len(head) if size is None else size) or _recognise_text(path, head)


def _recognise_binary(path: bytes, head: bytes, size: int) -> Kind | None:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _PKCS12_NAME.search(path) and head[:1] == b"\x30":
        return KEYSTORE
    if _PGP_NAME.search(path) and _PGP_PACKET.match(head):
        return PGP
    if _KEYTAB.match(head):
        return KEYTAB
    return recognise_der(head, size)


def _recognise_text(path: bytes, head: bytes) -> Kind | None:
    for marker, pattern, kind in _BY_CONTENT:
        if marker in head and pattern.search(head):
            return SSH if kind is PRIVATE_KEY and b"/.ssh/" in path else kind
    return None


def is_companion(path: bytes, head: bytes) -> bool:
    """Whether a file is public but belongs to a private key beside it: a certificate, a public key."""
    if path.endswith(b".pub"):
        return True
    return (b"-----BEGIN " in head or b" AAAA" in head) and _PUBLIC.search(head) is not None
