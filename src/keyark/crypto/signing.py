"""Signatures: Ed25519 (RFC 8032), alone or together with ML-DSA-65 (FIPS 204); docs/format.md, section 1."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from keyark.errors import DamagedError, ForgedError
from keyark.secret import Secret

NO_SIGNATURE = 0
ED25519 = 1
HYBRID = 2
_SEED = 32  # bytes, of either key
_LENGTHS = {NO_SIGNATURE: 0, ED25519: 64, HYBRID: 64 + 3309}
_CONTEXT = b"keyark/v1 signature"


def signature_length(scheme: int) -> int:
    """Length of a signature of ``scheme``, bytes."""
    return _LENGTHS[scheme]


def _message(kind: int, repository: bytes, digest: bytes) -> bytes:
    return _CONTEXT + b"\0" + bytes([kind]) + repository + digest


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """The public half of a signer."""

    ed25519: bytes
    mldsa65: bytes | None = None

    def __repr__(self) -> str:
        return f"VerifyKey({self.ed25519[:6].hex()}…, scheme {self.scheme})"

    @property
    def scheme(self) -> int:
        """2 when there is an ML-DSA-65 key: then both signatures must verify."""
        return ED25519 if self.mldsa65 is None else HYBRID

    def verify(self, kind: int, repository: bytes, digest: bytes, signature: bytes) -> None:
        """Verify a signature over an object's digest; ForgedError when any part of it is wrong."""
        if len(signature) != signature_length(self.scheme):
            raise ForgedError("the signature has the wrong length")
        message = _message(kind, repository, digest)
        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature[:64], message)
            if self.mldsa65 is not None:
                MLDSA65PublicKey.from_public_bytes(self.mldsa65).verify(signature[64:], message)
        except (InvalidSignature, ValueError) as e:
            raise ForgedError("the signature is not valid") from e


class SigningKey:
    """The private half of a signer. Never printed: its seeds travel as a Secret only."""

    __slots__ = ("_ed25519", "_mldsa65")

    def __init__(self, ed25519: Ed25519PrivateKey, mldsa65: MLDSA65PrivateKey | None) -> None:
        self._ed25519 = ed25519
        self._mldsa65 = mldsa65

    @classmethod
    def generate(cls, *, post_quantum: bool) -> SigningKey:
        """A new key; with an ML-DSA-65 half when ``post_quantum``."""
        return cls(Ed25519PrivateKey.generate(), MLDSA65PrivateKey.generate() if post_quantum else None)

    @classmethod
    def from_seed(cls, seed: Secret) -> SigningKey:
        """From what `seed` gave: 32 bytes, or 64 with the ML-DSA seed behind."""
        value = seed.reveal()
        if len(value) not in (_SEED, 2 * _SEED):
            raise DamagedError(f"a signing key has {_SEED} or {2 * _SEED} bytes, not {len(value)}")
        lattice = MLDSA65PrivateKey.from_seed_bytes(value[_SEED:]) if len(value) > _SEED else None
        return cls(Ed25519PrivateKey.from_private_bytes(value[:_SEED]), lattice)

    def seed(self) -> Secret:
        """The seeds, Ed25519 first."""
        lattice = b"" if self._mldsa65 is None else self._mldsa65.private_bytes_raw()
        return Secret(self._ed25519.private_bytes_raw() + lattice)

    def public(self) -> VerifyKey:
        lattice = None if self._mldsa65 is None else self._mldsa65.public_key().public_bytes_raw()
        return VerifyKey(self._ed25519.public_key().public_bytes_raw(), lattice)

    @property
    def scheme(self) -> int:
        return ED25519 if self._mldsa65 is None else HYBRID

    def sign(self, kind: int, repository: bytes, digest: bytes) -> bytes:
        """Sign an object's digest, bound to its type and repository."""
        message = _message(kind, repository, digest)
        signature = self._ed25519.sign(message)
        return signature if self._mldsa65 is None else signature + self._mldsa65.sign(message)
