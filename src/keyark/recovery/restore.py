"""The restore operation (docs/format.md, section 13).

1. the keyring, up to the root (done when the repository was opened);
2. the snapshot's signature and its writer's standing (done when it was resolved);
3. each pack: name and signature where it is read as a whole, header in any case;
4. each block: AEAD;
5. the tree, and each chunk's id;
6. each file's size and SHA-256.

Damage names the object and the files it touches; what is sound is restored, nothing damaged is left looking whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from keyark import children
from keyark.children import can_fork
from keyark.errors import IntegrityError, InterruptedByUser, NotFoundError, UsageError
from keyark.operation import Context, Progress
from keyark.recovery import crew
from keyark.recovery.browse import entry_of
from keyark.recovery.files import Plan, WantedFile, fill_large, fill_small, plan_small
from keyark.recovery.metadata import Owners
from keyark.recovery.model import Entry, RestoreProblem, RestoreReport, RestoreRequest
from keyark.recovery.patterns import Selection
from keyark.recovery.reading import SnapshotReader
from keyark.recovery.snapshots import resolve
from keyark.recovery.target import NoHardLinks, TargetConflict, TargetTree, full, is_full
from keyark.repository import tree
from keyark.repository.repository import Repository
from keyark.repository.tree import Node

_BATCH_FILES = 8000  # small files filled together
_REPORT_FILES = 500  # between two messages of a process that shares the work
# What one object's restore may raise. ValueError and OverflowError come from what a snapshot may hold but a system call
# cannot take: a link to a name with a NUL, an owner or a time beyond all bounds.
_OBJECT_ERRORS = (OSError, TargetConflict, ValueError, OverflowError)


def restore(repository: Repository, request: RestoreRequest, context: Context) -> RestoreReport:
    """Restore a snapshot, or parts of it, below a target folder.

    NotFoundError when nothing matches; UsageError when the target is not empty and ``overwrite`` does not say how. Objects that
    could not be restored are in the report's problems.
    """
    context.recorder.before("restore", {"snapshot": request.snapshot, "dry_run": request.dry_run})
    try:
        report = _Restore(repository, request, context).run()
    except BaseException as e:
        context.recorder.after("restore", {}, e)
        raise
    context.recorder.after("restore", {"snapshot": report.snapshot_id, "problems": len(report.problems)}, None)
    return report


@dataclass(slots=True)
class _Counts:
    files: int = 0
    skipped: int = 0
    dirs: int = 0
    others: int = 0
    bytes_restored: int = 0
    files_total: int = 0
    bytes_total: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


class _Restore:
    def __init__(self, repository: Repository, request: RestoreRequest, context: Context) -> None:
        self.repository = repository
        self.request = request
        self.context = context
        self.started = context.clock.monotonic()
        self.counts = _Counts()
        self.selection = Selection(request.include, request.exclude)
        self.replace = request.overwrite is not None
        self.claimed: set[bytes] = (
            set()
        )  # hard-link groups of which one name was restored, is being restored, or failed
        self.links: dict[bytes, bytes] = {}  # hard-link group -> path of a name of it that stands in the target
        self.waiting: list[tuple[bytes, Node, bytes]] = []  # further names of a group, made when the first is whole
        self.restored: list[WantedFile] = []
        self.notices: tuple[str, ...] = ()
        self.crew: crew.Crew | None = None  # at work on the small files of the batch before

    def run(self) -> RestoreReport:
        request = self.request
        snapshot, info = resolve(self.repository, request.snapshot, request.at_ns, self.context)
        content = self.repository.open_content(snapshot)
        reader = SnapshotReader(self.repository, snapshot, content)
        self.counts.files_total = int(info.summary.get("total_files_processed", 0)) if self.selection.everything else 0
        self.counts.bytes_total = int(info.summary.get("total_bytes_processed", 0)) if self.selection.everything else 0
        if request.dry_run:
            self._dry_run(reader)
        else:
            target = TargetTree(request.target, Owners(content.users, content.groups))
            try:
                if request.overwrite is None and not target.empty:
                    raise UsageError(
                        f"the target {os.fsdecode(request.target)} is not empty; "
                        "say --overwrite always, if-changed or never, or choose another"
                    )
                self._restore(reader, target)
                self.notices = tuple(target.metadata.notices())
                if request.verify:
                    self._verify(target)
            finally:
                if self.crew is not None:
                    self.crew.close()
                target.close()
        counts = self.counts
        matched = (
            counts.files + counts.skipped + counts.dirs + counts.others + len(counts.entries) + len(counts.problems)
        )
        if not self.selection.everything and not matched:
            raise NotFoundError(
                f"nothing in snapshot {snapshot.id.hex()[:8]} matches {', '.join(request.include)}; `keyark ls` shows what is there"
            )
        return RestoreReport(
            snapshot_id=snapshot.id.hex(),
            name=content.name,
            target=request.target,
            files_restored=counts.files,
            files_skipped=counts.skipped,
            dirs_restored=counts.dirs,
            others_restored=counts.others,
            bytes_restored=counts.bytes_restored,
            bytes_fetched=reader.bytes_fetched,
            total_duration=self.context.clock.monotonic() - self.started,
            dry_run=request.dry_run,
            verified=request.verify and not request.dry_run,
            problems=tuple(counts.problems),
            entries=tuple(counts.entries),
            notices=self.notices,
        )

    def _problem(self, path: bytes, what: str, *, integrity: bool) -> None:
        self.counts.problems.append(RestoreProblem(path, what, integrity))

    def _tick(self, path: bytes) -> None:
        if not self.context.shows_progress:
            return
        counts = self.counts
        self.context.progress(
            Progress(
                "restore",
                counts.files,
                counts.files_total,
                counts.bytes_restored,
                counts.bytes_total,
                os.fsdecode(path).encode("utf-8", "replace").decode(),
            )
        )

    # -- dry run ---------------------------------------------------------------------------------------------------

    def _dry_run(self, reader: SnapshotReader) -> None:
        for path, node in reader.walk():
            if isinstance(node, IntegrityError):
                self._problem(path, str(node), integrity=True)
            elif self.selection.wants(path, folder=node.kind == tree.DIR):
                self.counts.entries.append(entry_of(path, node, reader.content))

    # -- the real thing --------------------------------------------------------------------------------------------

    def _restore(self, reader: SnapshotReader, target: TargetTree) -> None:
        folders: list[tuple[bytes, Node]] = []  # made by us: their metadata is set last
        ancestors: list[tuple[bytes, Node, bool]] = []  # path, node, made
        small: list[WantedFile] = []
        refused: bytes | None = None
        for path, node in reader.walk():
            self.context.cancel.check()
            if isinstance(node, IntegrityError):
                self._problem(path, str(node), integrity=True)
                continue
            if refused is not None and path.startswith(refused + b"/"):
                continue
            refused = None
            while ancestors and not path.startswith(ancestors[-1][0] + b"/"):
                ancestors.pop()
            folder = node.kind == tree.DIR
            if folder and self.selection.excluded(path):
                refused = path
                continue
            wanted = self.selection.wants(path, folder=folder)
            if folder:
                ancestors.append((path, node, False))
            if not wanted:
                continue
            if not self._make_ancestors(target, ancestors, folders):
                refused = ancestors[-1][0] if ancestors else None
                continue
            if folder:
                self.counts.dirs += 1
                continue
            queued = self._entry(reader, target, path, node)
            if queued is not None:
                small.append(queued)
                if len(small) >= _BATCH_FILES:
                    self._fill(reader, target, small)
                    small = []
        self._fill(reader, target, small)
        self._finish_crew()
        self._make_links(reader, target)
        for path, node in reversed(folders):
            self._guarded(path, lambda path=path, node=node: target.finish_folder(path, node))  # type: ignore[misc]

    def _make_ancestors(
        self, target: TargetTree, ancestors: list[tuple[bytes, Node, bool]], folders: list[tuple[bytes, Node]]
    ) -> bool:
        """Make the folders on the way that are not there yet."""
        for index, (path, node, made) in enumerate(ancestors):
            if made:
                continue
            try:
                fresh = target.make_folder(
                    path,
                    replace=self.request.overwrite == "always",
                    open_up=self.request.overwrite in ("always", "if-changed"),
                )
            except _OBJECT_ERRORS as e:
                self._failed(path, e)
                del ancestors[index + 1 :]
                return False
            if fresh or self.request.overwrite in ("always", "if-changed"):
                folders.append((path, node))
            ancestors[index] = (path, node, True)
        return True

    def _guarded(self, path: bytes, action: Callable[[], list[str] | None]) -> bool:
        """Run one step of one object; what fails is a problem of that object."""
        try:
            for trouble in action() or ():
                self._problem(path, trouble, integrity=False)
        except _OBJECT_ERRORS as e:
            self._failed(path, e)
            return False
        return True

    def _failed(self, path: bytes, e: Exception) -> None:
        """Note what went wrong with one object. StorageFull when it would go wrong with all that follow, too."""
        if isinstance(e, OSError) and is_full(e):
            raise full(e) from e
        self._problem(path, _reason(e), integrity=False)

    def _keeps_existing(self, target: TargetTree, path: bytes, node: Node) -> bool:
        """Whether the overwrite policy leaves what is in the target as it is."""
        if not self.replace:
            return False
        facts = target.existing(path)
        if facts is None:
            return False
        if self.request.overwrite == "never":
            return True
        if self.request.overwrite == "always" or node.kind != tree.FILE or not stat.S_ISREG(facts.st_mode):
            return False
        if (facts.st_size, facts.st_mtime_ns, stat.S_IMODE(facts.st_mode)) != (node.size, node.mtime_ns, node.mode):
            return False
        return target.metadata.same_owner(facts, node) and self._keeps_link(target, path, node, facts)

    def _keeps_link(self, target: TargetTree, path: bytes, node: Node, facts: os.stat_result) -> bool:
        """Whether an existing file that looks unchanged is also linked as it should be."""
        group = (node.extra or {}).get("l")
        if group is not None and group in self.claimed:
            first = target.existing(self.links[group]) if group in self.links else None
            if first is None or (first.st_dev, first.st_ino) != (facts.st_dev, facts.st_ino):
                return False
        elif group is not None:
            self.claimed.add(group)
            self.links[group] = path
        if self.request.verify:
            self.restored.append(WantedFile(path, node))
        return True

    def _entry(self, reader: SnapshotReader, target: TargetTree, path: bytes, node: Node) -> WantedFile | None:
        """Restore one object that is no folder; a small file is handed back to be filled with others."""
        if self._keeps_existing(target, path, node):
            self.counts.skipped += 1
            return None
        group = (node.extra or {}).get("l")
        if group is not None:
            if group in self.claimed:
                self.waiting.append((path, node, group))
                return None
            self.claimed.add(group)
        if node.kind != tree.FILE:
            self._special(target, path, node)
            return None
        if isinstance(node.content, bytes):
            return WantedFile(path, node)
        self._large(reader, target, WantedFile(path, node))
        return None

    def _special(self, target: TargetTree, path: bytes, node: Node) -> None:
        if self._guarded(path, lambda: target.make_special(path, node, replace=self.replace)):
            self.counts.others += 1
            self._stands(path, node)

    def _stands(self, path: bytes, node: Node) -> None:
        """Further names of the same object can be linked to this one."""
        group = (node.extra or {}).get("l")
        if group is not None:
            self.links.setdefault(group, path)

    def _fill(self, reader: SnapshotReader, target: TargetTree, files: list[WantedFile]) -> None:
        def failed(item: WantedFile, what: str) -> None:
            self._problem(item.path, what, integrity=True)

        def filled(item: WantedFile, data: memoryview) -> None:
            self.context.cancel.check()
            if self._write_small(target, item, data):
                self._done(item)

        if not files:
            return
        plan = plan_small(reader, files, failed)
        self._finish_crew()
        if len(files) >= crew.LEAST and can_fork() and self.repository.storage.capabilities().forkable:
            self._fill_shared(reader, target, plan)
        else:
            fill_small(reader, plan, filled, failed)

    def _write_small(self, target: TargetTree, item: WantedFile, data: memoryview) -> bool:
        def write() -> list[str]:
            pending = target.begin(item.path)
            try:
                pending.write(data, 0)
            except BaseException:
                pending.discard()
                raise
            return target.commit(pending, item.node, replace=self.replace)

        return self._guarded(item.path, write)

    def _fill_shared(self, reader: SnapshotReader, target: TargetTree, plan: Plan) -> None:
        """As `fill_small`, but each of a few processes takes a share of the blocks while the walk goes on."""
        items = [item for block in plan.blocks.values() for item, _, _ in block]
        numbers = {item.path: number for number, item in enumerate(items)}

        def received(message: list[Any]) -> None:
            done, problems, fetched, left_out = message
            for number in done:
                self._done(items[number])
            self.counts.problems += [RestoreProblem(*row) for row in problems]
            reader.count_fetched(fetched)
            target.metadata.count_left_out(left_out)

        shares = [partial(self._fill_share, reader, target, share, numbers) for share in plan.shares(children.COUNT)]
        self.crew = crew.Crew(shares, received)

    def _finish_crew(self) -> None:
        if self.crew is not None:
            at_work, self.crew = self.crew, None
            at_work.finish(self.context.cancel.check)

    def _fill_share(
        self,
        reader: SnapshotReader,
        target: TargetTree,
        share: Plan,
        numbers: dict[bytes, int],
        stopped: Callable[[], bool],
        send: crew.Send,
    ) -> None:
        """In a process of its own: what it counts and finds goes to the parent in messages."""
        done: list[int] = []

        def start_counting() -> None:
            done.clear()
            self.counts.problems.clear()
            reader.count_fetched(-reader.bytes_fetched)
            target.metadata.left_out = (0, 0, 0, 0)

        def report() -> None:
            problems = [[item.path, item.what, item.integrity] for item in self.counts.problems]
            send([done, problems, reader.bytes_fetched, target.metadata.left_out])
            start_counting()

        def filled(item: WantedFile, data: memoryview) -> None:
            if stopped():
                raise InterruptedByUser("interrupted")
            if self._write_small(target, item, data):
                done.append(numbers[item.path])
            if len(done) >= _REPORT_FILES:
                report()

        def failed(item: WantedFile, what: str) -> None:
            self._problem(item.path, what, integrity=True)

        start_counting()
        try:
            fill_small(reader, share, filled, failed, workers=0)  # the processes share the cores already
        finally:
            report()

    def _large(self, reader: SnapshotReader, target: TargetTree, item: WantedFile) -> None:
        counts = self.counts
        before = counts.bytes_restored

        def advance(length: int) -> None:
            self.context.cancel.check()
            counts.bytes_restored += length
            self._tick(item.path)

        def write() -> list[str]:
            pending = target.begin(item.path)
            try:
                fill_large(reader, item.node, pending, advance)
            except BaseException:
                pending.discard()
                raise
            return target.commit(pending, item.node, replace=self.replace)

        try:
            done = self._guarded(item.path, write)
        except IntegrityError as e:
            self._problem(item.path, str(e), integrity=True)
            done = False
        counts.bytes_restored = before
        if done:
            self._done(item)

    def _done(self, item: WantedFile) -> None:
        self.counts.files += 1
        self.counts.bytes_restored += item.node.size
        self._stands(item.path, item.node)
        if self.request.verify:
            self.restored.append(item)
        self._tick(item.path)

    def _make_links(self, reader: SnapshotReader, target: TargetTree) -> None:
        for path, node, group in self.waiting:
            self.context.cancel.check()
            first = self.links.get(group)
            if first is None:  # the first name could not be restored, so this one becomes it
                self._alone(reader, target, path, node)
                continue
            try:
                made = self._guarded(path, partial(self._link, target, path, first))
            except NoHardLinks as e:
                self._problem(path, f"restored as a copy, since the target made no hard link: {e}", integrity=False)
                self._alone(reader, target, path, node)
                continue
            if made and node.kind == tree.FILE:
                self.counts.files += 1
            elif made:
                self.counts.others += 1

    def _link(self, target: TargetTree, path: bytes, first: bytes) -> None:
        target.make_link(path, first, replace=self.replace)

    def _alone(self, reader: SnapshotReader, target: TargetTree, path: bytes, node: Node) -> None:
        if node.kind == tree.FILE:
            self._large(reader, target, WantedFile(path, node))
        else:
            self._special(target, path, node)

    def _verify(self, target: TargetTree) -> None:
        """Read every restored file back and compare."""
        for item in self.restored:
            self.context.cancel.check()
            try:
                digest, size = target.digest(item.path)
            except (OSError, TargetConflict) as e:
                self._problem(item.path, f"cannot be read back: {_reason(e)}", integrity=True)
                continue
            if size != item.node.size or (item.node.sha256 is not None and digest != item.node.sha256):
                self._problem(item.path, "what was read back is not what was restored", integrity=True)


def _reason(e: Exception) -> str:
    return (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
