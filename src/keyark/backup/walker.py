"""The walk: folders by descriptor, files against last time's record, trees from the leaves up.

Everything is opened relative to its folder's descriptor and never through a link, so a path may be as deep as the file
system allows and nobody can swap a folder for a link under our feet.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from keyark.backup.contents import ContentReader, Contents
from keyark.backup.excludes import Excludes
from keyark.backup.filescache import Entry, FilesCache, FolderRecord
from keyark.backup.metadata import fingerprint, is_cache_folder, is_cache_tag, kind_of, recorded_time, same_file, xattrs
from keyark.backup.sink import ChunkSink
from keyark.backup.tally import Tally
from keyark.repository import tree
from keyark.repository.blocks import MAX_CHUNK
from keyark.repository.cache import CacheError
from keyark.repository.chunkids import TREE
from keyark.repository.tree import Node, encode_node, encode_row

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR})  # no longer what was listed
_RACY_NS = 20_000_000  # a file changed this recently may change again within the clock's granularity: not remembered


class _Entry:
    """A scandir entry with its name as bytes."""

    __slots__ = ("_entry", "name")

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self._entry = entry
        self.name = os.fsencode(entry.name)

    def stat(self) -> os.stat_result:
        return self._entry.stat(follow_symlinks=False)


@dataclass(slots=True)
class Frame:
    """A folder being walked."""

    path: bytes
    descriptor: int
    facts: os.stat_result
    device: int
    names: list[_Entry]
    root: int  # number of the source it belongs to
    only: frozenset[bytes] | None = None  # on the way to a source: nothing else is entered
    position: int = 0
    nodes: list[bytes] = field(default_factory=list)
    known: FolderRecord | None = None
    record: FolderRecord = field(default_factory=FolderRecord)
    unchanged: dict[bytes, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WalkRules:
    """What is walked into."""

    excludes: Excludes
    exclude_caches: bool
    one_file_system: bool
    skip: frozenset[tuple[int, int]]  # (device, inode) of folders that are never entered: the repository itself
    force: bool


class Walker:
    """Walks source folders and builds their trees. Used from one thread."""

    def __init__(
        self,
        rules: WalkRules,
        reader: ContentReader,
        sink: ChunkSink,
        files_cache: FilesCache,
        tree_id: Callable[[bytes | memoryview], bytes],
        tally: Tally,
        check: Callable[[], None],
        now_ns: int,
    ) -> None:
        self._rules = rules
        self._reader = reader
        self._sink = sink
        self._cache = files_cache
        self._tree_id = tree_id
        self._tally = tally
        self._check = check
        self._now_ns = now_ns
        self._sources_seen = 0

    # -- folders ---------------------------------------------------------------------------------------------------

    def folder(self, path: bytes, sources: dict[bytes, Any] | None = None) -> tuple[bytes, ...] | None:
        """Walk a folder; returns its tree segments, or None when it could not be opened.

        ``sources`` is a trie of names: where it is given, only they are entered, down to the sources themselves.
        """
        try:
            first = self._open(path, path, None, 0, None)
        except OSError as e:
            self._tally.problem(path, _reason(e))
            return None
        return self._walk(first, sources)

    def _walk(self, first: Frame, sources: dict[bytes, Any] | None) -> tuple[bytes, ...]:
        stack = [first]
        tries: list[dict[bytes, Any] | None] = [sources]
        self._restrict(first, sources)
        try:
            while True:
                frame = stack[-1]
                child = self._advance(frame, tries[-1])
                if child is not None:
                    frame.position += 1
                    stack.append(child[0])
                    tries.append(child[1])
                    self._restrict(child[0], child[1])
                    continue
                ids = self._finish(frame)
                if len(stack) > 1:
                    node = self._folder_node(frame.path, frame.facts, ids, frame.descriptor)
                    stack[-2].nodes.append(node)
                stack.pop()
                tries.pop()
                os.close(frame.descriptor)
                if not stack:
                    return tuple(ids)
        except BaseException:
            for frame in stack:
                os.close(frame.descriptor)
            raise

    def _restrict(self, frame: Frame, sources: dict[bytes, Any] | None) -> None:
        if not self._rules.force:
            frame.known = self._cache.load(frame.path)
            self._find_unchanged(frame)
        if sources is not None:
            frame.names = [entry for entry in frame.names if entry.name in sources]
            missing = sources.keys() - {entry.name for entry in frame.names}
            for name in sorted(missing):
                for path in _named(os.path.join(frame.path, name), sources[name]):
                    self._tally.problem(path, "does not exist")

    def _advance(self, frame: Frame, sources: dict[bytes, Any] | None) -> tuple[Frame, dict[bytes, Any] | None] | None:
        """Handle entries up to the next folder that is to be entered; None when the folder is done."""
        while frame.position < len(frame.names):
            entry = frame.names[frame.position]
            below = None if sources is None else sources[entry.name]
            if sources is not None and below is not None:  # on the way to a source
                child = self._enter(frame, entry, follow=True)
                if child is not None:
                    return child, below
            elif sources is not None:  # a source itself
                self._sources_seen += 1
                frame.root = self._sources_seen
                child = self._entry(frame, entry, named=True)
                if child is not None:
                    return child, None
            else:
                child = self._entry(frame, entry)
                if child is not None:
                    return child, None
            frame.position += 1
        return None

    def _open(self, name: bytes, path: bytes, parent: Frame | None, device: int, sources: Any) -> Frame:
        flags = _FOLDER_FLAGS if sources is None else _FOLDER_FLAGS & ~os.O_NOFOLLOW
        descriptor = os.open(name, flags, dir_fd=None if parent is None else parent.descriptor)
        try:
            facts = os.fstat(descriptor)
            with os.scandir(descriptor) as found:
                # Entries of a descriptor are text; names are bytes everywhere else.
                names = sorted((_Entry(entry) for entry in found), key=_by_name)
        except BaseException:
            os.close(descriptor)
            raise
        return Frame(path, descriptor, facts, device or facts.st_dev, names, 0 if parent is None else parent.root)

    def _enter(self, frame: Frame, entry: _Entry, *, follow: bool = False, new_device: bool = False) -> Frame | None:
        path = os.path.join(frame.path, entry.name)
        try:
            return self._open(entry.name, path, frame, 0 if follow or new_device else frame.device, follow or None)
        except OSError as e:
            gone = e.errno in _GONE and not follow
            self._tally.problem(path, _reason(e, replaced=gone))
            if not gone:  # there, but closed to us: the folder itself comes back, empty
                with contextlib.suppress(OSError):
                    frame.nodes.append(self._folder_node(path, entry.stat(), [], path))
            return None

    def _finish(self, frame: Frame) -> list[bytes]:
        """Store a folder's tree; returns its segments."""
        self._count_packs(frame)
        ids = []
        for segment in tree.segments(frame.nodes):
            chunk_id = self._tree_id(segment)
            self._sink.add(TREE, chunk_id, segment, (0, 0))
            ids.append(chunk_id)
        frame.record.segments = tuple(ids)
        known = frame.known
        if known is None:
            self._tally.dirs_new += 1
        elif known.segments == frame.record.segments:
            self._tally.dirs_unmodified += 1
        else:
            self._tally.dirs_changed += 1
        if known is None or known.files != frame.record.files or known != frame.record:
            self._cache.store(frame.path, frame.record)
        self._tally.tick(frame.path)
        return ids

    def _attributes(self, target: int | bytes, path: bytes) -> dict[bytes, bytes] | None:
        """Extended attributes; an object whose attributes cannot be read is backed up without them."""
        try:
            return xattrs(target)
        except OSError as e:
            self._tally.problem(path, f"its attributes cannot be read: {e.strerror}")
            return None

    def _folder_node(self, path: bytes, facts: os.stat_result, ids: list[bytes], target: int | bytes) -> bytes:
        self._tally.uids.add(facts.st_uid)
        self._tally.gids.add(facts.st_gid)
        found = self._attributes(target, path)
        node = Node(
            os.path.basename(path),
            tree.DIR,
            facts.st_mode & 0o7777,
            facts.st_uid,
            facts.st_gid,
            recorded_time(facts.st_mtime_ns),
            0,
            ids,
            None,
            {"x": found} if found else None,
        )
        return encode_node(node)

    # -- entries ---------------------------------------------------------------------------------------------------

    def _entry(self, frame: Frame, entry: _Entry, *, named: bool = False) -> Frame | None:
        """Handle one entry; returns a frame when it is a folder to walk."""
        path = frame.path + b"/" + entry.name if frame.path != b"/" else b"/" + entry.name
        try:
            facts = entry.stat()
            kind = kind_of(facts.st_mode)
            if kind is None:
                if named:
                    self._tally.problem(path, "a socket: there is nothing in it to back up")
                return None
            if not named and self._rules.excludes and self._rules.excludes.match(path, folder=kind == tree.DIR):
                return None
            if kind == tree.DIR:
                return self._subfolder(frame, entry, facts, named=named)
            if kind == tree.FILE:
                encoded = self._file(frame, entry.name, facts, path)
            else:
                encoded = self._special(frame, entry.name, kind, facts, path)
        except OSError as e:
            self._tally.problem(path, _reason(e, replaced=e.errno in _GONE))
            return None
        if encoded is not None:
            frame.nodes.append(encoded)
        return None

    def _subfolder(self, frame: Frame, entry: _Entry, facts: os.stat_result, *, named: bool) -> Frame | None:
        if (facts.st_dev, facts.st_ino) in self._rules.skip:
            if named:
                self._tally.problem(frame.path.rstrip(b"/") + b"/" + entry.name, "Keyark's own repository or cache")
            return None
        child = self._enter(frame, entry, new_device=named)
        if child is None:
            return None
        if self._rules.one_file_system and not named and child.facts.st_dev != frame.device:
            child.names = []
        elif self._rules.exclude_caches and is_cache_folder(child.descriptor):
            child.names = [item for item in child.names if is_cache_tag(item.name)]
        return child

    def _special(self, frame: Frame, name: bytes, kind: int, facts: os.stat_result, path: bytes) -> bytes:
        content: bytes | int | None = None
        if kind == tree.SYMLINK:
            content = os.readlink(name, dir_fd=frame.descriptor)
        elif kind in (tree.CHAR, tree.BLOCK):
            content = facts.st_rdev
        self._tally.others += 1
        self._owners(facts)
        extra: dict[str, Any] = {}
        found = self._attributes(b"/proc/self/fd/%d/%s" % (frame.descriptor, name), path)
        if found:
            extra["x"] = found
        if facts.st_nlink > 1:
            extra["l"] = _link_key(facts)
        return encode_node(
            Node(
                name,
                kind,
                facts.st_mode & 0o7777,
                facts.st_uid,
                facts.st_gid,
                recorded_time(facts.st_mtime_ns),
                0,
                content,
                None,
                extra or None,
            )
        )

    def _owners(self, facts: os.stat_result) -> None:
        self._tally.uids.add(facts.st_uid)
        self._tally.gids.add(facts.st_gid)

    def _file(self, frame: Frame, name: bytes, facts: os.stat_result, path: bytes) -> bytes | None:
        self._owners(facts)
        entry = frame.unchanged.get(name)
        if entry is not None and entry[0] == fingerprint(facts):
            self._tally.files_unmodified += 1
            self._tally.bytes_read += facts.st_size
            frame.record.files[name] = entry
            return entry[1]
        self._check()
        descriptor = os.open(name, _FILE_FLAGS, dir_fd=frame.descriptor)
        try:
            before, contents = facts, self._reader.file(descriptor, facts, (facts.st_uid, frame.root))
            found = self._attributes(descriptor, path)
            after = os.fstat(descriptor)
            if not same_file(before, after):  # written to, or replaced by a new file, since it was listed: once more
                before = after
                if kind_of(before.st_mode) != tree.FILE:
                    raise FileNotFoundError
                os.lseek(descriptor, 0, os.SEEK_SET)
                contents = self._reader.file(descriptor, before, (before.st_uid, frame.root))
                found = self._attributes(descriptor, path)
                after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        changed = not same_file(before, after)
        encoded = _encode_file(name, before, contents, found, changed=changed)
        if len(encoded) > MAX_CHUNK:
            raise OSError(errno.EFBIG, "too large for one file of this format (about 200 GB)")
        if changed:
            self._tally.problem(path, "changed while being read")
        elif before.st_ctime_ns < self._now_ns - _RACY_NS:
            references = contents.content
            if isinstance(references, list):
                references = [row for row in references if row[0] is not None]
            frame.record.files[name] = (fingerprint(before), encoded, references)
        if frame.known is not None and name in frame.known.files:
            self._tally.files_changed += 1
        else:
            self._tally.files_new += 1
        self._tally.bytes_in_file = 0
        self._tally.bytes_read += contents.size
        self._tally.tick(path)
        return encoded

    # -- unchanged files -------------------------------------------------------------------------------------------

    def _find_unchanged(self, frame: Frame) -> None:
        """Which files of last time's record still have all their chunks in usable packs."""
        known = frame.known
        if known is None:
            return
        if known.packs is not None and all(self._sink.is_usable(pack) for pack in known.packs):
            frame.unchanged = known.files
            return
        ids = [chunk for entry in known.files.values() for chunk, _ in _references(entry)]
        found = self._sink.known(ids)
        frame.unchanged = {
            name: entry for name, entry in known.files.items() if all(chunk in found for chunk, _ in _references(entry))
        }

    def _count_packs(self, frame: Frame) -> None:
        """Note which packs the folder's files rest on, in the record too, so that next time no chunk is looked up."""
        known = frame.known
        if known is not None and known.packs is not None and known.files == frame.record.files:
            packs: dict[int, int] | None = known.packs
            if not all(self._sink.is_usable(pack) for pack in known.packs):
                packs = self._locate(frame)
        else:
            packs = self._locate(frame)
        frame.record.packs = packs
        for pack, length in (packs or {}).items():
            self._sink.count(pack, length)

    def _locate(self, frame: Frame) -> dict[int, int] | None:
        """Packs and bytes of the files taken over; None while some chunk's pack is not known yet."""
        kept = {name for name, entry in frame.record.files.items() if frame.unchanged.get(name) is entry}
        references = [pair for name in kept for pair in _references(frame.record.files[name])]
        found = self._sink.known(chunk for chunk, _ in references)
        packs: dict[int, int] = {}
        for chunk, length in references:
            if chunk not in found:
                raise CacheError("the local cache contradicts itself; delete it and run again, nothing is lost")
            pack = found[chunk]
            packs[pack] = packs.get(pack, 0) + length
        if len(kept) == len(frame.record.files):
            return packs
        for pack, length in packs.items():
            self._sink.count(pack, length)
        return None


