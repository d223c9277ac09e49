"""Blocks: many small chunks, or one large one, compressed as a whole (docs/format.md, section 6)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from keyark.errors import DamagedError
from keyark.repository.compression import Compression, decompress

BLOCK_TARGET = 4 << 20  # bytes of plaintext after which a block is closed
MAX_CHUNK = 8 << 20  # largest chunk, bytes
MAX_CHUNKS = 1 << 16  # chunks in one block
MAX_RAW = MAX_CHUNK + BLOCK_TARGET + (4 << 20)  # largest decompressed block, bytes
_HEAD = struct.Struct(">BII")  # codec, raw length, compressed length


@dataclass(frozen=True, slots=True)
class Block:
    """A compressed block, not yet sealed."""

    ids: tuple[bytes, ...]
    head: bytes
    payload: bytes
    data_length: int  # bytes of chunk data before compression

    @property
    def length(self) -> int:
        return len(self.head) + len(self.payload)


class BlockBuilder:
    """Collects chunks of one owner and source root."""

    __slots__ = ("_parts", "ids", "size")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self._parts: list[bytes | memoryview] = []
        self.size = 0

    def add(self, chunk_id: bytes, data: bytes | memoryview) -> bool:
        """Take a chunk; says whether the block is full now."""
        self.ids.append(chunk_id)
        self._parts.append(data)
        self.size += len(data)
        return self.size >= BLOCK_TARGET or len(self.ids) >= MAX_CHUNKS

    def fits(self, length: int) -> bool:
        """Whether a chunk of ``length`` may join; an empty block takes any chunk."""
        return not self.ids or self.size + length <= MAX_CHUNK

    def compress(self, compression: Compression) -> Block:
        """Compress what was collected. May run on any thread."""
        lengths = [len(part) for part in self._parts]
        table = struct.pack(f">I{len(lengths)}I", len(lengths), *lengths)
        raw = b"".join((table, *self._parts))
        self._parts = []  # they may be views that keep much larger buffers alive
        codec, payload = compression.compress(raw)
        return Block(tuple(self.ids), _HEAD.pack(codec, len(raw), len(payload)), payload, self.size)


def sealed_again(plain: bytes, ids: Sequence[bytes], chunks: Sequence[memoryview]) -> Block:
    """A decrypted block that `split_block` took apart, as it was compressed, without its padding; to be sealed anew."""
    _, _, packed_length = _HEAD.unpack_from(plain)
    payload = plain[_HEAD.size : _HEAD.size + packed_length]
    return Block(tuple(ids), plain[: _HEAD.size], payload, sum(map(len, chunks)))


def split_block(plain: bytes, count: int, what: str) -> list[memoryview]:
    """Take a decrypted block apart into its ``count`` chunks; every length is checked against the bytes that are there."""
    if len(plain) < _HEAD.size:
        raise DamagedError(f"{what}: too short for a block")
    codec, raw_length, packed_length = _HEAD.unpack_from(plain)
    if raw_length > MAX_RAW or packed_length > len(plain) - _HEAD.size:
        raise DamagedError(f"{what}: its lengths are impossible")
    end = _HEAD.size + packed_length
    if plain.count(0, end) != len(plain) - end:
        raise DamagedError(f"{what}: its padding is not zero")
    raw = memoryview(decompress(codec, plain[_HEAD.size : end], raw_length, what))
    if count > MAX_CHUNKS or raw_length < 4 + 4 * count or int.from_bytes(raw[:4], "big") != count:
        raise DamagedError(f"{what}: holds another number of chunks than its directory says")
    lengths = struct.unpack_from(f">{count}I", raw, 4)
    position = 4 + 4 * count
    if position + sum(lengths) != raw_length:
        raise DamagedError(f"{what}: its chunk lengths do not add up")
    chunks = []
    for length in lengths:
        chunks.append(raw[position : position + length])
        position += length
    return chunks
