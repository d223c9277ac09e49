"""The kinds of key material that are told apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A format. ``name`` is stable, for programs; ``title`` is for people."""

    name: str
    title: str


SSH = Kind("ssh-private-key", "SSH private key")
PRIVATE_KEY = Kind("private-key", "TLS or other private key")
PGP = Kind("pgp-private-key", "OpenPGP private key")
GNUPG = Kind("gnupg-home", "GnuPG home")
KUBERNETES = Kind("kubernetes-credentials", "Kubernetes credentials")
CLOUD = Kind("cloud-credentials", "Cloud credentials")
SERVICE = Kind("service-credentials", "Service credentials")
ENV = Kind("env-file", ".env file")
KEYSTORE = Kind("keystore", "Keystore")
KEYTAB = Kind("kerberos-keytab", "Kerberos keytab")
AGE = Kind("age-identity", "age identity")
SIGNING = Kind("signing-key", "Signing key (minisign, cosign, DNSSEC, Tor)")
VPN = Kind("vpn-key", "VPN or Wi-Fi key")
VAULT = Kind("vault-token", "Vault token or unseal keys")
ANSIBLE = Kind("ansible-vault", "Ansible vault")
DISK = Kind("disk-key", "Disk or system encryption key")
BACKUP = Kind("backup-key", "Key of another backup program")
ACCOUNTS = Kind("account-hashes", "Password hashes of accounts")
COMPANION = Kind("certificate", "Certificate or public key beside a private one")
