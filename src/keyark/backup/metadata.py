"""What the file system says about an object beyond its bytes."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

from keyark.repository import tree

_KINDS = {
    stat.S_IFREG: tree.FILE,
    stat.S_IFDIR: tree.DIR,
    stat.S_IFLNK: tree.SYMLINK,
    stat.S_IFIFO: tree.FIFO,
    stat.S_IFCHR: tree.CHAR,
    stat.S_IFBLK: tree.BLOCK,
}
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS})
_FINGERPRINT = struct.Struct(">QQQQIIIQQ")
_64_BITS = (1 << 64) - 1
_CACHEDIR_TAG = b"CACHEDIR.TAG"
_CACHEDIR_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/


def kind_of(mode: int) -> int | None:
    """The tree's kind for an ``st_mode``; None for sockets and what else cannot be backed up."""
    return _KINDS.get(stat.S_IFMT(mode))


def fingerprint(found: os.stat_result) -> bytes:
    """What must be equal for a file to count as unchanged. ctime covers owners, modes, ACLs and extended attributes."""
    return _FINGERPRINT.pack(
        found.st_ino,
        found.st_size,
        found.st_mtime_ns & _64_BITS,
        found.st_ctime_ns & _64_BITS,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        # Other names of the file are found by device and number, and a device may have another number after a reboot.
        found.st_dev if found.st_nlink > 1 else 0,
    )


def recorded_time(time_ns: int) -> int:
    """The mtime that a tree records. File systems may hold times beyond what it can; they become the last it can hold."""
    return max(tree.FIRST_TIME, min(tree.LAST_TIME, time_ns))


def xattrs(target: int | bytes) -> dict[bytes, bytes] | None:
    """Extended attributes of a descriptor or (a link is not followed) of a path; POSIX ACLs are among them.

    None when there are none, the file system has none, or we may not look.
    """
    follow = not isinstance(target, bytes)
    try:
        names = os.listxattr(target) if follow else os.listxattr(target, follow_symlinks=False)
    except OSError as e:
        if e.errno in _NO_XATTRS:
            return None
        raise
    if not names:
        return None
    found = {}
    for name in names:
        try:
            found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
        except OSError as e:
            if e.errno not in _NO_XATTRS:
                raise
    return found or None


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the parts of a sparse file that hold data. A file system that cannot tell has one: everything."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            yield position, size
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start >= size or end <= start:
            return
        yield start, end
        position = end


def is_sparse(facts: os.stat_result) -> bool:
    """Whether a file may have holes."""
    return facts.st_blocks * 512 < facts.st_size


def is_cache_folder(descriptor: int) -> bool:
    """Whether a folder carries a valid CACHEDIR.TAG."""
    try:
        tag = os.open(_CACHEDIR_TAG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError:
        return False
    try:
        return os.read(tag, len(_CACHEDIR_SIGNATURE)) == _CACHEDIR_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(tag)


def is_cache_tag(name: bytes) -> bool:
    return name == _CACHEDIR_TAG
