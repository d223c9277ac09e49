"""Where chunks go: those already stored are counted, new ones join blocks of their owner and source root."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from keyark.backup.packer import StoredPack
from keyark.repository.blocks import BlockBuilder
from keyark.repository.cache import Cache
from keyark.repository.chunkids import TREE

_OPEN_BLOCKS = 4  # blocks being filled at one time
_BATCH_CHUNKS = 400  # chunks looked up in one query
_BATCH_BYTES = 8 << 20

Group = tuple[int, int]  # owner, source root


class BlockTaker(Protocol):
    """Takes full blocks: a `Packer`, or nothing at all in a dry run."""

    def add(self, kind: int, builder: BlockBuilder) -> None: ...

    def take_stored(self) -> list[StoredPack]: ...


class ChunkSink:
    """Deduplicates chunks. Used from one thread."""

    def __init__(self, cache: Cache, usable: frozenset[int], packer: BlockTaker | None) -> None:
        self._cache = cache
        self._usable = usable
        self._packer = packer
        self._open: OrderedDict[tuple[int, Group], BlockBuilder] = OrderedDict()
        self._pending: dict[bytes, tuple[int, Group, bytes | memoryview]] = {}
        self._pending_bytes = 0
        self._new: set[bytes] = set()
        self.used: dict[int, int] = {}  # local pack number -> bytes of it that this snapshot refers to
        self.data_added = 0  # bytes of new chunks

    def add(self, kind: int, chunk_id: bytes, data: bytes | memoryview, group: Group) -> None:
        """Store a chunk unless it is stored already."""
        if chunk_id in self._new or chunk_id in self._pending:
            return
        self._pending[chunk_id] = (kind, group, data)
        self._pending_bytes += len(data)
        if len(self._pending) >= _BATCH_CHUNKS or self._pending_bytes >= _BATCH_BYTES:
            self._resolve()

    def known(self, ids: Iterable[bytes]) -> dict[bytes, int]:
        """The local pack numbers of chunks that are stored in usable packs."""
        return {chunk: pack for chunk, (pack, _) in self._cache.locate(list(ids), self._usable).items()}

    def is_usable(self, pack: int) -> bool:
        return pack in self._usable

    def count(self, pack: int, length: int) -> None:
        """Note that the snapshot refers to ``length`` bytes of a pack."""
        self.used[pack] = self.used.get(pack, 0) + length

    def _resolve(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        found = self.known(pending) if self._usable else {}
        for chunk_id, (kind, group, data) in pending.items():
            pack = found.get(chunk_id)
            if pack is not None:
                self.count(pack, len(data))
                continue
            self._new.add(chunk_id)
            self.data_added += len(data)
            if self._packer is not None:
                self._place(kind, group if kind != TREE else (0, 0), chunk_id, data)

    def _place(self, kind: int, group: Group, chunk_id: bytes, data: bytes | memoryview) -> None:
        key = (kind, group)
        builder = self._open.get(key)
        if builder is not None and not builder.fits(len(data)):
            self._close(key)
            builder = None
        if builder is None:
            while len(self._open) >= _OPEN_BLOCKS:
                self._close(next(iter(self._open)))
            builder = self._open[key] = BlockBuilder()
        else:
            self._open.move_to_end(key)
        builder.add(chunk_id, data)
        if builder.full:
            self._close(key)

    def _close(self, key: tuple[int, Group]) -> None:
        builder = self._open.pop(key)
        if self._packer is not None:
            self._packer.add(key[0], builder)

    def flush(self) -> None:
        """Hand over everything that is still being collected."""
        self._resolve()
        while self._open:
            self._close(next(iter(self._open)))
