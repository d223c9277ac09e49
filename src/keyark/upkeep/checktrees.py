"""Verifying trees: every folder readable, every chunk in a pack that the snapshot lists. Needs a content key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyark.errors import IntegrityError, NoKeyError
from keyark.operation import Context, Progress
from keyark.recovery.reading import SnapshotReader
from keyark.repository import tree
from keyark.repository.lookup import Lookup
from keyark.repository.names import pack_name
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot
from keyark.upkeep.findings import Findings


@dataclass(frozen=True, slots=True)
class _Segment:
    """What is known of a tree segment, the same for every snapshot: files, and the packs that its chunks were found in."""

    packs: frozenset[int]
    subtrees: tuple[tuple[bytes, bytes], ...]  # folder's name, segment id
    files: int


class TreeCheck:
    """Checks the trees of many snapshots; what they share is read once."""

    def __init__(self, repository: Repository, lookup: Lookup, findings: Findings, context: Context) -> None:
        self._repository = repository
        self._lookup = lookup
        self._findings = findings
        self._context = context
        self._known: dict[bytes, _Segment] = {}
        self.files = 0

    def snapshot(self, snapshot: Snapshot, *, excused: bool) -> None:
        """Check one snapshot. Damage of an ``excused`` one (a later snapshot replaces it) is a notice."""
        findings = self._findings
        try:
            content = self._repository.open_content(snapshot)
            reader = SnapshotReader(self._repository, snapshot, content, self._lookup)
        except IntegrityError as e:
            (findings.note if excused else findings.bad)(snapshot.name, str(e))
            findings.touches(snapshot.name, snapshot.id)
            return
        except NoKeyError as e:  # of a compartment that this key does not open; a missing wrap is found by itself
            findings.note(snapshot.name, f"{snapshot.name}: its files were not checked: {e}")
            return
        bad = findings.bad_packs()
        todo: list[tuple[bytes, bytes]] = [(b"", segment) for segment in content.tree]
        seen: set[bytes] = set()
        while todo:
            self._context.cancel.check()
            path, segment_id = todo.pop()
            if segment_id in seen:
                continue
            seen.add(segment_id)
            own = reader.locate([segment_id]).get(segment_id) if bad else None
            if own is not None and own.pack.sha256 in bad:
                findings.touches(pack_name(own.pack.sha256), snapshot.id, path or b"/")
            try:
                segment = self._segment(reader, snapshot, path, segment_id, bad, excused=excused)
            except IntegrityError as e:
                place = reader.locate([segment_id]).get(segment_id)
                name = snapshot.name if place is None else pack_name(place.pack.sha256)
                (findings.note if excused else findings.bad)(name, str(e))
                findings.touches(name, snapshot.id, path or b"/")
                continue
            todo += [(path + b"/" + name, child) for name, child in segment.subtrees]
        self._context.progress(Progress("verify", self.files, 0, 0, 0, snapshot.name))

    def _segment(
        self,
        reader: SnapshotReader,
        snapshot: Snapshot,
        path: bytes,
        segment_id: bytes,
        bad: set[bytes],
        *,
        excused: bool,
    ) -> _Segment:
        known = self._known.get(segment_id)
        if known is not None and not bad and reader.lists(known.packs):
            return known
        nodes = tree.decode_segment(reader.chunk(segment_id), f"tree {segment_id.hex()[:12]}")
        packs, subtrees, files = set(), [], 0
        places = reader.locate([chunk for node in nodes for chunk in node.chunk_ids()])
        for node in nodes:
            subtrees += [(node.name, child) for child in node.subtree]
            files += node.kind == tree.FILE
            for chunk in node.chunk_ids():
                place = places.get(chunk)
                if place is None:
                    self._lost(snapshot, path + b"/" + node.name, chunk, excused=excused)
                    continue
                packs.add(place.pack.num)
                if place.pack.sha256 in bad:
                    self._findings.touches(pack_name(place.pack.sha256), snapshot.id, path + b"/" + node.name)
        result = _Segment(frozenset(packs), tuple(subtrees), files)
        if known is None:
            self.files += files
            self._known[segment_id] = result
        return result

    def _lost(self, snapshot: Snapshot, path: bytes, chunk: bytes, *, excused: bool) -> None:
        findings = self._findings
        missing: Sequence[bytes] = sorted(findings.bad_packs())
        what = f"{snapshot.name}: chunk {chunk.hex()[:12]} is in none of the packs that it lists"
        if excused:
            findings.note(snapshot.name, what)
            return
        if not missing:  # otherwise the pack it lay in is among those already named
            findings.bad(snapshot.name, what)
        for name in [snapshot.name] if not missing else [pack_name(item) for item in missing]:
            findings.touches(name, snapshot.id, path)
