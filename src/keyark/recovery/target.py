"""Writing below a target folder, and nowhere else, whatever names or links a hostile snapshot or the target holds.

Every step goes through descriptors of folders that were opened one by one without following links.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections import OrderedDict
from dataclasses import dataclass

from keyark.errors import StorageFull, UsageError
from keyark.recovery.metadata import MetadataWriter, Owners
from keyark.repository import tree
from keyark.repository.tree import Node, valid_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS = 64  # descriptors kept
_TEMPORARY = b".keyark-"
# Files that have no name until they are whole: nothing half-written can be found, whenever we are killed.
_NAMELESS = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_NOT_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS})
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSYS})
_NO_HARD_LINKS = frozenset({errno.ENOTSUP, errno.EPERM, errno.ENOSYS, errno.EXDEV, errno.EMLINK})
_TYPES = {tree.SYMLINK: stat.S_IFLNK, tree.FIFO: stat.S_IFIFO, tree.CHAR: stat.S_IFCHR, tree.BLOCK: stat.S_IFBLK}


class TargetConflict(Exception):
    """Something in the target is in the way of one object."""


class NoHardLinks(Exception):
    """The target cannot make this hard link: another file system, or one without them."""


def full(e: OSError) -> StorageFull:
    """The error for a target without room; it ends a restore."""
    return StorageFull(f"the target is full ({e.strerror}); what was restored so far is whole")


def is_full(e: OSError) -> bool:
    """Whether the target has no room left: bytes, inodes or quota."""
    return e.errno in (errno.ENOSPC, errno.EDQUOT)


class TargetTree:
    """A target folder. Paths are absolute paths of the snapshot; all of them land below the target."""

    def __init__(self, target: bytes, owners: Owners) -> None:
        self.target = target
        self.metadata = MetadataWriter(owners)
        try:
            os.makedirs(target, mode=0o700, exist_ok=True)
            self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise UsageError(f"cannot use the target {os.fsdecode(target)}: {e.strerror}") from e
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._nameless = os.path.isdir("/proc/self/fd")  # and as long as no file system in the target refuses

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self._root)

    @property
    def empty(self) -> bool:
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    # -- folders ---------------------------------------------------------------------------------------------------

    def _folder(self, path: bytes) -> int:
        """A descriptor of the folder for a snapshot path, each step opened without following links."""
        todo = []
        while path not in (b"", b"/") and path not in self._open:
            path, _, name = path.rpartition(b"/")
            todo.append(name)
        if path in self._open:
            self._open.move_to_end(path)
        descriptor = self._open.get(path, self._root)
        while todo:
            name = todo.pop()
            descriptor = self._step(descriptor, name)
            path = path.rstrip(b"/") + b"/" + name
            self._keep(path, descriptor)
        return descriptor

    def _step(self, parent: int, name: bytes) -> int:
        if not valid_name(name):
            raise TargetConflict(f"the name {name!r} is impossible")
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except OSError as e:
            if e.errno in (errno.ELOOP, errno.ENOTDIR):
                raise TargetConflict("something that is no folder is in its way in the target") from e
            raise

    def _keep(self, path: bytes, descriptor: int) -> None:
        """Keep a descriptor for later; the one opened longest ago makes room, and is never the one just used."""
        while len(self._open) >= _OPEN_FOLDERS:
            _, old = self._open.popitem(last=False)
            os.close(old)
        self._open[path] = descriptor

    def _split(self, path: bytes) -> tuple[int, bytes]:
        parent, _, name = path.rpartition(b"/")
        if not valid_name(name):
            raise TargetConflict(f"the name {name!r} is impossible")
        return self._folder(parent), name

    def existing(self, path: bytes) -> os.stat_result | None:
        """What is at a path in the target, links not followed; None when nothing can be seen there."""
        try:
            folder, name = self._split(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (OSError, TargetConflict):
            return None

    def make_folder(self, path: bytes, *, replace: bool, open_up: bool = False) -> bool:
        """Make a folder; True when it was not there. With ``replace`` something else in its place is removed.

        ``open_up`` gives us the right to write to one that is there and ours; its mode is expected to be set again later.
        """
        folder, name = self._split(path)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                if open_up and facts.st_mode & 0o700 != 0o700 and facts.st_uid == os.geteuid() != 0:
                    _open_up(folder, name)
                return False
            if not replace:
                raise TargetConflict("something that is no folder is in its place in the target") from None
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)
        return True

    # -- files -----------------------------------------------------------------------------------------------------

    def begin(self, path: bytes) -> PendingFile:
        """Start a file that has no name yet, or, where the file system has no such files, a temporary one.

        It is to be committed or discarded before the next call for another path.
        """
        folder, name = self._split(path)
        if self._nameless:
            try:
                return PendingFile(folder, name, None, os.open(b".", _NAMELESS, 0o600, dir_fd=folder))
            except OSError as e:
                if e.errno not in _NOT_NAMELESS:
                    raise
                self._nameless = False
        temporary = _temporary_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return PendingFile(folder, name, temporary, os.open(temporary, flags, 0o600, dir_fd=folder))

    def commit(self, pending: PendingFile, node: Node, *, replace: bool) -> list[str]:
        """Give a complete file its metadata and its name; returns what could not be set."""
        try:
            trouble = self.metadata.apply(pending.descriptor, node)
            if pending.temporary is None and not replace:
                self._link(pending, pending.name)
            else:
                if pending.temporary is None:
                    temporary = _temporary_name()
                    self._link(pending, temporary)
                    pending.temporary = temporary
                self._publish(pending.folder, pending.temporary, pending.name, replace=replace)
        except BaseException:
            pending.discard()
            raise
        pending.close()
        return trouble

    @staticmethod
    def _link(pending: PendingFile, name: bytes) -> None:
        """Give a nameless file its name."""
        try:
            os.link(b"/proc/self/fd/%d" % pending.descriptor, name, dst_dir_fd=pending.folder, follow_symlinks=True)
        except FileExistsError as e:
            raise TargetConflict("something is in its place in the target") from e

    @staticmethod
    def _publish(folder: int, temporary: bytes, name: bytes, *, replace: bool) -> None:
        if replace:
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except (IsADirectoryError, NotADirectoryError) as e:
                try:
                    os.rmdir(name, dir_fd=folder)
                except OSError:
                    raise TargetConflict("a folder that is not empty is in its place in the target") from e
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError as e:
            raise TargetConflict("something is in its place in the target") from e
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.unlink(temporary, dir_fd=folder)

    def make_link(self, path: bytes, first: bytes, *, replace: bool) -> None:
        """A hard link at ``path`` to the object restored at ``first``. NoHardLinks when the target has none to give."""
        source_folder, source = self._split(first)
        source_folder = os.dup(source_folder)
        try:
            folder, name = self._split(path)
            temporary = _temporary_name()
            try:
                os.link(source, temporary, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as e:
                if e.errno in _NO_HARD_LINKS:
                    raise NoHardLinks(e.strerror) from e
                raise
            self._place(folder, temporary, name, replace=replace)
        finally:
            os.close(source_folder)

    def make_special(self, path: bytes, node: Node, *, replace: bool) -> list[str]:
        """A symbolic link, FIFO or device node, with its metadata; returns what could not be set."""
        folder, name = self._split(path)
        temporary = _temporary_name()
        if node.kind == tree.SYMLINK:
            if not isinstance(node.content, bytes):
                raise TargetConflict("its link target is missing")
            os.symlink(node.content, temporary, dir_fd=folder)
        elif node.kind == tree.FIFO:
            os.mkfifo(temporary, 0o600, dir_fd=folder)
        else:
            device = node.content if isinstance(node.content, int) else 0
            kind = stat.S_IFCHR if node.kind == tree.CHAR else stat.S_IFBLK
            os.mknod(temporary, kind | 0o600, device, dir_fd=folder)
        try:
            trouble = self._special_metadata(folder, temporary, node)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        self._place(folder, temporary, name, replace=replace)
        return trouble

    def _place(self, folder: int, temporary: bytes, name: bytes, *, replace: bool) -> None:
        try:
            self._publish(folder, temporary, name, replace=replace)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        with contextlib.suppress(FileNotFoundError):  # renaming onto a link to the same file leaves both names
            os.unlink(temporary, dir_fd=folder)

    def digest(self, path: bytes) -> tuple[bytes, int]:
        """SHA-256 and size of a restored file, read back from the target."""
        folder, name = self._split(path)
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), os.fstat(descriptor).st_size

    # -- metadata --------------------------------------------------------------------------------------------------

    def finish_folder(self, path: bytes, node: Node) -> list[str]:
        """Give a folder its metadata, after everything in it was written."""
        return self.metadata.apply(self._folder(path), node)

    def _special_metadata(self, folder: int, name: bytes, node: Node) -> list[str]:
        # By descriptor: whoever may write to this folder could put a link to something else under the name meanwhile.
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            facts = os.fstat(descriptor)
            if stat.S_IFMT(facts.st_mode) != _TYPES[node.kind] or facts.st_nlink != 1:
                raise TargetConflict("somebody else changed it while it was being restored")
            return self.metadata.apply(b"/proc/self/fd/%d" % descriptor, node)
        finally:
            os.close(descriptor)


def _open_up(folder: int, name: bytes) -> None:
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(b"/proc/self/fd/%d" % descriptor, 0o700)
    finally:
        os.close(descriptor)


def _temporary_name() -> bytes:
    return _TEMPORARY + secrets.token_hex(8).encode()


@dataclass(slots=True)
class PendingFile:
    """A file being written, without a name or under a temporary one. ``folder`` is the target's, not ours to close."""

    folder: int
    name: bytes
    temporary: bytes | None
    descriptor: int

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        try:
            while data:
                written = os.pwrite(self.descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as e:
            if is_full(e):
                raise full(e) from e
            raise

    def close(self) -> None:
        os.close(self.descriptor)

    def discard(self) -> None:
        """Remove the file: nothing that is not whole is left."""
        if self.temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.folder)
        self.close()
