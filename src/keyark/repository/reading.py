"""Reading packs: whole, with name and signature verified, or only the ranges that are needed.

A range cannot be checked against the pack's signature; it does not need to be: AEAD under a key sealed to the epoch, and a
chunk id that the signed snapshot's tree names, say more (docs/adr/0004).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from keyark.crypto.signing import VerifyKey, signature_length
from keyark.crypto.suites import FIPS_SUITES, Aead
from keyark.errors import DamagedError, ForgedError, ObjectNotFound
from keyark.repository.blocks import Block, sealed_again, split_block
from keyark.repository.cache import CachedPack
from keyark.repository.chunkids import chunk_id_function
from keyark.repository.keyring import Keyring
from keyark.repository.names import pack_name
from keyark.repository.packs import (
    BlockPlace,
    PackHead,
    check_whole,
    decrypt_block,
    directory_range,
    iterate_ids,
    open_block,
    parse_pack_head,
    read_directory,
)
from keyark.repository.unlocked import Unlocked
from keyark.repository.wire import MAX_SIZE, ObjectType
from keyark.storage.protocol import Storage

_HEAD_GUESS = 4096  # bytes; a pack's header has about 1.3 KiB
_TAIL_GUESS = 64 << 10  # bytes read from a pack's end when looking for its directory


@dataclass(slots=True)
class OpenPack:
    """A pack whose data key is open."""

    head: PackHead
    aead: Aead
    blocks: tuple[BlockPlace, ...]
    fetch: Callable[[int, int], bytes]
    chunk_id: Callable[[bytes | memoryview], bytes]

    def block(self, number: int) -> list[memoryview]:
        """Decrypt one block into its chunks; DamagedError names pack and block."""
        if number >= len(self.blocks):
            raise DamagedError(f"{self.head.name}: has no block {number}")
        place = self.blocks[number]
        sealed = self.fetch(place.offset, place.length)
        return open_block(self.head, self.aead, number, place, sealed, last=number == len(self.blocks) - 1)

    def again(self, number: int) -> Block:
        """One block for sealing anew, every chunk of it checked against its id. DamagedError names pack and block."""
        place = self.blocks[number]
        sealed = self.fetch(place.offset, place.length)
        plain = decrypt_block(self.head, self.aead, number, place, sealed, last=number == len(self.blocks) - 1)
        chunks = split_block(plain, place.count, f"{self.head.name}, block {number}")
        ids = list(iterate_ids(place))
        for position, chunk_id in enumerate(ids):
            self.chunk(chunks, position, chunk_id)
        return sealed_again(plain, ids, chunks)

    def chunk(self, chunks: list[memoryview], position: int, expected: bytes) -> memoryview:
        """One chunk of a block, checked against its id."""
        if position >= len(chunks):
            raise DamagedError(f"{self.head.name}: a block holds fewer chunks than the index says")
        if self.chunk_id(chunks[position]) != expected:
            raise DamagedError(f"{self.head.name}: chunk {expected.hex()[:12]} is not what its id says")
        return chunks[position]


class PackReader:
    """Opens packs with the keys of one run. Safe to use from several threads once a pack is open."""

    def __init__(self, storage: Storage, keyring: Keyring, keys: Unlocked) -> None:
        self._storage = storage
        self._keyring = keyring
        self._keys = keys
        self.bytes_fetched = 0

    def _get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            data = self._storage.get(name, start, MAX_SIZE[ObjectType.PACK] + 1 if length is None else length)
        except ObjectNotFound as e:
            raise DamagedError(f"{name} is missing") from e
        self.bytes_fetched += len(data)
        return data

    @functools.lru_cache(maxsize=64)  # noqa: B019 - a reader lives as long as one operation
    def _id_function(self, compartment: bytes, generation: int, kind: int) -> Callable[[bytes | memoryview], bytes]:
        keys = self._keys.compartment(compartment, generation)
        return chunk_id_function(self._keyring.id_algorithm, keys.id_key, self._keyring.repository, compartment, kind)

    def _open(self, head: PackHead, blocks: tuple[BlockPlace, ...], fetch: Callable[[int, int], bytes]) -> OpenPack:
        if self._keyring.fips and head.head.suite not in FIPS_SUITES:
            raise ForgedError(f"{head.name}: its cipher suite is not approved, and this repository's profile is fips")
        private = self._keys.epoch(head.compartment, head.epoch, head.writer)
        aead = head.open_key(self._keyring.repository, private)
        return OpenPack(head, aead, blocks, fetch, self._id_function(head.compartment, head.generation, head.kind))

    def _check_head(self, head: PackHead, pack: CachedPack) -> None:
        self._signer(head)
        if head.compartment != pack.compartment or head.kind != pack.kind:
            raise ForgedError(f"{head.name}: is of another compartment or kind than the index says")

    def ranged(self, pack: CachedPack) -> OpenPack:
        """Open a pack to read some of its blocks."""
        name = pack_name(pack.sha256)
        head = self.head(name)
        self._check_head(head, pack)
        return self._open(head, pack.blocks, lambda start, length: self._get(name, start, length))

    def whole(self, pack: CachedPack) -> OpenPack:
        """Read a pack as a whole; its name and its writer's signature are verified before anything is decrypted."""
        return self.opened(pack, self._get(pack_name(pack.sha256)))

    def opened(self, pack: CachedPack, data: bytes) -> OpenPack:
        """As `whole`, over bytes already read."""
        head = self.verified(pack_name(pack.sha256), pack.sha256, data)
        self._check_head(head, pack)
        view = memoryview(data)
        return self._open(head, pack.blocks, lambda start, length: bytes(view[start : start + length]))

    def verified(self, name: str, sha256: bytes, data: bytes) -> PackHead:
        """Check a whole pack's bytes: name, header, signature."""
        head = parse_pack_head(data, name, self._keyring.repository)
        check_whole(data, name, sha256, self._keyring.repository, self._signer(head))
        return head

    def _signer(self, head: PackHead) -> VerifyKey:
        """Who must have signed a pack: the writer it names, of its compartment, or the root where it was re-sealed."""
        if head.writer is None:
            return self._keyring.root
        writer = self._keyring.writers.get(head.writer)
        if writer is None or writer.compartment != head.compartment:
            raise ForgedError(f"{head.name}: its writer is not one of its compartment")
        return writer.verify

    def head(self, name: str) -> PackHead:
        """A pack's header, checked for form and repository only."""
        return parse_pack_head(self._get(name, 0, _HEAD_GUESS), name, self._keyring.repository)

    def directory(self, name: str, data: bytes | None = None) -> tuple[PackHead, tuple[BlockPlace, ...], int]:
        """Header, directory and size of a pack, from its whole bytes or by ranges. Needs the index key, no content key."""
        size = len(data) if data is not None else self._storage.stat(name).size
        if size > MAX_SIZE[ObjectType.PACK]:
            raise DamagedError(f"{name}: {size} bytes are over the limit for a pack")

        def fetch(start: int, length: int) -> bytes:
            return self._get(name, start, length) if data is None else data[start : start + length]

        head = parse_pack_head(fetch(0, _HEAD_GUESS), name, self._keyring.repository)
        tail_start = max(0, size - _TAIL_GUESS - signature_length(head.head.scheme))
        tail = fetch(tail_start, size - tail_start)
        start, length = directory_range(size, head.head.scheme, tail, name)
        sealed = tail[start - tail_start :][:length] if start >= tail_start else fetch(start, length)
        keys = self._keys.compartment(head.compartment, head.generation)
        return head, read_directory(head, sealed, keys.index_key, self._keyring.repository), size
