"""Symmetric encryption: the suites, nonces of a stream, the symmetric seal, padding (docs/format.md, section 2).

Primitives come from `cryptography` only. A suite is a number in every object, so changing the choice never touches
older data.
"""

from __future__ import annotations

import secrets
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305

from keyark.crypto.kdf import hkdf, lp
from keyark.errors import DamagedError, UsageError

SALT_LENGTH = 32  # bytes, random, of a symmetric seal
NONCE_LENGTH = 12  # bytes
_TAG = 16  # bytes, of every AEAD used here


class Suite(IntEnum):
    """Numbers of the suites in an object's preamble."""

    AES_256_GCM = 1  # NIST SP 800-38D
    CHACHA20_POLY1305 = 2  # RFC 8439
    AES_256_GCM_SIV = 3  # RFC 8452
    CASCADE = 4  # AES-256-GCM, then ChaCha20-Poly1305, with independent keys


_NAMES = {
    Suite.AES_256_GCM: "AES-256-GCM",
    Suite.CHACHA20_POLY1305: "ChaCha20-Poly1305",
    Suite.AES_256_GCM_SIV: "AES-256-GCM-SIV",
    Suite.CASCADE: "multi-layer",
}
FIPS_SUITES = frozenset({Suite.AES_256_GCM})


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


def suite_name(suite: Suite) -> str:
    """The name that configuration and output use."""
    return _NAMES[suite]


def suite_by_name(name: str) -> Suite:
    """Look a suite up by its name, whatever its case; UsageError lists what there is."""
    for suite, known in _NAMES.items():
        if known.lower() == name.lower():
            return suite
    if name.lower() in ("fernet", "rsa"):
        raise UsageError(
            f"algorithm {name!r} seals portable archives only, not a repository; "
            f"use one of {', '.join(_NAMES.values())} here, and `keyark export` for archives"
        )
    raise UsageError(f"algorithm {name!r} is unknown; use one of {', '.join(_NAMES.values())}")


def key_length(suite: Suite) -> int:
    """Length of the suite's key, bytes."""
    return 64 if suite is Suite.CASCADE else 32


def overhead(suite: Suite) -> int:
    """How many bytes longer the ciphertext is than the plaintext."""
    return 2 * _TAG if suite is Suite.CASCADE else _TAG


class Aead:
    """One suite with one key. Safe to use from several threads."""

    __slots__ = ("_layers", "suite")

    def __init__(self, suite: Suite, key: bytes) -> None:
        if len(key) != key_length(suite):
            raise ValueError(f"a key of {suite_name(suite)} has {key_length(suite)} bytes, not {len(key)}")
        self.suite = suite
        self._layers: tuple[_Cipher, ...]
        if suite is Suite.AES_256_GCM:
            self._layers = (AESGCM(key),)
        elif suite is Suite.CHACHA20_POLY1305:
            self._layers = (ChaCha20Poly1305(key),)
        elif suite is Suite.AES_256_GCM_SIV:
            self._layers = (AESGCMSIV(key),)
        else:
            self._layers = (AESGCM(key[:32]), ChaCha20Poly1305(key[32:]))

    def encrypt(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        """Encrypt; the caller never uses a nonce twice with one key."""
        for layer in self._layers:
            data = layer.encrypt(nonce, data, aad)
        return data

    def decrypt(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        """Decrypt; DamagedError when the ciphertext is not what was encrypted under these inputs."""
        try:
            for layer in reversed(self._layers):
                data = layer.decrypt(nonce, data, aad)
        except (InvalidTag, ValueError) as e:
            raise DamagedError("authentication failed") from e
        return data


def stream_nonce(counter: int, last: bool) -> bytes:  # noqa: FBT001 - the flag is the construction's own
    """Nonce of one segment of a stream: 11-byte counter, then 1 for the last segment.

    STREAM of Hoang, Reyhanitabar, Rogaway and Vizár (CRYPTO 2015), laid out as in age.
    """
    return counter.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _seal_key(suite: Suite, key: bytes, salt: bytes, repository: bytes, compartment: bytes, kind: str) -> bytes:
    info = lp(b"keyark/v1") + lp(repository) + lp(compartment) + lp(kind.encode()) + lp(int(suite).to_bytes(2, "big"))
    return hkdf(key, salt=salt, info=info, length=key_length(suite))


def seal(
    suite: Suite, key: bytes, plaintext: bytes, *, repository: bytes, compartment: bytes, kind: str, aad: bytes = b""
) -> bytes:
    """The symmetric seal: a random 32-byte salt, then the AEAD under HKDF(key, salt, context), nonce zero.

    The salt makes every key single-use, so the fixed nonce is never repeated under one key.
    """
    salt = secrets.token_bytes(SALT_LENGTH)
    derived = _seal_key(suite, key, salt, repository, compartment, kind)
    return salt + Aead(suite, derived).encrypt(bytes(NONCE_LENGTH), plaintext, aad)


def unseal(
    suite: Suite, key: bytes, sealed: bytes, *, repository: bytes, compartment: bytes, kind: str, aad: bytes = b""
) -> bytes:
    """Open a symmetric seal; DamagedError when it was not made with this key and context."""
    if len(sealed) < SALT_LENGTH + overhead(suite):
        raise DamagedError(f"sealed {kind}: too short")
    derived = _seal_key(suite, key, sealed[:SALT_LENGTH], repository, compartment, kind)
    try:
        return Aead(suite, derived).decrypt(bytes(NONCE_LENGTH), sealed[SALT_LENGTH:], aad)
    except DamagedError as e:
        raise DamagedError(f"sealed {kind}: authentication failed") from e


def padme(length: int) -> int:
    """The padded length for ``length`` bytes: leaks O(log log) bits, costs at most 12%.

    Padmé, Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PETS 2019.
    """
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (length + mask) & ~mask
