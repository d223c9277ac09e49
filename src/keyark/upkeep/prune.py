"""Reclaiming space: mark, announce, look again, delete (docs/format.md, section 12).

The order makes it safe without locks. A pack is marked before the snapshots are listed for the second time; a writer stores
its snapshot before it reads the marks. So either the pruner sees the snapshot and leaves the pack, or the writer sees the mark
and stores the data again. Clocks bound waste only: how long an unlisted pack of a backup under way is left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keyark.errors import DamagedError, HistoryError, IntegrityError, ObjectNotFound
from keyark.operation import Context, Progress
from keyark.repository import marks as mark_objects
from keyark.repository.history import History
from keyark.repository.marks import PACK_LIST_TARGET, PACK_TARGET, Marks, encode_marks
from keyark.repository.names import ObjectName, pack_name, parse_name
from keyark.repository.packlists import PackUse
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot
from keyark.repository.wire import ObjectType
from keyark.storage.protocol import ObjectInfo
from keyark.upkeep.model import PruneReport, PruneRequest

_SECOND = 10**9  # ns


def prune(repository: Repository, request: PruneRequest, context: Context) -> PruneReport:
    """Delete what no snapshot lists. Needs an operator's or an administrator's key.

    HistoryError, and nothing is deleted, while there is any alarm: an unexplained gap may be a snapshot withheld from us.
    """
    context.recorder.before("prune", {"dry_run": request.dry_run})
    try:
        report = _Prune(repository, request, context).run()
    except BaseException as e:
        context.recorder.after("prune", {}, e)
        raise
    context.recorder.after("prune", {"packs_deleted": report.packs_deleted}, None)
    return report


@dataclass(slots=True)
class _Listed:
    """What live snapshots rest on."""

    packs: set[bytes] = field(default_factory=set)
    lists: set[bytes] = field(default_factory=set)
    # By compartment and pack, since a writer may say anything about packs of other compartments:
    newest_use: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # bytes that writers' newest snapshots use
    lengths: dict[tuple[bytes, bytes], int] = field(default_factory=dict)


class _Prune:
    def __init__(self, repository: Repository, request: PruneRequest, context: Context) -> None:
        self.repository = repository
        self.request = request
        self.context = context
        self.now = context.clock.now_ns()
        self.signer = repository.keys.marker("prune")

    def run(self) -> PruneReport:
        marks = self.repository.marks()
        history = self._history(marks)
        packs = self._objects("packs/", ObjectType.PACK)
        listed = self._listed(history)
        forgotten = self._resting_on(history.forgotten) | marks.superseded.keys()
        lists = self._objects("packlists/", ObjectType.PACK_LIST)
        unlisted = {(PACK_TARGET, item) for item in packs if item not in listed.packs}
        unlisted |= {(PACK_LIST_TARGET, item) for item in lists if item not in listed.lists}
        marked = marks.packs | marks.pack_lists
        ready, waiting = set(), 0
        for target, item in unlisted:
            if item in marked or item in forgotten or self._old(packs.get(item) or lists[item]):
                ready.add((target, item))
            else:
                waiting += target == PACK_TARGET
        thin = self._thin(listed, marked, packs)
        doomed = [packs[item].size for target, item in ready if target == PACK_TARGET]
        if self.request.dry_run:
            return PruneReport(
                len(doomed), len(doomed), sum(doomed), len(packs) - len(doomed), len(thin), 0, waiting, dry_run=True
            )
        fresh = [(target, item) for target, item in sorted(ready) if item not in marked]
        self._store(mark_objects.MARK, [*fresh, *((PACK_TARGET, item) for item in sorted(thin))])
        deleted, freed = self._sweep(ready, {**packs, **lists})
        others = self._clean_up(history)
        return PruneReport(
            packs_marked=sum(target == PACK_TARGET for target, _ in fresh),
            packs_deleted=deleted,
            bytes_freed=freed,
            packs_kept=len(packs) - deleted,
            packs_thin=len(thin),
            objects_deleted=others,
            waiting=waiting,
        )

    def _history(self, marks: Marks) -> History:
        history = self.repository.judge_history(marks)
        if history.alarms:
            raise HistoryError(
                f"cannot prune while there is an alarm: {history.alarms[0].what}. Nothing was deleted; see `keyark verify`"
            )
        # What was seen once must be seen again: a listing that is cut short later in this run, or in the next, is an alarm.
        keyring = self.repository.keyring
        self.repository.state.advance_pins((keyring.generation, keyring.sha256), history.heads())
        return history

    def _listed(self, history: History) -> _Listed:
        """What live snapshots rest on. A pack that was superseded goes only when the one in its place is there, unmarked.

        The presence of packs is read after the marks that say so: see docs/format.md, section 12.
        """
        result = _Listed()
        marked = self.repository.last_marks.packs
        sound = {item for item in self._objects("packs/", ObjectType.PACK) if item not in marked}
        newest = set(history.heads().values())
        for snapshot in history.live:
            self.context.cancel.check()
            result.lists.update(snapshot.head.pack_lists)
            for use in self._uses(snapshot, history):
                result.packs.update((use.sha256,) if use.sha256 in sound else use.names)
                key = (snapshot.head.compartment, use.sha256)
                result.lengths[key] = use.data_length
                if (snapshot.head.sequence, snapshot.id) in newest:
                    result.newest_use[key] = result.newest_use.get(key, 0) + use.used
        return result

    def _uses(self, snapshot: Snapshot, history: History) -> Sequence[PackUse]:
        try:
            return self.repository.pack_uses(snapshot)
        except DamagedError as e:
            if snapshot.id in history.replaced:
                return ()  # a prune took its list before it stood; what it needed was stored again for the one that replaces it
            raise DamagedError(
                f"cannot prune: {e}. Bring it back from a copy, or forget that snapshot; nothing was deleted"
            ) from e

    def _resting_on(self, snapshots: Iterable[Snapshot]) -> set[bytes]:
        """Packs and lists of forgotten snapshots: no backup under way can be about to list them for the first time."""
        result: set[bytes] = set()
        for snapshot in snapshots:
            result.update(snapshot.head.pack_lists)
            with contextlib.suppress(IntegrityError):
                result.update(name for use in self.repository.pack_uses(snapshot) for name in use.names)
        return result

    def _objects(self, prefix: str, kind: ObjectType) -> dict[bytes, ObjectInfo]:
        found = {}
        for info in self.repository.storage.list(prefix):
            name = parse_name(info.name)
            if name is not None and name.type is kind and name.sha256 is not None:
                found[name.sha256] = info
        return found

    def _old(self, info: ObjectInfo) -> bool:
        return self.now - info.modified_ns > self.request.grace_seconds * _SECOND

    def _thin(self, listed: _Listed, marked: frozenset[bytes], packs: Mapping[bytes, ObjectInfo]) -> set[bytes]:
        return {
            item
            for (compartment, item), used in listed.newest_use.items()
            if item in packs
            and item not in marked
            and used < self.request.max_unused * listed.lengths[compartment, item]
            and self._belongs(item, compartment)
        }

    def _belongs(self, pack: bytes, compartment: bytes) -> bool:
        try:
            return self.repository.lookup.reader.head(pack_name(pack)).compartment == compartment
        except IntegrityError:
            return False

    def _store(self, kind: str, rows: Iterable[tuple[int, bytes]]) -> None:
        generation = self.repository.keyring.generation
        for name, parts in encode_marks(kind, rows, self.repository.id, self.now, generation, self.signer):
            self.repository.storage.put(name, parts, create_only=False)

    def _sweep(self, ready: set[tuple[int, bytes]], infos: Mapping[bytes, ObjectInfo]) -> tuple[int, int]:
        """Announce, list the snapshots once more, delete what is still unlisted."""
        if not ready:
            return 0, 0
        self._store(mark_objects.INTENT, sorted(ready))
        again = self._listed(self._history(self.repository.marks()))
        kept = again.packs | again.lists
        deleted = freed = 0
        for done, (target, item) in enumerate(sorted(ready)):
            self.context.cancel.check()
            if item in kept:
                continue
            with contextlib.suppress(ObjectNotFound):
                self.repository.storage.delete(infos[item].name)
                if target == PACK_TARGET:
                    deleted, freed = deleted + 1, freed + infos[item].size
            self.context.progress(Progress("prune", done, len(ready), freed, 0, infos[item].name))
        return deleted, freed

    def _clean_up(self, history: History) -> int:
        """Delete forgotten snapshots' objects, index objects of packs that are gone, marks that have done their work."""
        storage = self.repository.storage
        # What speaks of packs is listed before the packs: it was stored after them, so what is not there then is gone, and
        # not only stored between the two looks.
        indexes = [name for info in storage.list("index/") if (name := parse_name(info.name)) is not None]
        marks = self.repository.marks().objects
        present = set(self._objects("packs/", ObjectType.PACK)) | set(self._objects("packlists/", ObjectType.PACK_LIST))
        doomed = [snapshot.name for snapshot in history.forgotten]
        doomed += [name.text for name in indexes if self._dead_index(name, present)]
        doomed += [
            mark.name
            for mark in marks
            if mark.kind in (mark_objects.MARK, mark_objects.INTENT) and not any(row[1] in present for row in mark.rows)
        ]
        count = 0
        for dead in doomed:
            with contextlib.suppress(ObjectNotFound):
                storage.delete(dead)
                count += 1
        return count + storage.remove_leftovers(self.now - self.request.grace_seconds * _SECOND)

    def _dead_index(self, name: ObjectName, present: set[bytes]) -> bool:
        try:
            loaded = self.repository.lookup.load_index(name.text)
        except (IntegrityError, ObjectNotFound):
            return False  # damaged: `verify` names it
        return not any(pack in present for pack in loaded.packs)
