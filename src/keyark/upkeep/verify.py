"""The verify operation: find any flipped, missing, truncated, swapped or foreign object and name what it touches."""

from __future__ import annotations

import tempfile

from keyark.errors import IntegrityError, NoKeyError, NotAllowedError, ObjectNotFound
from keyark.operation import Context
from keyark.repository import names
from keyark.repository.cache import Cache
from keyark.repository.history import History
from keyark.repository.loading import load_pack_list
from keyark.repository.lookup import Lookup
from keyark.repository.names import PROBE, pack_list_name, pack_name, parse_name
from keyark.repository.packlists import PackUse
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot
from keyark.repository.wire import ObjectType
from keyark.upkeep.checkkeys import check_keyring, check_pack_epochs, check_wraps
from keyark.upkeep.checkpacks import Claims, PackCheck, check_presence, choose, read_packs
from keyark.upkeep.checktrees import TreeCheck
from keyark.upkeep.findings import Findings
from keyark.upkeep.model import VerifyReport, VerifyRequest
from keyark.upkeep.reindex import repair_index

_PLAIN = frozenset({names.README, names.READER})


def verify(repository: Repository, request: VerifyRequest, context: Context) -> VerifyReport:
    """Check a repository. The structure needs an operator's credential or a key that reads; names of files need the latter.

    Nothing is taken from local caches: the index is loaded anew. Findings are in the report, not raised.
    """
    if not repository.can_list:
        raise repository.keys.refuse("verify", "an operator's credential or a key that reads")
    context.recorder.before("verify", {"read_data": request.read_data or request.read_data_subset is not None})
    try:
        report = _verify(repository, request, context)
    except BaseException as e:
        context.recorder.after("verify", {}, e)
        raise
    context.recorder.after("verify", {"sound": report.sound}, None)
    return report


def _verify(repository: Repository, request: VerifyRequest, context: Context) -> VerifyReport:
    """Others go on working while we read. What a keyring newer than ours explains is no finding: then we look once more."""
    generation = repository.keyring.generation
    report = _Verify(repository, request, context).run()
    if not report.sound:
        repository.refresh_keyring()
        if repository.keyring.generation != generation:
            report = _Verify(repository, request, context).run()
    return report


