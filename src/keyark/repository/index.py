"""Index objects: the directories of several packs, sealed under the compartment's index key (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.crypto.suites import Suite, seal, unseal
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.names import index_name
from keyark.repository.packs import BlockPlace, SealedPack, decode_directory, encode_directory
from keyark.repository.wire import ObjectType, is_bytes, is_key_number
from keyark.secret import Secret

MAX_CHUNKS = 250_000  # chunk ids in one index object (8 MB)
_PACK = struct.Struct(">32sBQQIQ")  # sha256, kind, size, data length, first block's offset, directory length
_FIELDS = {"r": is_bytes(32), "c": is_bytes(16), "w": is_bytes(16), "g": is_key_number, "p": wire.is_data}


@dataclass(frozen=True, slots=True)
class IndexedPack:
    """What the index knows about one pack."""

    sha256: bytes
    kind: int
    size: int
    data_length: int
    blocks: tuple[BlockPlace, ...]

    @property
    def chunk_count(self) -> int:
        return sum(block.count for block in self.blocks)

    def digest(self) -> bytes:
        """SHA-256 over everything that the pack itself says too: kind, size, where its blocks lie, their chunks."""
        first = self.blocks[0].offset if self.blocks else 0
        facts = _PACK.pack(self.sha256, self.kind, self.size, 0, first, 0)
        return hashlib.sha256(facts + encode_directory(self.blocks)).digest()


def indexed(pack: SealedPack) -> IndexedPack:
    """The index entry of a pack just made."""
    return IndexedPack(pack.sha256, pack.kind, pack.size, pack.data_length, pack.blocks)


def encode_index(
    packs: Sequence[IndexedPack],
    repository: bytes,
    compartment: bytes,
    writer: bytes,
    keys: tuple[int, Secret],
    signer: SigningKey,
) -> tuple[Sequence[wire.Buffer], bytes]:
    """Seal and sign an index object over ``packs``. ``keys`` is the key generation and its index key."""
    generation, index_key = keys
    header = {
        "r": repository,
        "c": compartment,
        "w": writer,
        "g": generation,
        "p": b"".join(pack.sha256 for pack in packs),
    }
    out = []
    for pack in packs:
        directory = encode_directory(pack.blocks)
        first = pack.blocks[0].offset if pack.blocks else 0
        out.append(_PACK.pack(pack.sha256, pack.kind, pack.size, pack.data_length, first, len(directory)))
        out.append(directory)
    head = wire.encode_head(ObjectType.INDEX, Suite.AES_256_GCM, signer.scheme, header)
    sealed = seal(
        Suite.AES_256_GCM,
        index_key.reveal(),
        b"".join(out),
        repository=repository,
        compartment=compartment,
        kind="index",
    )
    return wire.sign_parts(ObjectType.INDEX, [head, sealed], signer, repository)


@dataclass(frozen=True, slots=True)
class IndexObject:
    """An index object whose name and signature have verified."""

    name: str
    repository: bytes
    compartment: bytes
    generation: int
    packs: tuple[bytes, ...]
    sealed: bytes

    def open(self, index_key: Secret) -> tuple[IndexedPack, ...]:
        """The entries, with the compartment's index key of this generation."""
        data = unseal(
            Suite.AES_256_GCM,
            index_key.reveal(),
            self.sealed,
            repository=self.repository,
            compartment=self.compartment,
            kind="index",
        )
        packs = []
        position = 0
        while position < len(data):
            if position + _PACK.size > len(data):
                raise DamagedError(f"{self.name}: cut short")
            sha256, kind, size, data_length, first, length = _PACK.unpack_from(data, position)
            position += _PACK.size
            if length > len(data) - position or kind not in (0, 1):
                raise DamagedError(f"{self.name}: an entry is malformed")
            blocks = decode_directory(data[position : position + length], first, self.name, padded=False)
            packs.append(IndexedPack(sha256, kind, size, data_length, blocks))
            position += length
        if tuple(pack.sha256 for pack in packs) != self.packs:
            raise ForgedError(f"{self.name}: its header names other packs than it holds")
        return tuple(packs)


def decode_index(data: bytes, name: str, repository: bytes, signer: VerifyKey) -> IndexObject:
    """Read and verify an index object."""
    parsed = wire.parse(data, ObjectType.INDEX, name)
    header = wire.expect(parsed.header, _FIELDS, name)
    if header["r"] != repository:
        raise ForgedError(f"{name}: belongs to another repository")
    if index_name(header["c"], header["w"], parsed.sha256) != name:
        raise ForgedError(f"{name}: its name is not what its bytes say")
    wire.verify(parsed, signer, repository, name)
    packs = header["p"]
    if len(packs) % 32:
        raise DamagedError(f"{name}: its list of packs is malformed")
    return IndexObject(
        name,
        repository,
        header["c"],
        header["g"],
        tuple(packs[start : start + 32] for start in range(0, len(packs), 32)),
        parsed.body,
    )