def _by_name(entry: _Entry) -> bytes:
    return entry.name


def _references(entry: Entry) -> Iterable[tuple[bytes, int]]:
    references = entry[2]
    if references is None:
        return ()
    if isinstance(references, bytes):
        return ((references, int.from_bytes(entry[0][8:16], "big")),)
    return ((row[0], row[1]) for row in references)


def _link_key(facts: os.stat_result) -> bytes:
    return facts.st_dev.to_bytes(8, "big") + facts.st_ino.to_bytes(8, "big")


def _encode_file(
    name: bytes, facts: os.stat_result, contents: Contents, found: dict[bytes, bytes] | None, *, changed: bool
) -> bytes:
    extra: dict[str, Any] = {}
    if found:
        extra["x"] = found
    if facts.st_nlink > 1:
        extra["l"] = _link_key(facts)
    if changed:
        extra["c"] = True
    return encode_row(
        [
            name,
            tree.FILE,
            facts.st_mode & 0o7777,
            facts.st_uid,
            facts.st_gid,
            recorded_time(facts.st_mtime_ns),
            contents.size,
            contents.content,
            contents.sha256,
            extra or None,
        ]
    )


def _reason(e: OSError, *, replaced: bool = False) -> str:
    if isinstance(e, FileNotFoundError):
        return "vanished"
    if replaced:
        return "replaced by something else while being read"
    return f"cannot be read: {e.strerror or e}"


def _named(path: bytes, below: dict[bytes, Any] | None) -> Iterator[bytes]:
    """The sources at or below a path that is on the way to them."""
    if below is None:
        yield path
        return
    for name, further in sorted(below.items()):
        yield from _named(path + b"/" + name, further)


def source_trie(paths: Iterable[bytes]) -> dict[bytes, Any] | None:
    """Absolute, normalised paths as nested names; a source is None, and swallows what lies below it.

    None when the root itself is a source.
    """
    root: dict[bytes, Any] = {}
    for path in sorted(set(paths)):
        parts = [part for part in path.split(b"/") if part]
        if not parts:
            return None
        level = root
        for part in parts[:-1]:
            below = level.setdefault(part, {})
            if below is None:
                break
            level = below
        else:
            level[parts[-1]] = None
    return root
