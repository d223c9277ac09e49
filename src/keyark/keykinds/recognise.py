"""Recognising key and secret formats: by what a file is called, and by what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 16 << 10  # bytes of a file that are looked at


@dataclass(frozen=True, slots=True)
class Kind:
    """A format. ``name`` is stable, for programs; ``title`` is for people."""

    name: str
    title: str


SSH = Kind("ssh-private-key", "SSH private key")
PRIVATE_KEY = Kind("private-key", "TLS or other private key")
PGP = Kind("pgp-private-key", "OpenPGP private key")
GNUPG = Kind("gnupg-home", "GnuPG home")
KUBECONFIG = Kind("kubernetes-credentials", "Kubernetes credentials")
CLOUD = Kind("cloud-credentials", "Cloud credentials")
SERVICE = Kind("service-credentials", "Service credentials")
ENV = Kind("env-file", ".env file")
KEYSTORE = Kind("keystore", "Keystore")
KEYTAB = Kind("kerberos-keytab", "Kerberos keytab")
AGE = Kind("age-identity", "age identity")
SIGNING = Kind("signing-key", "Signing key (minisign, cosign, DNSSEC, Tor)")
VPN = Kind("vpn-key", "VPN key")
VAULT = Kind("vault-token", "Vault token")
COMPANION = Kind("certificate", "Certificate or public key beside a private one")

# Names that are enough by themselves: the end of the absolute path -> kind.
_BY_PATH: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"/ssh_host_[a-z0-9]+_key$"), SSH),
    (re.compile(rb"/\.kube/config$|/etc/kubernetes/[^/]+\.conf$|/etc/rancher/[^/]+/[^/]+\.yaml$"), KUBECONFIG),
    (re.compile(rb"/\.aws/(credentials|config)$"), CLOUD),
    (
        re.compile(
            rb"/\.azure/(accessTokens\.json|msal_token_cache\.(json|bin)|azureProfile\.json|service_principal_entries\.(json|bin))$"
        ),
        CLOUD,
    ),
    (
        re.compile(
            rb"/gcloud/(application_default_credentials\.json|credentials\.db|access_tokens\.db|legacy_credentials/.+\.json)$"
        ),
        CLOUD,
    ),
    (
        re.compile(
            rb"/\.oci/config$|/\.config/(doctl/config\.yaml|hcloud/cli\.toml|rclone/rclone\.conf)$|/\.boto$|/\.s3cfg$"
        ),
        CLOUD,
    ),
    (re.compile(rb"/\.(netrc|pgpass|my\.cnf|git-credentials|pypirc|npmrc|terraformrc)$"), SERVICE),
    (
        re.compile(rb"/\.docker/config\.json$|/\.terraform\.d/credentials\.tfrc\.json$|/\.cargo/credentials(\.toml)?$"),
        SERVICE,
    ),
    (re.compile(rb"/\.vault-token$"), VAULT),
    (re.compile(rb"\.keytab$"), KEYTAB),
    (re.compile(rb"\.(jks|jceks|keystore|bks|kdbx|ppk)$"), KEYSTORE),
)
# These names count only with something in them that looks like a secret.
_NEEDS_SECRET = frozenset({SERVICE})
_SECRET_WORDS = re.compile(rb"auth|token|password|passwd|secret|://[^/\s:]+:[^@\s]+@", re.IGNORECASE)
_PGPASS = re.compile(rb"^[^#:\n]+:[^:\n]*:[^:\n]*:[^:\n]*:.+$", re.MULTILINE)

_ENV_NAME = re.compile(rb"/\.env(\.[A-Za-z0-9_-]+)*$")
_ENV_TEMPLATE = re.compile(rb"\.(example|sample|template|dist)$")
_ENV_LINE = re.compile(rb"^\s*(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*\S", re.MULTILINE)

_BY_CONTENT: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"-----BEGIN OPENSSH PRIVATE KEY-----"), SSH),
    (re.compile(rb"-----BEGIN PGP PRIVATE KEY BLOCK-----"), PGP),
    (
        re.compile(
            rb"-----BEGIN (ENCRYPTED )?(COSIGN|SIGSTORE) PRIVATE KEY-----"
            rb"|^untrusted comment: (minisign|signify) (encrypted )?secret key|^Private-key-format: v1|^== ed25519v1-secret",
            re.MULTILINE,
        ),
        SIGNING,
    ),
    (re.compile(rb"^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----", re.MULTILINE), PRIVATE_KEY),
    (re.compile(rb"^PuTTY-User-Key-File-\d", re.MULTILINE), SSH),
    (re.compile(rb"^AGE-SECRET-KEY-(PQ-)?1[A-Z0-9]+", re.MULTILINE), AGE),
    (re.compile(rb"^\s*PrivateKey\s*=\s*[A-Za-z0-9+/]{43}=", re.MULTILINE), VPN),
    (re.compile(rb"-----BEGIN OpenVPN Static key V1-----"), VPN),
    (
        re.compile(
            rb'"type"\s*:\s*"service_account"(?s:.*)"private_key"|"private_key"(?s:.*)"type"\s*:\s*"service_account"'
        ),
        CLOUD,
    ),
    (re.compile(rb"^kind:\s*EncryptionConfig(uration)?\s*$|client-key-data:\s*\S", re.MULTILINE), KUBECONFIG),
)
# What every content pattern needs; looked for first, since most files hold none of them.
_MARKERS = (
    b"PRIVATE KEY",
    b"secret key",
    b"Private-key-format",
    b"ed25519v1-secret",
    b"PuTTY-User-Key-File",
    b"AGE-SECRET-KEY",
    b"PrivateKey",
    b"OpenVPN Static key",
    b"private_key",
    b"EncryptionConfig",
    b"client-key-data",
)
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\xfe\xed\xfe\xed", KEYSTORE),  # JKS
    (b"\xce\xce\xce\xce", KEYSTORE),  # JCEKS
    (b"\x03\xd9\xa2\x9a", KEYSTORE),  # KeePass
)
_PKCS12 = re.compile(rb"\.(p12|pfx|pkcs12)$", re.IGNORECASE)
_DER_NAME = re.compile(rb"\.(der|pk8|p8|key)$", re.IGNORECASE)
# DER of PKCS #8, PKCS #1 and SEC 1 private keys: SEQUENCE { INTEGER 0 or 1, ...
_DER_KEY = re.compile(rb"\x30(?:\x82..|\x81.|[\x00-\x7f])\x02\x01[\x00\x01](?:\x30|\x02|\x04)", re.DOTALL)
_OWN = re.compile(rb"^KEYARK-(KEY|CREDENTIAL)-1-|\AKEYARK\x01", re.MULTILINE)
_PUBLIC = re.compile(
    rb"-----BEGIN (TRUSTED )?CERTIFICATE( REQUEST)?-----|-----BEGIN PUBLIC KEY-----|^(ssh|ecdsa|sk)-[a-z0-9@.-]+ AAAA",
    re.MULTILINE,
)


def recognise(path: bytes, head: bytes) -> Kind | None:
    """The kind of a file from its absolute path and its first bytes (`HEAD` of them); None when it is no key material.

    Keyark's own keys and credentials are none: a backup's key does not belong into the backup.
    """
    if (b"KEYARK" in head[:4096]) and _OWN.search(head[:4096]):
        return None
    for pattern, kind in _BY_PATH:
        if pattern.search(path):
            if kind not in _NEEDS_SECRET or _SECRET_WORDS.search(head) or _PGPASS.search(head):
                return kind if head else None
            return None
    if _ENV_NAME.search(path):
        return ENV if not _ENV_TEMPLATE.search(path) and _ENV_LINE.search(head) else None
    for magic, kind in _MAGIC:
        if path.endswith(b"/cacerts"):
            return None  # the trust store of a Java runtime: certificates only
        if head.startswith(magic):
            return kind
    if _PKCS12.search(path) and head[:1] == b"\x30":
        return KEYSTORE
    if _DER_NAME.search(path) and _DER_KEY.match(head):
        return PRIVATE_KEY
    if not any(marker in head for marker in _MARKERS):
        return None
    for pattern, kind in _BY_CONTENT:
        if pattern.search(head):
            return SSH if kind is PRIVATE_KEY and b"/.ssh/" in path else kind
    return None


def is_companion(path: bytes, head: bytes) -> bool:
    """Whether a file is public but belongs to a private key beside it: a certificate, a public key."""
    if path.endswith(b".pub"):
        return True
    return (b"-----BEGIN " in head or b" AAAA" in head) and _PUBLIC.search(head) is not None
