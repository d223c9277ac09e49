"""Objects as files in a folder of a local or mounted file system.

A put writes a temporary file, syncs it, links it to its name and syncs the folder, so that a crash at any instant leaves
the object whole or absent. Folders have mode 700, files 600. What a killed put leaves is a hidden temporary file, no object;
`LocalStorage.remove_leftovers` takes it away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping

from keyark.errors import (
    DamagedError,
    KeyarkError,
    ObjectExists,
    ObjectNotFound,
    RepositoryNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
)
from keyark.storage.protocol import Capabilities, ColdState, ObjectInfo, Parts, RetainUntil, as_parts, check_name

_MAX_DEPTH = 8  # folders in an object's name
_WRITES = 3  # attempts at one object, when others remove it while it is being written
_TEMPORARY = ".tmp-"  # names that begin with a dot are never objects
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP})
# Reading one object failed on the medium, or it is no file of ours: damage of that object, not of the whole storage.
_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
_CORRUPT = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EILSEQ})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
_LINKED = 2  # names of a file that is linked to its final name and not yet unlinked from its temporary one
_WRITEV_BATCH = 512  # buffers in one call, below IOV_MAX


def translate(e: OSError, what: str) -> StorageError:
    """The error of ours for an operating system's."""
    reason = e.strerror or str(e)
    if e.errno in (errno.ENOENT, errno.ENOTDIR):
        return ObjectNotFound(f"{what}: not found")
    if e.errno == errno.EEXIST:
        return ObjectExists(f"{what}: exists")
    if e.errno in _FULL:
        return StorageFull(f"{what}: the storage is full ({reason}); make room, then run again")
    if e.errno in _DENIED:
        return StorageDenied(f"{what}: the storage refuses ({reason})")
    return StorageError(f"{what}: {reason}")


