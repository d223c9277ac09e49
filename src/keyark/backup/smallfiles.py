"""Reading one small file: content, attributes, hashes and the tree entry, in one go.

A reader process does this for many files while the walk goes on (`keyark.backup.readers`); nothing here knows where it runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from keyark.backup.metadata import fingerprint, is_sparse, recorded_time, xattrs
from keyark.repository import tree
from keyark.repository.tree import encode_row

WHOLE = 512 << 10  # bytes; smaller files are one chunk
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
RACY_NS = 20_000_000  # a file changed this recently may change again within the clock's granularity: not remembered
EMPTY_SHA256 = hashlib.sha256(b"").digest()

READ = 0  # the file was read
CHANGED = 1  # read twice, and it changed both times
FAILED = 2  # `length` is the errno
LARGE = 3  # no small file, or one with attributes too large for its row: the walk streams it
NO_ROOM = 4  # the buffer is full: the walk asks again


class Row(NamedTuple):
    """What became of one file.

    ``mark`` is its fingerprint, empty when it must not be taken for unchanged next time. ``trouble`` is the errno with which
    reading its attributes failed; the file comes without them then.
    """

    status: int
    length: int
    chunk_id: bytes | None = None
    entry: bytes = b""
    mark: bytes = b""
    uid: int = 0
    gid: int = 0
    trouble: int = 0


def link_key(found: os.stat_result) -> bytes:
    """The same for all names of one hard-linked object."""
    return found.st_dev.to_bytes(8, "big") + found.st_ino.to_bytes(8, "big")


def encode_file(
    name: bytes,
    found: os.stat_result,
    size: int,
    content: Any,
    sha256: bytes,
    attributes: dict[bytes, bytes] | None,
    *,
    changed: bool,
) -> bytes:
    """The tree entry of a file."""
    extra: dict[str, Any] = {}
    if attributes:
        extra["x"] = attributes
    if found.st_nlink > 1:
        extra["l"] = link_key(found)
    if changed:
        extra["c"] = True
    mode, mtime_ns = found.st_mode & 0o7777, recorded_time(found.st_mtime_ns)
    return encode_row(
        [name, tree.FILE, mode, found.st_uid, found.st_gid, mtime_ns, size, content, sha256, extra or None]
    )


class SmallFileReader:
    """Reads small files into a buffer. ``now_ns`` is when the backup began."""

    def __init__(self, chunk_id: Callable[[bytes | memoryview], bytes], now_ns: int) -> None:
        self._chunk_id = chunk_id
        self._settled = now_ns - RACY_NS

    def read(self, folder: int, name: bytes, room: memoryview) -> Row:
        """Read a file of an open folder to the start of ``room``; what was read counts, whatever its size is by then."""
        try:
            descriptor = os.open(name, FILE_FLAGS, dir_fd=folder)
            try:
                return self._read(descriptor, name, room)
            finally:
                os.close(descriptor)
        except OSError as e:
            return Row(FAILED, e.errno or errno.EIO)

    def _read(self, descriptor: int, name: bytes, room: memoryview) -> Row:
        before = os.fstat(descriptor)
        size = before.st_size
        if not stat.S_ISREG(before.st_mode):  # replaced since its folder was listed
            return Row(FAILED, errno.ENOENT)
        if size >= WHOLE or is_sparse(before):
            return Row(LARGE, 0)
        if size >= len(room):
            return Row(NO_ROOM, 0)
        length = os.readv(descriptor, [room[: size + 1]])
        attributes, trouble = _attributes(descriptor)
        after = os.fstat(descriptor)
        changed = False
        if after.st_ctime_ns != before.st_ctime_ns or after.st_size != size:  # written to meanwhile: once more
            before, size = after, after.st_size
            if size >= min(WHOLE, len(room)):
                return Row(LARGE, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            length = os.readv(descriptor, [room[: size + 1]])
            attributes, trouble = _attributes(descriptor)
            after = os.fstat(descriptor)
            changed = after.st_ctime_ns != before.st_ctime_ns or after.st_size != size
        if length > size:
            return Row(LARGE, 0)
        if length:
            data = room[:length]
            content, sha256 = self._chunk_id(data), hashlib.sha256(data).digest()
        else:
            content, sha256 = None, EMPTY_SHA256
        entry = encode_file(name, before, length, content, sha256, attributes, changed=changed)
        settled = not changed and not trouble and before.st_ctime_ns < self._settled
        mark = fingerprint(before) if settled else b""
        return Row(CHANGED if changed else READ, length, content, entry, mark, before.st_uid, before.st_gid, trouble)


def _attributes(descriptor: int) -> tuple[dict[bytes, bytes] | None, int]:
    """Extended attributes, or the errno with which reading them failed."""
    try:
        return xattrs(descriptor), 0
    except OSError as e:
        return None, e.errno or errno.EIO
