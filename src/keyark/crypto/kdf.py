"""Key derivation: HKDF for strong keys, Argon2id, scrypt and PBKDF2 for passphrases (docs/format.md, section 4)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keyark.errors import DamagedError, UsageError
from keyark.secret import Secret

SALT_LENGTH = 32  # bytes
FIPS_KDF = "pbkdf2-sha256"  # NIST SP 800-132; the only approved one here
OWASP_PBKDF2_ITERATIONS = 600_000  # OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256
_KEY_LENGTH = 32  # bytes
_GIB = 1 << 30

_HASHES = {"sha256": hashes.SHA256, "sha384": hashes.SHA384}


def lp(value: bytes) -> bytes:
    """Length-prefixed: two bytes of length, then the value."""
    return len(value).to_bytes(2, "big") + value


def hkdf(key: bytes, *, salt: bytes | None, info: bytes, length: int, algorithm: str = "sha256") -> bytes:
    """HKDF (RFC 5869)."""
    return HKDF(algorithm=_HASHES[algorithm](), length=length, salt=salt, info=info).derive(key)


# Every parameter with its smallest and largest accepted value. The caps hold before anything is run, so that a hostile
# repository cannot make a client spend its memory or its day.
_LIMITS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "argon2id": {"memory_kib": (8, _GIB >> 10), "iterations": (1, 64), "lanes": (1, 16)},
    "scrypt": {"n": (2, 1 << 20), "r": (1, 32), "p": (1, 16)},
    "pbkdf2-sha256": {"iterations": (1, 10_000_000)},
}


@dataclass(frozen=True, slots=True)
class KdfParams:
    """A passphrase KDF with its salt and costs."""

    name: str
    salt: bytes
    costs: Mapping[str, int]

    def __post_init__(self) -> None:
        limits = _LIMITS.get(self.name)
        if limits is None:
            raise DamagedError(f"key derivation {self.name!r} is unknown to this version of Keyark")
        if self.costs.keys() != limits.keys():
            raise DamagedError(f"key derivation {self.name} needs {', '.join(limits)}")
        for cost, (low, high) in limits.items():
            value = self.costs[cost]
            if type(value) is not int or not low <= value <= high:
                raise DamagedError(f"key derivation {self.name}: {cost} must be from {low} to {high}, not {value!r}")
        if self.name == "scrypt":
            n, r = self.costs["n"], self.costs["r"]
            if n & (n - 1) or 128 * n * r > _GIB:
                raise DamagedError("key derivation scrypt: n must be a power of two, and 128·n·r at most 1 GiB")
        if self.name == "argon2id" and self.costs["memory_kib"] < 8 * self.costs["lanes"]:
            raise DamagedError("key derivation argon2id: memory must be at least 8 KiB for each lane")
        if len(self.salt) != SALT_LENGTH:
            raise DamagedError(f"key derivation {self.name}: the salt must have {SALT_LENGTH} bytes")

    def to_map(self) -> dict[str, Any]:
        return {"kdf": self.name, "salt": self.salt, **self.costs}

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> KdfParams:
        """Read what `to_map` gave; DamagedError when a field is missing, unknown or over its cap."""
        rest = dict(value)
        name, salt = rest.pop("kdf", None), rest.pop("salt", None)
        if type(name) is not str or type(salt) is not bytes:
            raise DamagedError("key derivation: name or salt is missing")
        return cls(name, salt, rest)

    def derive(self, password: Secret) -> Secret:
        """32 bytes from a passphrase. Takes the time and memory that the costs say."""
        try:
            return Secret(self._kdf().derive(password.reveal()))
        except UnsupportedAlgorithm as e:
            raise UsageError(f"this machine's OpenSSL has no {self.name}; use another key derivation") from e

    def _kdf(self) -> Argon2id | Scrypt | PBKDF2HMAC:
        costs = self.costs
        if self.name == "argon2id":
            return Argon2id(
                salt=self.salt,
                length=_KEY_LENGTH,
                iterations=costs["iterations"],
                lanes=costs["lanes"],
                memory_cost=costs["memory_kib"],
            )
        if self.name == "scrypt":
            return Scrypt(salt=self.salt, length=_KEY_LENGTH, n=costs["n"], r=costs["r"], p=costs["p"])
        return PBKDF2HMAC(hashes.SHA256(), _KEY_LENGTH, self.salt, costs["iterations"])

    def describe(self) -> str:
        """The strength in words, for ``key list``."""
        costs = self.costs
        if self.name == "argon2id":
            return f"Argon2id, {costs['memory_kib'] >> 10} MiB, {costs['iterations']} passes, {costs['lanes']} lanes"
        if self.name == "scrypt":
            return f"scrypt, N={costs['n']}, r={costs['r']}, p={costs['p']}"
        return f"PBKDF2-SHA256, {costs['iterations']:,} iterations"

    def warning(self) -> str | None:
        """What is weak about these costs, or None."""
        if self.name == "pbkdf2-sha256" and self.costs["iterations"] < OWASP_PBKDF2_ITERATIONS:
            return (
                f"{self.costs['iterations']:,} iterations of PBKDF2-SHA256 are fewer than the {OWASP_PBKDF2_ITERATIONS:,} "
                "that the OWASP Password Storage Cheat Sheet asks for; use argon2id, or raise `iterations`"
            )
        return None


def argon2id() -> KdfParams:
    """64 MiB, 3 passes, 4 lanes: the second recommended option of RFC 9106, above OWASP's minimum."""
    costs = {"memory_kib": 64 << 10, "iterations": 3, "lanes": 4}
    return KdfParams("argon2id", secrets.token_bytes(SALT_LENGTH), costs)


def scrypt() -> KdfParams:
    """N=2^17, r=8, p=1: OWASP Password Storage Cheat Sheet."""
    return KdfParams("scrypt", secrets.token_bytes(SALT_LENGTH), {"n": 1 << 17, "r": 8, "p": 1})


def pbkdf2(iterations: int = OWASP_PBKDF2_ITERATIONS) -> KdfParams:
    """PBKDF2-HMAC-SHA256 (RFC 8018) with a given iteration count; UsageError when it is out of range."""
    low, high = _LIMITS["pbkdf2-sha256"]["iterations"]
    if not low <= iterations <= high:
        raise UsageError(f"iterations must be from {low} to {high:,}, not {iterations}")
    return KdfParams("pbkdf2-sha256", secrets.token_bytes(SALT_LENGTH), {"iterations": iterations})


def kdf_by_name(name: str, iterations: int | None = None) -> KdfParams:
    """Parameters for the name that a configuration gives: Argon2id, scrypt or PBKDF2-SHA256."""
    lowered = name.lower()
    if lowered == "argon2id":
        return argon2id()
    if lowered == "scrypt":
        return scrypt()
    if lowered == "pbkdf2-sha256":
        return pbkdf2() if iterations is None else pbkdf2(iterations)
    raise UsageError(f"key derivation {name!r} is unknown; use Argon2id, scrypt or PBKDF2-SHA256")
