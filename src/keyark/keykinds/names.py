"""Files that are key material by their name and place alone, or by their name and a word in them."""

from __future__ import annotations

import re

from keyark.keykinds.kinds import (
    ACCOUNTS,
    BACKUP,
    CLOUD,
    DISK,
    ENV,
    KEYSTORE,
    KEYTAB,
    KUBERNETES,
    PGP,
    SERVICE,
    SSH,
    VAULT,
    VPN,
    Kind,
)


def _any(*patterns: str) -> re.Pattern[bytes]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode())


# Matched against the end of the absolute path.
BY_PATH: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (_any(r"/ssh_host_[a-z0-9]+_key$"), SSH),
    (_any(r"/\.kube/config$", r"/etc/kubernetes/[^/]+\.conf$", r"/etc/rancher/[^/]+/[^/]+\.yaml$"), KUBERNETES),
    (
        _any(
            r"/\.aws/credentials$",
            r"/\.azure/(accessTokens\.json|msal_token_cache\.(json|bin)|azureProfile\.json)$",
            r"/\.azure/service_principal_entries\.(json|bin)$",
            r"/gcloud/(application_default_credentials\.json|credentials\.db|access_tokens\.db)$",
            r"/gcloud/legacy_credentials/.+\.json$",
            r"/\.oci/config$",
            r"/\.config/(doctl/config\.yaml|hcloud/cli\.toml|rclone/rclone\.conf|openstack/(clouds|secure)\.yaml)$",
            r"/\.boto$",
            r"/\.s3cfg$",
            r"\.tfstate$",
        ),
        CLOUD,
    ),
    (_any(r"/\.vault-token$"), VAULT),
    (_any(r"[./]keytab$", r"/krb5kdc/(principal|stash|\.k5\..+)$"), KEYTAB),
    (
        _any(
            r"\.(jks|jceks|bks|uber|bcfks|kdbx?|ppk|kwl)$",
            r"\.keystore$",
            r"/keyrings/[^/]+\.keyring$",
            r"/key[34]\.db$",
            r"/softhsm/tokens/.+\.object$",
            r"/wallet\.dat$",
        ),
        KEYSTORE,
    ),
    (_any(r"/\.password-store/.+\.gpg$"), PGP),
    (
        _any(
            r"/etc/NetworkManager/system-connections/[^/]+$",
            r"/var/lib/NetworkManager/secret_key$",
            r"/etc/ppp/(chap|pap)-secrets$",
            r"/(ipsec|swanctl)\.secrets$",
            r"/etc/wireguard/[^/]*(key|priv)[^/]*$",
        ),
        VPN,
    ),
    (
        _any(
            r"/etc/(cryptsetup-keys\.d|luks-keys|keys|zfs/keys)/[^/]+$",
            r"/var/lib/systemd/credential\.secret$",
            r"/etc/credstore(\.encrypted)?/[^/]+$",
        ),
        DISK,
    ),
    (_any(r"/\.config/borg/keys/[^/]+$"), BACKUP),
    (_any(r"^/etc/g?shadow$"), ACCOUNTS),
)
# These count only with something in them that looks like a secret.
WITH_A_SECRET: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (
        _any(
            r"/(\.|_)netrc$",
            r"/\.(pgpass|my\.cnf|mylogin\.cnf|git-credentials|pypirc|npmrc|yarnrc\.yml|terraformrc|msmtprc|htpasswd)$",
            r"/\.docker/config\.json$",
            r"/\.dockercfg$",
            r"/containers/auth\.json$",
            r"/\.terraform\.d/credentials\.tfrc\.json$",
            r"/\.cargo/credentials(\.toml)?$",
            r"/\.gem/credentials$",
            r"/\.composer/auth\.json$",
            r"/\.config/(gh/hosts\.yml|glab-cli/config\.yml|hub)$",
            r"/etc/mysql/debian\.cnf$",
            r"/etc/postfix/sasl_passwd$",
            r"/etc/exim4/passwd\.client$",
        ),
        SERVICE,
    ),
    (_any(r"/wpa_supplicant[^/]*\.conf$"), VPN),
    (_any(r"/etc/vault(\.d)?/[^/]+\.(hcl|json)$"), VAULT),
    (_any(r"/\.aws/config$"), CLOUD),
)
SECRET = re.compile(rb"auth|token|password|passwd|psk=|secret|://[^/\s:]+:[^@\s]+@", re.IGNORECASE)
PGPASS = re.compile(rb"^[^#:\n]+:[^:\n]*:[^:\n]*:[^:\n]*:.+$", re.MULTILINE)
HTPASSWD = re.compile(rb"^[^:\s]+:(\$|\{)", re.MULTILINE)

_ENV_NAME = _any(r"/\.env(\.[A-Za-z0-9_-]+)*$", r"/\.envrc$")
_ENV_OTHER = _any(r"/[A-Za-z0-9_.-]+\.env$")  # production.env: only with a secret's name in it
_ENV_TEMPLATE = re.compile(rb"\.(example|sample|template|dist|defaults?)(\.env)?$|/(example|sample|template)\.env$")
_ENV_LINE = re.compile(rb"^\s*(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=\s*\S", re.MULTILINE)
_ENV_SECRET = re.compile(
    rb"^\s*(export\s+)?[A-Z0-9_]*(SECRET|TOKEN|PASSWORD|PASSWD|_KEY)[A-Z0-9_]*\s*=\s*\S", re.MULTILINE
)


def recognise_name(path: bytes, head: bytes) -> Kind | None:
    """The kind that a file's absolute path gives away; where that is not enough, together with its first bytes."""
    for pattern, kind in BY_PATH:
        if pattern.search(path):
            return kind if head else None
    for pattern, kind in WITH_A_SECRET:
        if pattern.search(path):
            return kind if SECRET.search(head) or PGPASS.search(head) or HTPASSWD.search(head) else None
    if _ENV_TEMPLATE.search(path):
        return None
    if _ENV_NAME.search(path):
        return ENV if _ENV_LINE.search(head) else None
    return ENV if _ENV_OTHER.search(path) and _ENV_SECRET.search(head) else None
