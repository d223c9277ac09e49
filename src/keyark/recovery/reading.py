"""Reading what one snapshot holds: its tree and its chunks, only through the packs that it lists."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyark.errors import DamagedError, IntegrityError
from keyark.repository.cache import PLACE_SHIFT, CachedPack
from keyark.repository.lookup import Lookup
from keyark.repository.reading import OpenPack
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot, SnapshotContent
from keyark.repository.tree import DIR, Node, decode_segment

_BLOCKS = 6  # decrypted blocks kept
_AHEAD = 10_000  # tree chunks located ahead of the walk
_PACKS = 64  # open packs kept; a range-read pack costs its header only


class Place(NamedTuple):
    """Where a chunk lies."""

    pack: CachedPack
    block: int
    position: int


class SnapshotReader:
    """One snapshot, opened for reading. Used from one thread, except `open_block`."""

    def __init__(
        self, repository: Repository, snapshot: Snapshot, content: SnapshotContent, lookup: Lookup | None = None
    ) -> None:
        self.repository = repository
        self.snapshot = snapshot
        self.content = content
        lookup = lookup or repository.lookup
        lookup.sync(snapshot.head.compartment)
        self._lookup = lookup
        self._packs = lookup.restrict(repository.pack_uses(snapshot), snapshot.head.compartment)
        self._usable = frozenset(self._packs)
        self._open: OrderedDict[int, OpenPack] = OrderedDict()
        self._ahead: dict[bytes, Place] = {}  # of tree chunks that the walk is about to ask for
        self._blocks: OrderedDict[tuple[int, int], list[memoryview]] = OrderedDict()

    @property
    def bytes_fetched(self) -> int:
        return self._lookup.reader.bytes_fetched

    def count_fetched(self, count: int) -> None:
        """Add what another process fetched."""
        self._lookup.reader.bytes_fetched += count

    def lists(self, packs: frozenset[int]) -> bool:
        """Whether the snapshot lists all of these packs (local numbers)."""
        return packs <= self._usable

    def locate(self, ids: Sequence[bytes]) -> dict[bytes, Place]:
        """Where chunks lie; those that no listed pack holds are left out."""
        mask = (1 << PLACE_SHIFT) - 1
        return {
            chunk: Place(self._packs[pack], place >> PLACE_SHIFT, place & mask)
            for chunk, (pack, place) in self._lookup.cache.locate(ids, self._usable).items()
        }

    def open_pack(self, pack: CachedPack, *, whole: bool = False) -> OpenPack:
        """An open pack; ``whole`` reads it at once and verifies name and signature first."""
        if whole:
            return self._lookup.reader.whole(pack)
        if pack.num not in self._open:
            while len(self._open) >= _PACKS:
                self._open.popitem(last=False)
            self._open[pack.num] = self._lookup.reader.ranged(pack)
        return self._open[pack.num]

    def block(self, pack: CachedPack, number: int) -> tuple[OpenPack, list[memoryview]]:
        """A decrypted block, the last few of which are kept."""
        opened = self.open_pack(pack)
        key = (pack.num, number)
        if key not in self._blocks:
            chunks = opened.block(number)
            while len(self._blocks) >= _BLOCKS:
                self._blocks.popitem(last=False)
            self._blocks[key] = chunks
        self._blocks.move_to_end(key)
        return opened, self._blocks[key]

    def chunk(self, chunk_id: bytes) -> memoryview:
        """One chunk, checked against its id. DamagedError names what is missing or wrong."""
        place = self._ahead.pop(chunk_id, None) or self.locate([chunk_id]).get(chunk_id)
        if place is None:
            raise DamagedError(
                f"chunk {chunk_id.hex()[:12]} is in none of the packs that snapshot {self.snapshot.id.hex()[:8]} lists"
            )
        return self.chunk_at(place, chunk_id)

    def chunk_at(self, place: Place, chunk_id: bytes) -> memoryview:
        opened, chunks = self.block(place.pack, place.block)
        return opened.chunk(chunks, place.position, chunk_id)

    def folder(self, ids: Sequence[bytes]) -> list[Node]:
        """The entries of one folder, in order. IntegrityError when a segment is damaged or missing."""
        nodes: list[Node] = []
        for chunk_id in ids:
            found = decode_segment(self.chunk(chunk_id), f"tree {chunk_id.hex()[:12]}")
            if nodes and found and found[0].name <= nodes[-1].name:
                raise DamagedError(f"tree {chunk_id.hex()[:12]}: its segments are out of order")
            nodes += found
        if len(self._ahead) < _AHEAD:
            self._ahead.update(self.locate([item for node in nodes if node.kind == DIR for item in node.subtree]))
        return nodes

    def walk(self) -> Iterator[tuple[bytes, Node | IntegrityError]]:
        """Every object, parents first, with its absolute path. A folder that cannot be read yields its error once more."""
        stack: list[tuple[bytes, Iterator[Node]]] = []
        try:
            stack.append((b"", iter(self.folder(self.content.tree))))
        except IntegrityError as e:
            yield b"/", e
        while stack:
            parent, nodes = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                continue
            path = parent + b"/" + node.name
            yield path, node
            if node.kind == DIR:
                try:
                    stack.append((path, iter(self.folder(node.subtree))))
                except IntegrityError as e:
                    yield path, e
