"""The backup operation: one pass over the sources, a commit, and a look back (docs/format.md, section 12)."""

from __future__ import annotations

import getpass
import grp
import os
import pwd
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from keyark import __version__
from keyark.backup import commit
from keyark.backup.commit import Identity
from keyark.backup.contents import ContentReader
from keyark.backup.descriptors import raise_limit
from keyark.backup.estimate import Estimate
from keyark.backup.excludes import Excludes
from keyark.backup.filescache import FilesCache
from keyark.backup.model import BackupReport, BackupRequest, SourceProblem
from keyark.backup.packer import Packer
from keyark.backup.readers import OwnThread, Readers, start_readers
from keyark.backup.sink import ChunkSink
from keyark.backup.smallfiles import SmallFileReader
from keyark.backup.sources import normalised, outermost, remarks
from keyark.backup.tally import Tally
from keyark.backup.unchanged import Records
from keyark.backup.walker import Walker, WalkRules, source_trie
from keyark.crypto.suites import FIPS_SUITES, Suite, suite_by_name
from keyark.errors import ConflictError, UsageError
from keyark.operation import Context
from keyark.repository import tree
from keyark.repository.chunkids import DATA, TREE, chunk_id_function, chunker_seed
from keyark.repository.compression import Compression, parse_compression
from keyark.repository.enrol import ensure_writer
from keyark.repository.epochs import current_epoch
from keyark.repository.history import Alarm, Evidence, Head, History
from keyark.repository.marks import Marks
from keyark.repository.packlists import PackUse
from keyark.repository.packs import PackFacts
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Listed, SnapshotContent
from keyark.repository.tree import Node, encode_node
from keyark.text import show

