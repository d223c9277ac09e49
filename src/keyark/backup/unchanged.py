"""Which files can be taken over from last time's record, and which packs they rest on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from keyark.backup.filescache import Entry, FilesCache, FolderRecord
from keyark.backup.frames import Frame
from keyark.backup.sink import ChunkSink
from keyark.repository.cache import CacheError

_HELD = 60_000  # files in records that wait for their packs


def find_unchanged(frame: Frame, sink: ChunkSink) -> None:
    """Note which files of last time's record still have all their chunks in usable packs."""
    known = frame.known
    if known is None:
        return
    if known.packs is not None and all(sink.is_usable(pack) for pack in known.packs):
        frame.unchanged = known.files
        return
    found = sink.known([chunk for entry in known.files.values() for chunk, _ in _references(entry)])
    frame.unchanged = {
        name: entry for name, entry in known.files.items() if all(chunk in found for chunk, _ in _references(entry))
    }


class Records:
    """Folder records on their way to the files cache. A record names the packs of its files, so new ones wait for them."""

    def __init__(self, cache: FilesCache, sink: ChunkSink) -> None:
        self._cache = cache
        self._sink = sink
        self._waiting: deque[tuple[bytes, FolderRecord]] = deque()
        self._files = 0  # in the records that wait

    def finish(self, frame: Frame, *, tree_kept: bool) -> None:
        """Count the packs that the folder's unchanged files rest on, and remember the folder if anything in it is new.

        ``tree_kept`` is what `keeps_tree` said of its segments.
        """
        known, record = frame.known, frame.record
        if known is not None and tree_kept:
            record.tree = known.tree
        packs = None if known is None or known.files != record.files else known.packs
        if packs is not None and all(self._sink.is_usable(pack) for pack in packs):
            self._count(packs)
            record.packs = packs
            if tree_kept:
                return
        else:
            self._count_kept(frame)
        self._waiting.append((frame.path, record))
        self._files += len(record.files)
        while self._files > _HELD:
            self._complete(self._waiting[0][1])
            self._store_first()

    def _count_kept(self, frame: Frame) -> None:
        """Count what single unchanged files rest on, beside changed ones."""
        kept = [entry for name, entry in frame.record.files.items() if frame.unchanged.get(name) is entry]
        references = [pair for entry in kept for pair in _references(entry)]
        found = self._sink.known([chunk for chunk, _ in references]) if references else {}
        if any(chunk not in found for chunk, _ in references):
            raise CacheError("the local cache contradicts itself; delete it and run again, nothing is lost")
        self._count(_lengths(references, found))

    def _count(self, packs: dict[int, int]) -> None:
        for pack, length in packs.items():
            self._sink.count(pack, length)

    def keeps_tree(self, known: FolderRecord) -> bool:
        """Whether the folder's tree segments, unchanged, lie in usable packs; if so, these packs are counted."""
        if known.tree is None or not all(self._sink.is_usable(pack) for pack in known.tree):
            return False
        self._count(known.tree)
        return True

    def settle(self) -> None:
        """Store records whose packs are known by now."""
        while self._waiting and self._complete(self._waiting[0][1]):
            self._store_first()

    def flush(self) -> None:
        """Store all of them, at the end of a run, when every pack is stored."""
        while self._waiting:
            self._complete(self._waiting[0][1])
            self._store_first()
        self._cache.flush()

    def _store_first(self) -> None:
        path, record = self._waiting.popleft()
        self._files -= len(record.files)
        self._cache.store(path, record)

    def _complete(self, record: FolderRecord) -> bool:
        """Fill in which packs the folder's files and its segments lie in; False while one of either is not stored yet."""
        if record.packs is None:
            record.packs = self._lengths([pair for entry in record.files.values() for pair in _references(entry)])
        if record.tree is None:
            record.tree = self._lengths(list(zip(record.segments, record.lengths, strict=True)))
        return record.packs is not None and record.tree is not None

    def _lengths(self, references: Sequence[tuple[bytes, int]]) -> dict[int, int] | None:
        found = self._sink.packs_of([chunk for chunk, _ in references])
        return None if found is None else _lengths(references, found)


def _lengths(references: Iterable[tuple[bytes, int]], found: dict[bytes, int]) -> dict[int, int]:
    """Bytes in each pack."""
    packs: dict[int, int] = {}
    for chunk, length in references:
        pack = found[chunk]
        packs[pack] = packs.get(pack, 0) + length
    return packs


def _references(entry: Entry) -> Sequence[tuple[bytes, int]]:
    mark, _, references = entry
    if references is None:
        return ()
    if isinstance(references, bytes):
        return ((references, int.from_bytes(mark[8:16], "big")),)
    return [(row[0], row[1]) for row in references]
