"""The walk: folders by descriptor, files against last time's record, trees from the leaves up.

Everything is opened relative to its folder's descriptor and never through a link, so a path may be as deep as the file
system allows and nobody can swap a folder for a link under our feet. Small files are read by others (`keyark.backup.readers`)
while the walk goes on; a folder is finished once its files have come back, after those below it and before its parent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from keyark.backup.contents import ContentReader
from keyark.backup.excludes import Excludes
from keyark.backup.filescache import FilesCache
from keyark.backup.frames import Frame, Listed
from keyark.backup.metadata import fingerprint, is_cache_folder, is_cache_tag, kind_of, recorded_time, xattrs
from keyark.backup.readers import Batch, Read, Readers
from keyark.backup.sink import ChunkSink
from keyark.backup.smallfiles import (
    CHANGED,
    FAILED,
    FILE_FLAGS,
    LARGE,
    NO_ROOM,
    RACY_NS,
    READ,
    Row,
    encode_file,
    link_key,
)
from keyark.backup.tally import Tally
from keyark.backup.unchanged import Records, find_unchanged
from keyark.repository import tree
from keyark.repository.blocks import MAX_CHUNK
from keyark.repository.chunkids import DATA, TREE
from keyark.repository.tree import Node, encode_node

_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_ENCODING, _ESCAPE = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_GONE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR})  # no longer what was listed
_UNFINISHED = 128  # folders whose files are still being read: each keeps its descriptor open


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
        contents: ContentReader,
        readers: Readers,
        sink: ChunkSink,
        files_cache: FilesCache,
        records: Records,
        tree_id: Callable[[bytes | memoryview], bytes],
        tally: Tally,
        check: Callable[[], None],
        now_ns: int,
    ) -> None:
        self._rules = rules
        self._contents = contents
        self._readers = readers
        self._sink = sink
        self._cache = files_cache
        self._records = records
        self._tree_id = tree_id
        self._tally = tally
        self._check = check
        self._settled = now_ns - RACY_NS
        self._sources_seen = 0
        self._batch = Batch()
        self._walked: deque[Frame] = deque()  # folders to be finished, those below before those above

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
            while stack:
                frame = stack[-1]
                child = self._advance(frame, tries[-1])
                if child is not None:
                    frame.position += 1
                    stack.append(child[0])
                    tries.append(child[1])
                    self._restrict(child[0], child[1])
                    continue
                self._walked.append(frame)
                stack.pop()
                tries.pop()
                self._finish_folders(_UNFINISHED)
            self._finish_folders(0)
        except BaseException:
            for frame in (*stack, *self._walked):
                os.close(frame.descriptor)
            raise
        return first.record.segments

    def _restrict(self, frame: Frame, sources: dict[bytes, Any] | None) -> None:
        if not self._rules.force:
            frame.known = self._cache.load(frame.path)
            find_unchanged(frame, self._sink)
        if sources is not None:
            frame.names = [item for item in frame.names if item[0] in sources]
            missing = sources.keys() - {name for name, _ in frame.names}
            for name in sorted(missing):
                for path in _named(frame.below(name), sources[name]):
                    self._tally.problem(path, "does not exist")

    def _advance(self, frame: Frame, sources: dict[bytes, Any] | None) -> tuple[Frame, dict[bytes, Any] | None] | None:
        """Handle entries up to the next folder that is to be entered; None when the folder is done."""
        while frame.position < len(frame.names):
            entry = frame.names[frame.position]
            below = None if sources is None else sources[entry[0]]
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
                # Entries of a descriptor are text; names are bytes everywhere else. No two are equal, so only they are compared.
                names = sorted([(entry.name.encode(_ENCODING, _ESCAPE), entry) for entry in found])
        except BaseException:
            os.close(descriptor)
            raise
        return Frame(
            path, descriptor, facts, device or facts.st_dev, names, 0 if parent is None else parent.root, parent
        )

    def _enter(self, frame: Frame, item: Listed, *, follow: bool = False, new_device: bool = False) -> Frame | None:
        name, entry = item
        path = frame.below(name)
        try:
            child = self._open(name, path, frame, 0 if follow or new_device else frame.device, follow or None)
        except OSError as e:
            gone = e.errno in _GONE and not follow
            self._tally.problem(path, _reason(e, replaced=gone))
            if not gone:  # there, but closed to us: the folder itself comes back, empty
                with contextlib.suppress(OSError):
                    frame.entries.append(self._folder_node(path, entry.stat(follow_symlinks=False), [], path))
            return None
        child.place = frame.reserve()
        return child

    def _finish_folders(self, limit: int) -> None:
        """Finish the folders whose files are all there; when more than ``limit`` are left, wait for files."""
        while self._walked:
            frame = self._walked[0]
            if frame.waiting:
                if len(self._walked) <= limit:
                    return
                self._give()
                self._take()
                continue
            ids = self._finish(frame)
            if frame.parent is not None:
                node = self._folder_node(frame.path, frame.facts, ids, frame.descriptor)
                frame.parent.entries[frame.place] = node
            self._walked.popleft()
            os.close(frame.descriptor)

    def _finish(self, frame: Frame) -> list[bytes]:
        """Store a folder's tree; returns its segments."""
        segments = list(tree.segments([entry for entry in frame.entries if entry is not None]))
        ids = [self._tree_id(segment) for segment in segments]
        frame.record.segments, frame.record.lengths = tuple(ids), tuple(map(len, segments))
        known = frame.known
        same = known is not None and known.segments == frame.record.segments
        tree_kept = known is not None and same and self._records.keeps_tree(known)
        if not tree_kept:
            for chunk_id, segment in zip(ids, segments, strict=True):
                self._sink.add(TREE, chunk_id, segment, (0, 0))
        if known is None:
            self._tally.dirs_new += 1
        elif same:
            self._tally.dirs_unmodified += 1
        else:
            self._tally.dirs_changed += 1
        self._records.finish(frame, tree_kept=tree_kept)
        self._tally.tick(frame.path)
        return ids

    def _attributes(self, target: int | bytes, path: bytes) -> dict[bytes, bytes] | None:
        """Extended attributes; an object whose attributes cannot be read is backed up without them."""
        try:
            return xattrs(target)
        except OSError as e:
            self._no_attributes(path, e.errno or errno.EIO)
            return None

    def _no_attributes(self, path: bytes, number: int) -> None:
        self._tally.problem(path, f"its attributes cannot be read: {os.strerror(number)}")

    def _folder_node(self, path: bytes, facts: os.stat_result, ids: list[bytes], target: int | bytes) -> bytes:
        self._owners(facts.st_uid, facts.st_gid)
        found = self._attributes(target, path)
        extra = {"x": found} if found else None
        name, mode, mtime_ns = os.path.basename(path), facts.st_mode & 0o7777, recorded_time(facts.st_mtime_ns)
        return encode_node(Node(name, tree.DIR, mode, facts.st_uid, facts.st_gid, mtime_ns, 0, ids, None, extra))

    def _owners(self, uid: int, gid: int) -> None:
        self._tally.uids.add(uid)
        self._tally.gids.add(gid)

    # -- entries ---------------------------------------------------------------------------------------------------

    def _entry(self, frame: Frame, item: Listed, *, named: bool = False) -> Frame | None:
        """Handle one entry; returns a frame when it is a folder to walk."""
        name, entry = item
        try:
            folder = entry.is_dir(follow_symlinks=False)
            if not named and self._rules.excludes and self._rules.excludes.match(frame.below(name), folder=folder):
                return None
            if folder:
                return self._subfolder(frame, item, named=named)
            if entry.is_file(follow_symlinks=False):
                self._file(frame, name, entry)
                return None
            facts = entry.stat(follow_symlinks=False)
            kind = kind_of(facts.st_mode)
            if kind in (tree.DIR, tree.FILE):  # it was something else when its folder was listed
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if kind is not None:
                frame.entries.append(self._special(frame, name, kind, facts))
            elif named:  # elsewhere sockets are left out without a word: nothing in them could be restored
                self._tally.problem(frame.below(name), "a socket: there is nothing in it to back up")
        except OSError as e:
            self._tally.problem(frame.below(name), _reason(e, replaced=e.errno in _GONE))
        return None

    def _subfolder(self, frame: Frame, item: Listed, *, named: bool) -> Frame | None:
        facts = item[1].stat(follow_symlinks=False)
        if (facts.st_dev, facts.st_ino) in self._rules.skip:
            if named:
                self._tally.problem(frame.below(item[0]), "Keyark's own repository or cache")
            return None
        child = self._enter(frame, item, new_device=named)
        if child is None:
            return None
        if self._rules.one_file_system and not named and child.facts.st_dev != frame.device:
            child.names = []
        elif self._rules.exclude_caches and is_cache_folder(child.descriptor):
            child.names = [below for below in child.names if is_cache_tag(below[0])]
        return child

    def _special(self, frame: Frame, name: bytes, kind: int, facts: os.stat_result) -> bytes:
        content: bytes | int | None = None
        if kind == tree.SYMLINK:
            content = os.readlink(name, dir_fd=frame.descriptor)
        elif kind in (tree.CHAR, tree.BLOCK):
            content = facts.st_rdev
        self._tally.others += 1
        self._owners(facts.st_uid, facts.st_gid)
        extra: dict[str, Any] = {}
        found = self._attributes(b"/proc/self/fd/%d/%s" % (frame.descriptor, name), frame.below(name))
        if found:
            extra["x"] = found
        if facts.st_nlink > 1:
            extra["l"] = link_key(facts)
        mode, mtime_ns = facts.st_mode & 0o7777, recorded_time(facts.st_mtime_ns)
        return encode_node(
            Node(name, kind, mode, facts.st_uid, facts.st_gid, mtime_ns, 0, content, None, extra or None)
        )

    # -- files -----------------------------------------------------------------------------------------------------

    def _file(self, frame: Frame, name: bytes, entry: os.DirEntry[str]) -> None:
        record = frame.unchanged.get(name)
        if record is not None:
            found = entry.stat(follow_symlinks=False)
            if record[0] == fingerprint(found):
                self._owners(found.st_uid, found.st_gid)
                self._tally.files_unmodified += 1
                self._tally.bytes_read += found.st_size
                frame.record.files[name] = record
                frame.entries.append(record[1])
                return
        frame.waiting += 1
        self._queue(frame, frame.root, frame.reserve(), name)

    def _queue(self, frame: Frame, root: int, place: int, name: bytes) -> None:
        self._batch.add(frame, root, place, name)
        if self._batch.full:
            self._give()

    def _give(self) -> None:
        """Hand the batch over to be read, waiting for earlier ones while the readers are busy."""
        self._check()
        batch, self._batch = self._batch, Batch()
        if batch.count:
            while self._readers.busy:
                self._take()
            self._readers.give(batch)

    def _take(self) -> None:
        """Take over the files of the oldest batch."""
        read = self._readers.take()
        if read is not None:
            self._take_over(read)

    def _take_over(self, read: Read) -> None:
        rows = iter(read.rows)
        position = 0
        again: list[tuple[Frame, int, int, bytes]] = []
        for part in read.batch.folders:
            frame, root, owner = part.frame, part.root, (-1, -1)
            for place, name, row in zip(part.places, part.names, rows, strict=False):
                status, length, chunk_id, entry, mark, uid, gid, _ = row
                start, position = position, position + (0 if chunk_id is None else length)
                if status in (READ, CHANGED):
                    if chunk_id is not None:
                        self._sink.add(DATA, chunk_id, bytes(read.data[start:position]), (uid, root))
                    if owner != (uid, gid):
                        owner = (uid, gid)
                        self._owners(uid, gid)
                    frame.entries[place] = entry
                    if mark:
                        frame.record.files[name] = (mark, entry, chunk_id)
                    self._was_read(frame, name, length)
                elif status == LARGE:
                    self._large(frame, place, name, root)
                elif status == NO_ROOM:
                    again.append((frame, root, place, name))
                if status != READ or row.trouble:
                    self._note_trouble(frame, name, row)
            frame.waiting -= len(part.names)
            self._tally.tick(frame.path)
        for frame, root, place, name in again:
            frame.waiting += 1
            self._queue(frame, root, place, name)

    def _note_trouble(self, frame: Frame, name: bytes, row: Row) -> None:
        if row.trouble:
            self._no_attributes(frame.below(name), row.trouble)
        if row.status == CHANGED:
            self._tally.problem(frame.below(name), "changed while being read")
        elif row.status == FAILED:
            e = OSError(row.length, os.strerror(row.length))
            self._tally.problem(frame.below(name), _reason(e, replaced=e.errno in _GONE))

    def _large(self, frame: Frame, place: int, name: bytes, root: int) -> None:
        """Read a file that is large or sparse."""
        try:
            self._stream(frame, place, name, root)
        except OSError as e:
            self._tally.problem(frame.below(name), _reason(e, replaced=e.errno in _GONE))

    def _stream(self, frame: Frame, place: int, name: bytes, root: int) -> None:
        self._check()
        descriptor = os.open(name, FILE_FLAGS, dir_fd=frame.descriptor)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):  # replaced since its folder was listed
                raise FileNotFoundError
            contents = self._contents.file(descriptor, found, (found.st_uid, root))
            attributes = self._attributes(descriptor, frame.below(name))
            after = os.fstat(descriptor)
            changed = False
            if fingerprint(after) != fingerprint(found):  # written to meanwhile: once more
                found = after
                os.lseek(descriptor, 0, os.SEEK_SET)
                contents = self._contents.file(descriptor, found, (found.st_uid, root))
                attributes = self._attributes(descriptor, frame.below(name))
                changed = fingerprint(os.fstat(descriptor)) != fingerprint(found)
        finally:
            os.close(descriptor)
        entry = encode_file(name, found, contents.size, contents.content, contents.sha256, attributes, changed=changed)
        if len(entry) > MAX_CHUNK:
            raise OSError(errno.EFBIG, "too large for one file of this format (about 200 GB)")
        frame.entries[place] = entry
        self._owners(found.st_uid, found.st_gid)
        if changed:
            self._tally.problem(frame.below(name), "changed while being read")
        elif found.st_ctime_ns < self._settled:
            references = contents.content
            if isinstance(references, list):
                references = [row for row in references if row[0] is not None]
            frame.record.files[name] = (fingerprint(found), entry, references)
        self._was_read(frame, name, contents.size)
        self._tally.tick(frame.path)

    def _was_read(self, frame: Frame, name: bytes, size: int) -> None:
        if frame.known is not None and name in frame.known.files:
            self._tally.files_changed += 1
        else:
            self._tally.files_new += 1
        self._tally.bytes_in_file = 0
        self._tally.bytes_read += size


def _reason(e: OSError, *, replaced: bool = False) -> str:
    if e.errno == errno.ENOENT or isinstance(e, FileNotFoundError):
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