_PROBLEMS = 10_000  # recorded by name in one snapshot
_PROBLEM_BYTES = 4 << 20  # of their paths
_ATTEMPTS = 5  # passes after which a repository that is pruned under our feet all the time is a conflict


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one pass over the sources gave."""

    tally: Tally
    tree: tuple[bytes, ...]
    uses: tuple[PackUse, ...]
    data_added: int
    stored_bytes: int


def backup(repository: Repository, request: BackupRequest, context: Context) -> BackupReport:
    """Back up files, folders or a stream.

    1. packs are stored as they fill; 2. the index; 3. the snapshot, create-only; 4. marks and presence are read again, and
    what a prune took away meanwhile is stored again and a replacement snapshot written; 5. only then is it reported done.

    Sources that cannot be read are named in the report; UsageError when there is nothing to back up at all.
    """
    started = context.clock.monotonic()
    context.recorder.before("backup", {"paths": len(request.paths), "dry_run": request.dry_run})
    try:
        report = _Backup(repository, request, context, started).run()
    except BaseException as e:
        context.recorder.after("backup", {}, e)
        raise
    context.recorder.after("backup", {"snapshot": report.snapshot_id}, None)
    return report


class _Backup:
    """One run. The steps are numbered as in `backup`."""

    def __init__(self, repository: Repository, request: BackupRequest, context: Context, started: float) -> None:
        self.repository = repository
        self.request = request
        self.context = context
        self.started = started
        self.now_ns = context.clock.now_ns()
        self.hostname = _text(request.hostname or socket.gethostname(), "the host name")
        for value, what in ((request.name or "", "the name"), *((tag, "the tag") for tag in request.tags)):
            _text(value, what)
        self.compression: Compression = parse_compression(request.compression)
        self.suite = _suite(repository, request)
        self.excludes = Excludes(request.excludes, request.exclude_files)
        self.paths = _sources(request)

    def run(self) -> BackupReport:
        repository, context = self.repository, self.context
        raise_limit()
        for remark in remarks(self.paths):
            context.warn(remark)
        writer = ensure_writer(repository, self.hostname)
        if writer.compartment is None:
            raise repository.keys.refuse("add snapshots", "a writer's credential")
        marks = repository.marks()
        history = self._history(marks, (writer.compartment, writer.id))
        generation = repository.keyring.compartments[writer.compartment].generation
        if self.request.dry_run:
            done = self._pass(None, writer.compartment, generation, marks, frozenset())
            return self._report(done, None, "", None)
        epoch = current_epoch(repository.storage, repository.keyring, writer, repository.state, context.clock)
        identity = Identity(writer, writer.compartment, generation, epoch)
        name = commit.unique_name(repository, self.request.name, self.now_ns)
        parent = history.heads().get((writer.compartment, writer.id))
        lost: frozenset[bytes] = frozenset()
        replaces: bytes | None = None
        first: _Pass | None = None
        for _ in range(_ATTEMPTS):
            done = self._pass(identity, writer.compartment, generation, marks, lost)
            first = first or done
            lists = commit.write_pack_lists(repository, identity, done.uses, lost | marks.pack_lists)
            facts = self._facts(done, name, parent)
            head = commit.write_snapshot(repository, identity, history, lists, facts, replaces)
            lost = commit.lost_objects(repository, writer.compartment, done.uses, lists)
            if not lost:
                commit.confirm(repository, identity, head)
                return self._report(first, head, name, parent)
            context.warn("a prune removed packs that this backup relied on; storing them again")
            marks, replaces = repository.marks(), head[1]
        raise ConflictError("packs are being pruned faster than they can be stored; run the backup again")

    def _history(self, marks: Marks, chain: tuple[bytes, bytes]) -> History:
        """An alarm about this writer's own chain stops the backup; one about others is for those who administer.

        So is one that others could raise at will, by an object that does not count or by a lie about what they saw: a machine
        that remembers its own chain needs no witness, and a switch to turn backups off would be worth more than the alarm.
        """
        history = self.repository.judge_history(marks)
        own = f"{chain[0].hex()}/{chain[1].hex()}"
        remembers = chain in self.repository.state.read_pins().heads

        def stops(alarm: Alarm) -> bool:
            if own not in alarm.object or alarm.evidence is Evidence.OBJECT:
                return False
            return alarm.evidence is Evidence.CHAIN or not remembers

        if any(stops(alarm) for alarm in history.alarms):
            return self.repository.history("add a snapshot", marks)
        head = history.heads().get(chain)
        if head is not None and not self.repository.state.made(chain, head):
            self.context.warn(
                f"snapshot {head[0]} ({head[1].hex()[:8]}) of this writer was not made by this machine as it remembers; "
                "if its credential was not used elsewhere on purpose it was stolen: `keyark writer revoke`"
            )
        for alarm in history.alarms:
            self.context.warn(f"alarm, which an administrator should look at: {alarm.what}")
        return history

    # -- step 1 ----------------------------------------------------------------------------------------------------

    def _pass(
        self, identity: Identity | None, compartment: bytes, generation: int, marks: Marks, lost: frozenset[bytes]
    ) -> _Pass:
        repository, context = self.repository, self.context
        lookup = repository.lookup
        lookup.sync(compartment)
        present = commit.present_packs(repository)
        bad = marks.packs | lost | marks.superseded.keys()
        if identity is not None:
            known = lookup.cache.numbers(compartment)
            unknown = [item for item in present if item not in known and item not in bad]
            lookup.adopt(compartment, unknown, marks.resealed)
        packs = {pack.num: pack for pack in lookup.cache.packs(compartment)}
        # A pack of another size than the index says is damaged: what it holds is stored again.
        whole = {num: pack for num, pack in packs.items() if present.get(pack.sha256) == pack.size}
        usable = {num for num, pack in whole.items() if pack.sha256 not in bad}
        keys = repository.keys.compartment(compartment, generation)
        algorithm = repository.keyring.id_algorithm
        data_id, tree_id = (
            chunk_id_function(algorithm, keys.id_key, repository.id, compartment, kind) for kind in (DATA, TREE)
        )
        readers = self._readers(data_id)  # first: they are forked, and nothing else may run then
        packer = None if identity is None else Packer(repository.storage, self._pack_facts(identity), self.compression)
        sink = ChunkSink(lookup.cache, usable, packer)
        tally = Tally(context.clock, context.progress, context.warn)
        cache = FilesCache(lookup.cache, keys, repository.id, compartment)
        records = Records(cache, sink)
        indexer = (
            None if packer is None or identity is None else commit.Indexer(repository, identity, packer, sink, records)
        )

        def advance(count: int) -> None:
            tally.bytes_in_file += count
            tally.tick(b"")

        def check() -> None:
            context.cancel.check()
            if indexer is not None:
                indexer.settle()

        seed = chunker_seed(keys.id_key, repository.id, compartment)
        contents = ContentReader(sink, data_id, seed, context.cancel.check, advance)
        try:
            walker = Walker(self._rules(), contents, readers, sink, cache, records, tree_id, tally, check, self.now_ns)
            root_ids = self._walk(walker, contents, sink, tree_id, tally)
            sink.flush()
            stored = () if indexer is None else indexer.finish(lookup.unindexed(compartment, present))
        except BaseException:
            if packer is not None:
                packer.abort()
            raise
        finally:
            contents.close()
            readers.close()
        uses = [
            PackUse(packs[num].sha256, packs[num].size, packs[num].data_length, min(used, packs[num].data_length))
            for num, used in sorted(sink.used.items())
        ]
        uses += [PackUse(item.sha256, item.size, item.data_length, item.data_length) for item in stored]
        return _Pass(tally, root_ids, tuple(uses), sink.data_added, sum(item.stored_bytes for item in stored))

    def _readers(self, data_id: Callable[[bytes | memoryview], bytes]) -> Readers:
        reader = SmallFileReader(data_id, self.now_ns)
        return OwnThread(reader) if self.request.stdin is not None else start_readers(reader)

    def _pack_facts(self, identity: Identity) -> PackFacts:
        keys = self.repository.keys.compartment(identity.compartment, identity.generation)
        return PackFacts(
            self.repository.id,
            identity.compartment,
            identity.writer.id,
            identity.epoch.id,
            identity.epoch.public,
            identity.generation,
            keys.index_key,
            self.suite,
            identity.writer.signing,
        )

    def _rules(self) -> WalkRules:
        skip = set()
        # A location that is no folder here (a URL) is no path that can be met on the way.
        for path in (self.repository.places.cache_dir, self.repository.storage.location):
            try:
                facts = os.stat(path)
            except OSError:
                continue
            skip.add((facts.st_dev, facts.st_ino))
        return WalkRules(
            self.excludes,
            self.request.exclude_caches,
            self.request.one_file_system,
            frozenset(skip),
            self.request.force,
        )

    def _walk(
        self,
        walker: Walker,
        contents: ContentReader,
        sink: ChunkSink,
        tree_id: Callable[[bytes | memoryview], bytes],
        tally: Tally,
    ) -> tuple[bytes, ...]:
        """The tree of the sources, as segments of the root folder."""
        if self.request.stdin is not None:
            segment = self._stream(contents, tally)
            chunk_id = tree_id(segment)
            sink.add(TREE, chunk_id, segment, (0, 0))
            return (chunk_id,)
        sources = outermost(self.paths)
        for path in set(self.paths) - set(sources):  # the walk does not look for what lies below another source
            if not os.path.lexists(path):
                tally.problem(path, "does not exist")
        estimate = Estimate(sources, self._rules(), tally) if self.context.shows_progress else None
        try:
            root = walker.folder(b"/", source_trie(sources))
        finally:
            if estimate is not None:
                estimate.close()
        if root is None:
            raise UsageError("the file system's root cannot be read; nothing was backed up")
        return root

    def _stream(self, reader: ContentReader, tally: Tally) -> bytes:
        name = self.request.stdin_name or b"stdin"
        if self.request.stdin is None or not tree.valid_name(name):
            raise UsageError(f"--stdin-name {show(name)!r} must be a plain file name")
        contents = reader.stream(self.request.stdin, (os.geteuid(), 0))
        tally.files_new, tally.bytes_read = 1, contents.size
        uid, gid = os.geteuid(), os.getegid()
        tally.uids.add(uid)
        tally.gids.add(gid)
        file = Node(
            name, tree.FILE, 0o600, uid, gid, self.now_ns, contents.size, contents.content, contents.sha256, None
        )
        return encode_node(file)

    # -- step 3 ----------------------------------------------------------------------------------------------------

    def _facts(self, done: _Pass, name: str, parent: Head | None) -> tuple[Listed, SnapshotContent]:
        tally = done.tally
        duration = self.context.clock.monotonic() - self.started
        listed = Listed(
            self.now_ns,
            tally.files,
            tally.dirs,
            tally.bytes_read,
            done.data_added,
            done.stored_bytes,
            len(tally.problems),
            int(duration * 10**9),
        )
        stream = b"/" + (self.request.stdin_name or b"stdin")
        content = SnapshotContent(
            name=name,
            hostname=self.hostname,
            username=self.request.username or _username(),
            paths=(stream,) if self.request.stdin is not None else self.paths,
            tags=self.request.tags,
            tree=done.tree,
            users=_names(tally.uids, lambda number: pwd.getpwuid(number).pw_name),
            groups=_names(tally.gids, lambda number: grp.getgrgid(number).gr_name),
            problems=_first_problems(tally.problems),
            excludes=tuple(os.fsencode(line) for line in self.excludes.lines),
            program=f"keyark {__version__}",
            parent=None if parent is None else parent[1],
        )
        return listed, content

    def _report(self, done: _Pass, head: Head | None, name: str, parent: Head | None) -> BackupReport:
        tally = done.tally
        return BackupReport(
            snapshot_id=None if head is None else head[1].hex(),
            name=name,
            files_new=tally.files_new,
            files_changed=tally.files_changed,
            files_unmodified=tally.files_unmodified,
            dirs_new=tally.dirs_new,
            dirs_changed=tally.dirs_changed,
            dirs_unmodified=tally.dirs_unmodified,
            data_added=done.data_added,
            data_added_packed=done.stored_bytes,
            total_files_processed=tally.files,
            total_bytes_processed=tally.bytes_read,
            total_duration=self.context.clock.monotonic() - self.started,
            parent=None if parent is None else parent[1].hex(),
            dry_run=self.request.dry_run,
            problems=tuple(tally.problems),
        )


def _first_problems(problems: Sequence[SourceProblem]) -> tuple[tuple[bytes, str], ...]:
    """As many as a snapshot has room for; the listed part counts them all."""
    found, size = [], 0
    for item in problems[:_PROBLEMS]:
        size += len(item.path)
        if size > _PROBLEM_BYTES:
            break
        found.append((item.path, item.what))
    return tuple(found)


def _text(value: str, what: str) -> str:
    """A value that goes into the snapshot as text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} {show(os.fsencode(value))} is not valid UTF-8") from None
    return value


def _suite(repository: Repository, request: BackupRequest) -> Suite:
    suite = Suite(repository.keyring.suite) if request.suite is None else suite_by_name(request.suite)
    if repository.keyring.profile == "fips" and suite not in FIPS_SUITES:
        raise UsageError("this repository's profile is fips, which allows AES-256-GCM only")
    return suite


def _sources(request: BackupRequest) -> tuple[bytes, ...]:
    if request.stdin is not None:
        if request.paths:
            raise UsageError("give either paths or --stdin, not both")
        return ()
    return normalised(request.paths)


def _names(numbers: Iterable[int], look_up: Callable[[int], str]) -> dict[int, str]:
    found = {}
    for number in numbers:
        try:
            found[number] = look_up(number)
            found[number].encode()
        except (KeyError, OverflowError):
            continue
        except UnicodeEncodeError:  # the number alone has to do
            del found[number]
    return found


def _username() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())
