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
from collections.abc import Mapping
from dataclasses import dataclass

from keyark.errors import StorageError, UsageError
from keyark.repository import tree
from keyark.repository.tree import Node, valid_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS = 64  # descriptors kept
_TEMPORARY = b".keyark-"
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENOSYS})


class TargetConflict(Exception):
    """Something in the target is in the way of one object."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Names of owners in the snapshot; resolved here by name, then by number."""

    users: Mapping[int, str]
    groups: Mapping[int, str]

    def resolve(self) -> tuple[dict[int, int], dict[int, int]]:
        """Numbers of this host for the snapshot's numbers."""
        import grp
        import pwd

        uids, gids = {}, {}
        for number, name in self.users.items():
            with contextlib.suppress(KeyError):
                uids[number] = pwd.getpwnam(name).pw_uid
        for number, name in self.groups.items():
            with contextlib.suppress(KeyError):
                gids[number] = grp.getgrnam(name).gr_gid
        return uids, gids


class TargetTree:
    """A target folder. Paths are absolute paths of the snapshot; all of them land below the target."""

    def __init__(self, target: bytes, owners: Owners) -> None:
        self.target = target
        self._uids, self._gids = owners.resolve()
        self._root_user = os.geteuid() == 0
        try:
            os.makedirs(target, mode=0o700, exist_ok=True)
            self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise UsageError(f"cannot use the target {os.fsdecode(target)}: {e.strerror}") from e
        self._open: OrderedDict[bytes, int] = OrderedDict()

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
        """What is at a path in the target, links not followed."""
        try:
            folder, name = self._split(path)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, TargetConflict):
            return None

    def make_folder(self, path: bytes, *, replace: bool) -> bool:
        """Make a folder; True when it was not there. With ``replace`` something else in its place is removed."""
        folder, name = self._split(path)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return False
            if not replace:
                raise TargetConflict("something that is no folder is in its place in the target") from None
            os.unlink(name, dir_fd=folder)
            os.mkdir(name, 0o700, dir_fd=folder)
        return True

    # -- files -----------------------------------------------------------------------------------------------------

    def begin(self, path: bytes) -> PendingFile:
        """Start a file under a temporary name beside its final one."""
        folder, name = self._split(path)
        temporary = _TEMPORARY + secrets.token_hex(8).encode()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # The folder's descriptor may be closed by others before the file is done, so the file keeps one of its own.
        own = os.dup(folder)
        try:
            return PendingFile(own, name, temporary, os.open(temporary, flags, 0o600, dir_fd=own))
        except BaseException:
            os.close(own)
            raise

    def commit(self, pending: PendingFile, node: Node, *, replace: bool) -> list[str]:
        """Give a complete file its metadata and its name; returns what could not be set."""
        try:
            trouble = self._metadata(pending.descriptor, node)
            self._publish(pending.folder, pending.temporary, pending.name, replace=replace)
        except BaseException:
            pending.discard()
            raise
        pending.close()
        return trouble

    @staticmethod
    def _publish(folder: int, temporary: bytes, name: bytes, *, replace: bool) -> None:
        if replace:
            try:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except (IsADirectoryError, NotADirectoryError) as e:
                raise TargetConflict("a folder is in its place in the target") from e
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
        """A hard link at ``path`` to the object restored at ``first``."""
        source_folder, source = self._split(first)
        source_folder = os.dup(source_folder)
        try:
            folder, name = self._split(path)
            temporary = _TEMPORARY + secrets.token_hex(8).encode()
            os.link(source, temporary, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
            self._place(folder, temporary, name, replace=replace)
        finally:
            os.close(source_folder)

    def make_special(self, path: bytes, node: Node, *, replace: bool) -> list[str]:
        """A symbolic link, FIFO or device node, with its metadata; returns what could not be set."""
        folder, name = self._split(path)
        temporary = _TEMPORARY + secrets.token_hex(8).encode()
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
            trouble = self._named_metadata(folder, temporary, node)
        except BaseException:
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
        return self._metadata(self._folder(path), node)

    def _owner(self, node: Node) -> tuple[int, int]:
        return self._uids.get(node.uid, node.uid), self._gids.get(node.gid, node.gid)

    def _metadata(self, descriptor: int, node: Node) -> list[str]:
        # Owner first: changing it clears set-id bits and capabilities. Then attributes, mode, and times last.
        trouble = []
        try:
            os.fchown(descriptor, *self._owner(node))
        except OSError as e:
            if self._root_user:
                trouble.append(f"owner not set: {e.strerror}")
        trouble += self._attributes(descriptor, node)
        os.fchmod(descriptor, node.mode)
        os.utime(descriptor, ns=(node.mtime_ns, node.mtime_ns))
        return trouble

    def _named_metadata(self, folder: int, name: bytes, node: Node) -> list[str]:
        trouble = []
        try:
            os.chown(name, *self._owner(node), dir_fd=folder, follow_symlinks=False)
        except OSError as e:
            if self._root_user:
                trouble.append(f"owner not set: {e.strerror}")
        trouble += self._attributes(b"/proc/self/fd/%d/%s" % (folder, name), node)
        if node.kind != tree.SYMLINK:
            # Our own temporary name, in a folder we hold open: nothing else can stand there but what we just made.
            os.chmod(name, node.mode, dir_fd=folder)
        os.utime(name, ns=(node.mtime_ns, node.mtime_ns), dir_fd=folder, follow_symlinks=False)
        return trouble

    def _attributes(self, target: int | bytes, node: Node) -> list[str]:
        wanted: dict[bytes, bytes] = (node.extra or {}).get("x", {})
        trouble = []
        for name, value in wanted.items():
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as e:
                if self._root_user or not name.startswith((b"security.", b"trusted.")):
                    trouble.append(f"attribute {os.fsdecode(name)} not set: {e.strerror}")
        return trouble


@dataclass(slots=True)
class PendingFile:
    """A file being written under a temporary name."""

    folder: int
    name: bytes
    temporary: bytes
    descriptor: int

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        try:
            while data:
                written = os.pwrite(self.descriptor, data, offset)
                data, offset = data[written:], offset + written
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(f"the target is full ({e.strerror}); what was restored so far is whole") from e
            raise

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self.folder)

    def discard(self) -> None:
        """Remove the file: nothing that is not whole is left."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary, dir_fd=self.folder)
        self.close()
