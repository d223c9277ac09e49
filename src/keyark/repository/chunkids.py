"""Chunk ids: a keyed hash of the plaintext, with separate keys for file data and for trees (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from blake3 import blake3

from keyark.crypto.kdf import hkdf
from keyark.repository.keyring import ID_BLAKE3
from keyark.secret import Secret

DATA = 0
TREE = 1
_NAMES = ("data", "tree")


def lp(value: bytes) -> bytes:
    """Two bytes of length, then the value."""
    return len(value).to_bytes(2, "big") + value


def chunk_id_function(
    algorithm: str, id_key: Secret, repository: bytes, compartment: bytes, kind: int
) -> Callable[[bytes | memoryview], bytes]:
    """The function that turns a chunk of ``kind`` (DATA or TREE) into its 32-byte id."""
    info = lp(b"keyark/v1") + lp(repository) + lp(compartment) + lp(f"chunk id {_NAMES[kind]}".encode())
    key = hkdf(id_key.reveal(), salt=None, info=info, length=32)
    if algorithm == ID_BLAKE3:

        def by_blake3(data: bytes | memoryview) -> bytes:
            return blake3(data, key=key).digest()

        return by_blake3

    def by_hmac(data: bytes | memoryview) -> bytes:
        return hmac.digest(key, data, hashlib.sha256)

    return by_hmac


def chunker_seed(id_key: Secret, repository: bytes, compartment: bytes) -> int:
    """A 63-bit seed for the chunker's gear table, so that chunk boundaries differ between compartments."""
    info = lp(b"keyark/v1") + lp(repository) + lp(compartment) + lp(b"chunker seed")
    return int.from_bytes(hkdf(id_key.reveal(), salt=None, info=info, length=8), "big") >> 1
