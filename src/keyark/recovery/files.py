"""Filling files: small ones block by block as the blocks come, larger ones chunk by chunk in order."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from keyark.errors import DamagedError, IntegrityError
from keyark.recovery.reading import Place, SnapshotReader
from keyark.recovery.target import PendingFile
from keyark.repository.cache import CachedPack
from keyark.repository.reading import OpenPack
from keyark.repository.tree import Node

_WORKERS = 2  # blocks decrypted ahead
_WHOLE_SHARE = 0.5  # a pack of which more than this share of the blocks is needed is read as a whole
_ZEROS = bytes(1 << 20)
_WHOLE_BLOCKS = 2  # never for fewer blocks


class WantedFile(NamedTuple):
    """A file to be filled."""

    path: bytes
    node: Node


Filled = Callable[[WantedFile, memoryview], None]
Failed = Callable[[WantedFile, str], None]


def check_whole_file(data: bytes | memoryview, node: Node) -> None:
    """Step 6 of a restore: size and SHA-256 of the whole file."""
    if len(data) != node.size:
        raise DamagedError(f"has {len(data)} bytes instead of {node.size}")
    if node.sha256 is not None and hashlib.sha256(data).digest() != node.sha256:
        raise DamagedError("its SHA-256 is not the recorded one")


@dataclass(frozen=True, slots=True)
class Plan:
    """Small files by the block that holds them, (pack number, block number), in the order in which they lie in the packs."""

    blocks: dict[tuple[int, int], list[tuple[WantedFile, Place, bytes]]]
    packs: dict[int, CachedPack]

    def shares(self, count: int) -> list[Plan]:
        """``count`` plans of about as many files each, neighbouring blocks together."""
        total = sum(map(len, self.blocks.values()))
        shares: list[Plan] = [Plan({}, self.packs)]
        taken = 0
        for key in sorted(self.blocks):
            if taken >= total * len(shares) // count and len(shares) < count:
                shares.append(Plan({}, self.packs))
            shares[-1].blocks[key] = self.blocks[key]
            taken += len(self.blocks[key])
        return shares


def plan_small(reader: SnapshotReader, files: Sequence[WantedFile], failed: Failed) -> Plan:
    """Where the contents of files lie that are one chunk each."""
    by_block: dict[tuple[int, int], list[tuple[WantedFile, Place, bytes]]] = defaultdict(list)
    packs: dict[int, CachedPack] = {}
    places = reader.locate([item.node.chunk_ids()[0] for item in files])
    for item in files:
        chunk_id = item.node.chunk_ids()[0]
        place = places.get(chunk_id)
        if place is None:
            failed(item, f"chunk {chunk_id.hex()[:12]} is in none of the packs that the snapshot lists")
            continue
        packs[place.pack.num] = place.pack
        by_block[place.pack.num, place.block].append((item, place, chunk_id))
    return Plan(by_block, packs)


def fill_small(reader: SnapshotReader, plan: Plan, filled: Filled, failed: Failed, *, workers: int = _WORKERS) -> None:
    """Hand out the contents of planned files, block by block, ``workers`` threads decrypting ahead."""
    for key, loaded in _ahead(reader, plan.packs, sorted(plan.blocks), workers):
        wanted = plan.blocks[key]
        if isinstance(loaded, IntegrityError):
            for item, _, _ in wanted:
                failed(item, str(loaded))
            continue
        opened, chunks = loaded
        for item, place, chunk_id in wanted:
            try:
                data = opened.chunk(chunks, place.position, chunk_id)
                check_whole_file(data, item.node)
            except IntegrityError as e:
                failed(item, str(e))
                continue
            filled(item, data)


_Loaded = tuple[OpenPack, list[memoryview]] | IntegrityError


def _ahead(
    reader: SnapshotReader, packs: dict[int, CachedPack], keys: Sequence[tuple[int, int]], workers: int
) -> Iterator[tuple[tuple[int, int], _Loaded]]:
    """Decrypted blocks in order, the next few already under way."""
    per_pack: dict[int, int] = defaultdict(int)
    for num, _ in keys:
        per_pack[num] += 1
    opened: dict[int, OpenPack | IntegrityError] = {}

    def open_pack(num: int) -> OpenPack | IntegrityError:
        if num not in opened:
            for old in [key for key in opened if key < num - 1]:
                del opened[old]  # keys come in order: earlier packs are done with
            pack = packs[num]
            whole = per_pack[num] >= _WHOLE_BLOCKS and per_pack[num] > _WHOLE_SHARE * len(pack.blocks)
            try:
                opened[num] = reader.open_pack(pack, whole=whole)
            except IntegrityError as e:
                opened[num] = e
        return opened[num]

    if not workers:
        for key in keys:
            yield key, _load(open_pack(key[0]), key[1])
        return
    running: deque[tuple[tuple[int, int], Future[_Loaded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decrypt") as pool:
        for key in keys:
            pack = open_pack(key[0])
            running.append((key, pool.submit(_load, pack, key[1])))
            if len(running) > workers:
                done, future = running.popleft()
                yield done, future.result()
        while running:
            done, future = running.popleft()
            yield done, future.result()


def _load(pack: OpenPack | IntegrityError, number: int) -> _Loaded:
    if isinstance(pack, IntegrityError):
        return pack
    try:
        return pack, pack.block(number)
    except IntegrityError as e:
        return e


def fill_large(reader: SnapshotReader, node: Node, pending: PendingFile | None, advance: Callable[[int], None]) -> None:
    """Write a file of several chunks in order; holes stay holes. IntegrityError when anything is not as recorded."""
    rows: list[Any] = node.content if isinstance(node.content, list) else [[node.content, node.size]]
    digest = hashlib.sha256()
    position = 0
    if pending is not None:
        # First: a size that cannot be is refused before any work is done for it.
        os.ftruncate(pending.descriptor, node.size)
    places: dict[bytes, Place] = {}
    for index, (chunk_id, length) in enumerate(rows):
        if chunk_id is None:
            for start in range(0, length, len(_ZEROS)):
                part = min(len(_ZEROS), length - start)
                digest.update(_ZEROS[:part])
                advance(part)  # on the way, since it may stop us: a terabyte of nothing takes minutes to hash
        else:
            if chunk_id not in places:
                ahead = [row[0] for row in rows[index : index + 500] if row[0] is not None]
                places = reader.locate(ahead)
            place = places.get(chunk_id)
            if place is None:
                raise DamagedError(f"chunk {chunk_id.hex()[:12]} is in none of the packs that the snapshot lists")
            data = reader.chunk_at(place, chunk_id)
            if len(data) != length:
                raise DamagedError(f"chunk {chunk_id.hex()[:12]} has {len(data)} bytes instead of {length}")
            digest.update(data)
            if pending is not None:
                pending.write(data, position)
            advance(length)
        position += length
    if node.sha256 is not None and digest.digest() != node.sha256:
        raise DamagedError("its SHA-256 is not the recorded one")
