"""Where chunks go: those already stored are counted, new ones join blocks of their owner and source root."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from keyark.repository.blocks import BlockBuilder
from keyark.repository.cache import Cache, CacheError
from keyark.repository.chunkids import TREE

_OPEN_BLOCKS = 4  # blocks being filled at one time
_BATCH_CHUNKS = 400  # chunks looked up in one query
_BATCH_BYTES = 8 << 20

Group = tuple[int, int]  # owner, source root
_TREES = (TREE, (0, 0))


class BlockTaker(Protocol):
    """Takes full blocks: a `Packer`, or nothing at all in a dry run."""

    def add(self, kind: int, builder: BlockBuilder) -> None: ...


class ChunkSink:
    """Deduplicates chunks. Used from one thread."""

    def __init__(self, cache: Cache, usable: Iterable[int], packer: BlockTaker | None) -> None:
        self._cache = cache
        self._usable = set(usable)
        self._searchable = bool(self._usable)  # whether the cache knows chunks that `_new` does not
        self._own: set[int] = set()  # packs of this run that are in the cache by now
        self._packer = packer
        self._open: dict[tuple[int, Group], BlockBuilder] = {}  # in the order in which they were opened
        self._pending: dict[bytes, tuple[int, Group, bytes | memoryview]] = {}
        self._pending_bytes = 0
        self._new: dict[bytes, int] = {}  # chunk of this run -> local number of its pack, 0 until it is stored
        self.used: dict[
            int, int
        ] = {}  # local pack number -> bytes of it, an earlier run's, that this snapshot refers to
        self.data_added = 0  # bytes of new chunks

    def add(self, kind: int, chunk_id: bytes, data: bytes | memoryview, group: Group) -> None:
        """Store a chunk unless it is stored already."""
        if chunk_id in self._new or chunk_id in self._pending:
            return
        if not self._searchable:
            self._take(kind, group, chunk_id, data)
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
        if pack not in self._own:
            self.used[pack] = self.used.get(pack, 0) + length

    def stored(self, pack: int, ids: Iterable[bytes]) -> None:
        """Note that a pack of this run is stored, under which local number, with which chunks."""
        self._own.add(pack)
        self._usable.add(pack)
        self._new.update(dict.fromkeys(ids, pack))

    def settle(self) -> None:
        """Let go of chunks whose packs are stored: the cache finds them from now on."""
        self._searchable = True
        self._new = {chunk: pack for chunk, pack in self._new.items() if not pack}

    def packs_of(self, ids: Sequence[bytes]) -> dict[bytes, int] | None:
        """The local pack number of every chunk, new ones included; None while one of them is not stored yet."""
        found: dict[bytes, int] = {}
        missing = []
        for chunk in ids:
            pack = self._new.get(chunk)
            if pack:
                found[chunk] = pack
            elif pack == 0 or chunk in self._pending:
                return None
            else:
                missing.append(chunk)
        if missing:
            found.update(self.known(missing))
            if len(found) < len(set(ids)):
                raise CacheError("the local cache contradicts itself; delete it and run again, nothing is lost")
        return found

    def _resolve(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        found = self.known(pending) if self._searchable else {}
        for chunk_id, (kind, group, data) in pending.items():
            pack = found.get(chunk_id)
            if pack is None:
                self._take(kind, group, chunk_id, data)
            else:
                self.count(pack, len(data))

    def _take(self, kind: int, group: Group, chunk_id: bytes, data: bytes | memoryview) -> None:
        """Put a new chunk into the block of its group."""
        size = len(data)
        self._new[chunk_id] = 0
        self.data_added += size
        if self._packer is None:
            return
        key = (kind, group) if kind != TREE else _TREES
        builder = self._open.get(key)
        if builder is not None and not builder.fits(size):
            self._close(key)
            builder = None
        if builder is None:
            while len(self._open) >= _OPEN_BLOCKS:
                self._close(self._oldest())
            builder = self._open[key] = BlockBuilder()
        if builder.add(chunk_id, data):
            self._close(key)

    def _oldest(self) -> tuple[int, Group]:
        return next(iter(self._open))

    def _close(self, key: tuple[int, Group]) -> None:
        builder = self._open.pop(key)
        if self._packer is not None:
            self._packer.add(key[0], builder)

    def flush(self) -> None:
        """Hand over everything that is still being collected."""
        self._resolve()
        while self._open:
            self._close(self._oldest())