class LocalStorage:
    """A folder. RepositoryNotFound when it is not there and ``create`` is not set."""

    def __init__(self, path: str, *, create: bool = False) -> None:
        self._root = os.path.abspath(path)
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._links = True
        try:
            if create:
                make_folders(self._root)
            elif not os.path.isdir(self._root):
                raise RepositoryNotFound(f"no repository at {self._root}; `keyark init` makes one")
            self._identity = _identity(self._root)
        except OSError as e:
            raise translate(e, self._root) from e

    @property
    def location(self) -> str:
        return self._root

    @property
    def path(self) -> str:
        """The folder."""
        return self._root

    def _path(self, name: str) -> str:
        return os.path.join(self._root, check_name(name))

    def _failure(self, e: OSError, what: str) -> StorageError:
        """As `translate`, but "not found" only while the folder itself is still the one that was opened.

        A disk that was pulled out or a share that was unmounted must not look like an empty repository.
        """
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            try:
                self._check_root()
            except StorageError as gone:
                return gone
        return translate(e, what)

    def _check_root(self) -> None:
        try:
            same = _identity(self._root) == self._identity
        except OSError:
            same = False
        if not same:
            raise StorageError(f"{self._root}: the folder is gone or was unmounted; mount it, then run again")

    def put(
        self,
        name: str,
        data: Parts,
        *,
        create_only: bool = True,
        retention: RetainUntil | None = None,
        storage_class: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if retention is not None:
            raise StorageError(f"{self._root}: a folder cannot hold objects under retention")
        del storage_class, metadata  # a folder has neither
        path = self._path(name)
        folder = os.path.dirname(path)
        try:
            self._make_folder(folder)
            for left in reversed(range(_WRITES)):
                temporary = os.path.join(folder, _TEMPORARY + secrets.token_hex(8))
                try:
                    self._write(temporary, data)
                    self._publish(temporary, path, create_only=create_only)
                    break
                except FileNotFoundError:
                    if not left:  # else a prune took it for a leftover: this process was suspended for very long
                        raise
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary)
                    raise
            _sync_folder(folder)
        except FileExistsError as e:
            # What stands there may have been put by a process that was killed before it synced the folder. Callers take
            # "exists" for "stored", so it is made durable first.
            try:
                _sync_folder(folder)
            except OSError as trouble:
                raise self._failure(trouble, name) from trouble
            raise translate(e, name) from e
        except OSError as e:
            raise self._failure(e, name) from e

    def _make_folder(self, folder: str) -> None:
        """Make a folder below the root where it is missing, and its way there durable, whoever made it."""
        if folder in self._known:
            return
        self._check_root()
        with self._lock:
            parts = os.path.relpath(folder, self._root).split(os.sep) if folder != self._root else []
            path = self._root
            for part in parts:
                parent, path = path, os.path.join(path, part)
                if path in self._known:
                    continue
                if not os.path.isdir(path):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(path, 0o700)
                _sync_folder(parent)
                self._known.add(path)
            self._known.add(folder)

    @staticmethod
    def _write(path: str, data: Parts) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            parts = [memoryview(part).cast("B") for part in as_parts(data) if len(part)]
            while parts:
                written = os.writev(descriptor, parts[:_WRITEV_BATCH])
                while parts and written >= len(parts[0]):
                    written -= len(parts.pop(0))
                if written:
                    parts[0] = parts[0][written:]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _publish(self, temporary: str, path: str, *, create_only: bool) -> None:
        if not create_only:
            os.replace(temporary, path)
            return
        if self._links:
            try:
                os.link(temporary, path, follow_symlinks=False)
            except FileExistsError:
                # NFS sends a request again when the answer was lost: then the name that exists is our own.
                if os.stat(temporary, follow_symlinks=False).st_nlink != _LINKED:
                    raise
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
                # FAT and some network file systems; names are content hashes, so a race is harmless
                self._links = False
            if self._links:
                os.unlink(temporary)
                return
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", path)
        os.rename(temporary, path)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode):
                    raise DamagedError(f"{name}: is not a regular file")
                wanted = max(facts.st_size - start, 0) if length is None else min(length, max(facts.st_size - start, 0))
                return _read_exactly(file.fileno(), start, wanted)
        except OSError as e:
            raise self._unreadable(e, name) from e

    def _unreadable(self, e: OSError, name: str) -> KeyarkError:
        if e.errno in _NO_FILE:  # a link or a socket: no object was ever stored like that
            return DamagedError(f"{name}: is not a regular file")
        if e.errno in _CORRUPT:
            return DamagedError(f"{name}: cannot be read ({e.strerror}); the disk or the file system is damaged there")
        return self._failure(e, name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix:
            if not prefix.endswith("/"):
                raise StorageError(f"{prefix!r} is not a prefix: it must end in a slash")
            check_name(prefix[:-1])
        self._check_root()
        yield from self._list(os.path.join(self._root, prefix), prefix)

    def _list(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as e:
            trouble = self._failure(e, prefix or self._root)
            if isinstance(trouble, ObjectNotFound):
                return  # no folder of that name: nothing is below it
            raise trouble from e
        for entry in found:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if prefix.count("/") >= _MAX_DEPTH:
                        continue  # no object's name is as deep
                    yield from self._list(entry.path, f"{prefix}{entry.name}/")
                    continue
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as e:
                raise translate(e, prefix + entry.name) from e
            yield ObjectInfo(prefix + entry.name, facts.st_size, facts.st_mtime_ns)

    def stat(self, name: str) -> ObjectInfo:
        try:
            facts = os.stat(self._path(name), follow_symlinks=False)
        except OSError as e:
            raise self._failure(e, name) from e
        return ObjectInfo(name, facts.st_size, facts.st_mtime_ns)

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            os.unlink(path)
            _sync_folder(os.path.dirname(path))
        except OSError as e:
            raise self._failure(e, name) from e

    def remove_leftovers(self, before_ns: int) -> int:
        count = 0
        for folder, _, files in os.walk(self._root):
            for file in files:
                if not file.startswith(_TEMPORARY):
                    continue
                path = os.path.join(folder, file)
                try:
                    if os.lstat(path).st_mtime_ns < before_ns:
                        os.unlink(path)
                        count += 1
                except FileNotFoundError:
                    continue  # its put ended meanwhile
                except OSError as e:
                    raise self._failure(e, os.path.relpath(path, self._root)) from e
        return count

    def capabilities(self) -> Capabilities:
        return Capabilities(
            create_only=self._links,
            atomic_put=True,
            durable=True,
            ranges=True,
            delete=True,
            retention=False,
            forkable=True,
        )

    def request_restore(self, name: str) -> ColdState:
        self.stat(name)
        return ColdState.AVAILABLE

    def close(self) -> None:
        return


def _read_exactly(descriptor: int, start: int, wanted: int) -> bytes:
    first = os.pread(descriptor, wanted, start)
    if len(first) == wanted:
        return first
    parts = [first]
    position = start + len(first)
    while position < start + wanted and parts[-1]:
        parts.append(os.pread(descriptor, start + wanted - position, position))
        position += len(parts[-1])
    return b"".join(parts)


def _identity(folder: str) -> tuple[int, int]:
    """Which folder this is: device and inode."""
    facts = os.stat(folder)
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", folder)
    return facts.st_dev, facts.st_ino


def make_folders(folder: str) -> None:
    """Make a folder and those above it that are missing, durably, with mode 700."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)
