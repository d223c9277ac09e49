"""Sealing to public keys: HPKE (RFC 9180), base mode, single shot (docs/format.md, section 2)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyark.crypto.kdf import lp
from keyark.errors import DamagedError
from keyark.secret import Secret

_SEED = 64  # bytes of an ML-KEM seed, FIPS 203 d || z


class Kem(IntEnum):
    """Numbers of the key encapsulation methods."""

    MLKEM768_X25519 = 1
    MLKEM1024_P384 = 2


_PUBLIC_LENGTH = {Kem.MLKEM768_X25519: 1184 + 32, Kem.MLKEM1024_P384: 1568 + 97}
_PRIVATE_LENGTH = {Kem.MLKEM768_X25519: _SEED + 32, Kem.MLKEM1024_P384: _SEED + 48}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A recipient's public key in the encoding of docs/format.md, section 2."""

    kem: Kem
    data: bytes

    def __repr__(self) -> str:
        return f"PublicKey({self.kem.name}, {self.data[:6].hex()}…)"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A recipient's private key in the encoding of docs/format.md, section 2."""

    kem: Kem
    data: Secret

    def public(self) -> PublicKey:
        """The public half. DamagedError when this one is malformed."""
        return PublicKey(self.kem, _parse_private(self.kem, self.data.reveal()).public)


@functools.lru_cache(maxsize=1)
def _suites() -> dict[Kem, hpke.Suite]:
    return {
        Kem.MLKEM768_X25519: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
        Kem.MLKEM1024_P384: hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
    }


@functools.lru_cache(maxsize=64)
def _parse_public(kem: Kem, data: bytes) -> Any:
    if len(data) != _PUBLIC_LENGTH[kem]:
        raise DamagedError(f"a public key of {kem.name} has {_PUBLIC_LENGTH[kem]} bytes, not {len(data)}")
    try:
        if kem is Kem.MLKEM768_X25519:
            lattice = mlkem.MLKEM768PublicKey.from_public_bytes(data[:1184])
            return hpke.MLKEM768X25519PublicKey(lattice, X25519PublicKey.from_public_bytes(data[1184:]))
        return hpke.MLKEM1024P384PublicKey(
            mlkem.MLKEM1024PublicKey.from_public_bytes(data[:1568]),
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), data[1568:]),
        )
    except ValueError as e:
        raise DamagedError(f"a public key of {kem.name} is malformed: {e}") from e


@dataclass(frozen=True, slots=True)
class _Parsed:
    hybrid: Any
    public: bytes


def _halves(kem: Kem, data: bytes) -> _Parsed:
    if kem is Kem.MLKEM768_X25519:
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(data[:_SEED])
        x25519 = X25519PrivateKey.from_private_bytes(data[_SEED:])
        return _Parsed(
            hpke.MLKEM768X25519PrivateKey(lattice, x25519),
            lattice.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw(),
        )
    larger = mlkem.MLKEM1024PrivateKey.from_seed_bytes(data[:_SEED])
    p384 = ec.derive_private_key(int.from_bytes(data[_SEED:], "big"), ec.SECP384R1())
    point = p384.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return _Parsed(hpke.MLKEM1024P384PrivateKey(larger, p384), larger.public_key().public_bytes_raw() + point)


@functools.lru_cache(maxsize=64)
def _parse_private(kem: Kem, data: bytes) -> _Parsed:
    if len(data) != _PRIVATE_LENGTH[kem]:
        raise DamagedError(f"a private key of {kem.name} has {_PRIVATE_LENGTH[kem]} bytes, not {len(data)}")
    try:
        return _halves(kem, data)
    except ValueError as e:
        raise DamagedError(f"a private key of {kem.name} is malformed") from e


def generate(kem: Kem) -> PrivateKey:
    """A new private key."""
    if kem is Kem.MLKEM768_X25519:
        seed = mlkem.MLKEM768PrivateKey.generate().private_bytes_raw()
        return PrivateKey(kem, Secret(seed + X25519PrivateKey.generate().private_bytes_raw()))
    scalar = ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value
    return PrivateKey(
        kem, Secret(mlkem.MLKEM1024PrivateKey.generate().private_bytes_raw() + scalar.to_bytes(48, "big"))
    )


def hpke_info(repository: bytes, compartment: bytes, context: bytes, suite: int, kem: int, kind: str) -> bytes:
    """The HPKE ``info`` that binds a ciphertext to its place; every part is length-prefixed."""
    return b"".join(
        lp(part)
        for part in (
            b"keyark/v1",
            repository,
            compartment,
            context,
            suite.to_bytes(2, "big"),
            bytes([kem]),
            kind.encode(),
        )
    )


def seal_to(public: PublicKey, plaintext: bytes, info: bytes) -> bytes:
    """Seal to a public key: encapsulated key, then ciphertext. DamagedError when the key is malformed or of low order."""
    parsed = _parse_public(public.kem, public.data)
    try:
        return _suites()[public.kem].encrypt(plaintext, parsed, info=info)
    except ValueError as e:
        raise DamagedError(f"nothing can be sealed to this public key of {public.kem.name}: {e}") from e


def open_sealed(private: PrivateKey, ciphertext: bytes, info: bytes) -> bytes:
    """Open what `seal_to` sealed; DamagedError when it is not for this key and ``info``."""
    parsed = _parse_private(private.kem, private.data.reveal())
    try:
        return _suites()[private.kem].decrypt(ciphertext, parsed.hybrid, info=info)
    except (InvalidTag, ValueError) as e:
        raise DamagedError("cannot be opened: it is damaged, or was sealed for another key or place") from e


def parsed_public(public: PublicKey) -> Any:
    """The key object of `cryptography`, for another HPKE suite (age's) over the same keys."""
    return _parse_public(public.kem, public.data)


def parsed_private(private: PrivateKey) -> Any:
    """The key object of `cryptography`, for another HPKE suite (age's) over the same keys."""
    return _parse_private(private.kem, private.data.reveal()).hybrid