class _Verify:
    def __init__(self, repository: Repository, request: VerifyRequest, context: Context) -> None:
        self.repository = repository
        self.request = request
        self.context = context
        self.started = context.clock.monotonic()
        self.findings = Findings()

    def run(self) -> VerifyReport:
        with tempfile.TemporaryDirectory(prefix="keyark-verify-") as scratch:
            cache = Cache(scratch, self.repository.id)
            try:
                lookup = Lookup(
                    self.repository.storage, self.repository.keyring, self.repository.keys, cache, lambda _: None
                )
                return self._run(lookup)
            finally:
                cache.close()

    def _run(self, lookup: Lookup) -> VerifyReport:
        repository, findings = self.repository, self.findings
        repaired = repair_index(repository, self.context) if self.request.repair_index else False
        check_keyring(repository, findings)
        # Snapshots before packs: what a snapshot rests on was stored before it, so the later listing shows it.
        history = self._history()
        present = self._names()
        check_wraps(repository, history.live, findings)
        uses = self._pack_lists(history)
        listed = check_presence(uses, present, history.replaced, findings)
        claims = self._index(lookup, listed, present)
        check = PackCheck()
        unlisted = [item for item in present if item not in listed]
        read_packs(repository, lookup, unlisted, findings, self.context, PackCheck())
        self._note_unlisted(unlisted)
        if self.request.read_data or self.request.read_data_subset is not None:
            candidates = {item: present[item] for item in listed if item in present}
            chosen = choose(candidates, self.request.read_data_subset)
            read_packs(repository, lookup, chosen, findings, self.context, check)
            check.compare(claims, findings)
            check_pack_epochs(repository, check.epochs, findings)
        self._touch(uses)
        files = 0
        if repository.can_read:
            trees = TreeCheck(repository, lookup, findings, self.context)
            for snapshot in history.live:
                trees.snapshot(snapshot, excused=snapshot.id in history.replaced)
            files = trees.files
        self._excuse_forgotten(history)
        return VerifyReport(
            findings=findings.result(),
            snapshots=len(history.live),
            packs=len(present),
            packs_read=check.read,
            bytes_read=check.bytes_read,
            files_checked=files,
            content_checked=check.content,
            index_repaired=repaired,
            total_duration=self.context.clock.monotonic() - self.started,
        )

    def _names(self) -> dict[bytes, int]:
        """Every name must be an object's; returns the packs with their sizes."""
        packs = {}
        for info in self.repository.storage.list():
            parsed = parse_name(info.name)
            if parsed is None and PROBE.fullmatch(info.name):
                self.findings.note(info.name, f"{info.name}: left by `init` or `doctor` trying what the storage allows")
            elif parsed is None and info.name not in _PLAIN:
                self.findings.bad(info.name, f"{info.name}: does not belong into a repository")
            if parsed is not None and parsed.type is ObjectType.PACK and parsed.sha256 is not None:
                packs[parsed.sha256] = info.size
        return packs

    def _history(self) -> History:
        marks = self.repository.marks()
        for name, what in marks.rejected:
            self.findings.bad(name, what)
        for name in marks.retired:
            self.findings.note(name, f"{name}: of an operator who was revoked; the root has repeated what counts of it")
        history = self.repository.judge_history(marks)
        for alarm in history.alarms:
            self.findings.bad(alarm.object, alarm.what)
        for snapshot in history.live:
            try:
                self.repository.open_listed(snapshot)
            except (IntegrityError, NoKeyError) as e:
                self.findings.bad(snapshot.name, f"{snapshot.name}: {e}")
                self.findings.touches(snapshot.name, snapshot.id)
        return history

    def _pack_lists(self, history: History) -> dict[bytes, tuple[PackUse, ...]]:
        """Every pack list, those of live snapshots opened: snapshot id -> packs."""
        findings, keyring = self.findings, self.repository.keyring
        for info in self.repository.storage.list("packlists/"):
            try:
                load_pack_list(self.repository.storage, keyring, info.name)
            except ObjectNotFound:
                continue
            except IntegrityError as e:
                findings.bad(info.name, str(e))
        uses = {}
        for snapshot in history.live:
            try:
                uses[snapshot.id] = self.repository.pack_uses(snapshot)
            except (IntegrityError, NoKeyError) as e:
                if snapshot.id in history.replaced:
                    findings.note(snapshot.name, f"{e}; a later snapshot replaces this one")
                    continue
                self._unlisted_snapshot(snapshot, e)
        return uses

    def _unlisted_snapshot(self, snapshot: Snapshot, e: Exception) -> None:
        """A snapshot whose pack lists cannot all be read: laid at the lists' door, or, where none is at fault, at its own."""
        lists = [
            pack_list_name(snapshot.head.compartment, snapshot.head.writer, sha256)
            for sha256 in snapshot.head.pack_lists
        ]
        guilty = [name for name in lists if name in self.findings.fatal or name in str(e)] or [snapshot.name]
        for name in guilty:
            self.findings.bad(name, f"{snapshot.name}: {e}" if name == snapshot.name else str(e))
            self.findings.touches(name, snapshot.id)

    def _excuse_forgotten(self, history: History) -> None:
        """Snapshots that were forgotten while we read, and pruned: what they miss is nobody's loss."""
        if self.findings.fatal:
            standing = {snapshot.id for snapshot in self.repository.judge_history().live}
            buried = self.repository.marks().tombstones
            self.findings.excuse({item.id for item in history.live if item.id not in standing and item.id in buried})

    def _index(self, lookup: Lookup, listed: set[bytes], present: dict[bytes, int]) -> Claims:
        """Index objects: signed and sound, and together naming every listed pack; returns what they say about packs."""
        findings = self.findings
        claims: Claims = {}
        covered: set[bytes] = set()
        for info in self.repository.storage.list("index/"):
            try:
                loaded = lookup.load_index(info.name)
                covered.update(loaded.packs)
                if self.repository.can_read:
                    keys = self.repository.keys.compartment(loaded.compartment, loaded.generation)
                    for entry in loaded.open(keys.index_key):
                        claims.setdefault(entry.sha256, []).append((info.name, entry.digest()))
            except ObjectNotFound:
                continue
            except IntegrityError as e:
                findings.bad(info.name, f"{e}; `keyark verify --repair-index` rebuilds it")
            except (NoKeyError, NotAllowedError):
                continue
        resealed = self.repository.marks().resealed  # the next backup of their compartment indexes these
        lost = [item for item in listed if item in present and item not in covered and self._is_there(item)]
        lost = [item for item in lost if item not in resealed]
        if lost:
            findings.bad(
                "index/",
                f"index/: {len(lost)} packs are in no index object; `keyark verify --repair-index` rebuilds it",
            )
        return claims

    def _is_there(self, pack: bytes) -> bool:
        try:
            self.repository.storage.stat(pack_name(pack))
        except ObjectNotFound:
            return False  # pruned since it was listed
        return True

    def _note_unlisted(self, unlisted: list[bytes]) -> None:
        for item in unlisted:
            name = pack_name(item)
            if name not in self.findings.fatal:
                self.findings.note(name, f"{name}: in no snapshot; left by an interrupted backup, or waiting for prune")

    def _touch(self, uses: dict[bytes, tuple[PackUse, ...]]) -> None:
        """Which snapshots rest on bad packs."""
        bad = self.findings.bad_packs()
        for snapshot, packs in uses.items():
            for name in (item for use in packs for item in use.names if item in bad):
                self.findings.touches(pack_name(name), snapshot)
