"""Trees: one folder is a list of segments, each a chunk holding sorted entries (docs/format.md, section 7)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire

FILE, DIR, SYMLINK, FIFO, CHAR, BLOCK = range(6)
SEGMENT_ENTRIES = 4096  # at most this many entries in one segment
_SEGMENT_BYTES = 4 << 20
FIRST_TIME, LAST_TIME = -(1 << 63), (1 << 64) - 1  # ns; years 1677 to 2554, as far as MessagePack's integers go

_MAX_COUNT = 1 << 63

Content = bytes | list[Any] | int | None


class Node(NamedTuple):
    """One entry of a folder. See docs/format.md, section 7, for each field."""

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: Content
    sha256: bytes | None = None
    extra: dict[str, Any] | None = None

    def chunk_ids(self) -> list[bytes]:
        """The ids of the file's chunks, in order."""
        if isinstance(self.content, bytes):
            return [self.content] if self.kind == FILE else []
        if self.kind == FILE and isinstance(self.content, list):
            return [item[0] for item in self.content if item[0] is not None]
        return []

    @property
    def subtree(self) -> list[bytes]:
        """The segment ids of a folder."""
        if self.kind != DIR or not isinstance(self.content, list):
            return []
        return self.content


_local = threading.local()


def encode_row(row: list[Any]) -> bytes:
    """One entry, its fields in the order of `Node`, as MessagePack."""
    packer = _local.__dict__.get("packer")
    if packer is None:  # kept for the thread: making one costs more than using it
        packer = _local.__dict__["packer"] = msgpack.Packer(use_bin_type=True)
    return bytes(packer.pack(row))


def encode_node(node: Node) -> bytes:
    """One entry as MessagePack."""
    return encode_row(list(node))


def segments(encoded: Sequence[bytes]) -> Iterator[bytes]:
    """Group encoded entries (sorted by name) into segments. An empty folder is one empty segment.

    A segment also ends after an entry whose encoded form ends in a byte pattern drawn from its name, so that an insertion
    changes one segment, not all that follow.
    """
    start, size = 0, 0
    for position, entry in enumerate(encoded):
        count = position - start
        if count and (
            count >= SEGMENT_ENTRIES or size + len(entry) > _SEGMENT_BYTES or (count >= 512 and _is_border(entry))
        ):
            yield b"".join(encoded[start:position])
            start, size = position, 0
        size += len(entry)
    yield b"".join(encoded[start:])


def _is_border(entry: bytes) -> bool:
    import zlib

    return zlib.crc32(entry[:64]) & 0x3FF == 0


_is_content_row = wire.is_row(wire.optional(wire.is_bytes(32)), wire.is_count)


def _check_content(kind: int, content: Any, size: int) -> bool:
    if kind == FILE:
        if content is None:
            return size == 0
        if type(content) is bytes:
            return len(content) == 32
        return (
            type(content) is list
            and all(_is_content_row(row) for row in content)
            and sum(row[1] for row in content) == size
        )
    if kind == DIR:
        return type(content) is list and all(type(item) is bytes and len(item) == 32 for item in content)
    if kind == SYMLINK:
        return type(content) is bytes
    if kind == FIFO:
        return content is None
    return wire.is_count(content)


def _check_extra(extra: Any) -> bool:
    if type(extra) is not dict or not extra.keys() <= {"x", "l", "c"}:
        return False
    xattrs = extra.get("x", {})
    return (
        type(xattrs) is dict
        and all(type(key) is bytes and type(value) is bytes for key, value in xattrs.items())
        and type(extra.get("l", b"")) is bytes
        and extra.get("c", True) is True
    )


def valid_name(name: bytes) -> bool:
    """Whether a name may appear in a folder: no separator, no NUL, not `.` or `..`, not empty, at most 255 bytes."""
    return 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def decode_segment(data: bytes | memoryview, what: str) -> list[Node]:
    """Read a segment, checking every field; hostile names are refused here already."""
    nodes = []
    previous = b""
    try:
        unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            max_buffer_size=max(len(data), 1),
            object_pairs_hook=wire.no_duplicates,
        )
        unpacker.feed(data)
        end = 0
        for row in unpacker:
            nodes.append(_decode_row(row, previous, what))
            previous, end = nodes[-1].name, unpacker.tell()  # asked now: after half an entry it counts that as well
        if end != len(data):
            raise DamagedError(f"{what}: a tree segment ends in the middle of an entry")
    except (ValueError, msgpack.UnpackException, UnicodeDecodeError, RecursionError, TypeError) as e:
        raise DamagedError(f"{what}: not a valid tree segment ({e})") from e
    return nodes


def _decode_row(row: Any, previous: bytes, what: str) -> Node:
    if type(row) is not list or len(row) != 10:
        raise DamagedError(f"{what}: an entry has the wrong shape")
    name, kind, mode, uid, gid, mtime, size, content, sha256, extra = row
    if type(name) is not bytes or not valid_name(name):
        raise ForgedError(f"{what}: holds an impossible name {name!r}")
    if name <= previous:
        raise ForgedError(f"{what}: {name!r} is out of order or there twice")
    if type(kind) is not int or not FILE <= kind <= BLOCK:
        raise DamagedError(f"{what}: {name!r} is of an unknown kind {kind!r}")
    # Spelt out rather than called, check by check: this runs for every object of every tree that is read.
    sound = (
        type(mode) is int
        and 0 <= mode <= 0o7777
        and type(uid) is int
        and 0 <= uid < _MAX_COUNT
        and type(gid) is int
        and 0 <= gid < _MAX_COUNT
        and type(mtime) is int
        and FIRST_TIME <= mtime <= LAST_TIME
        and type(size) is int
        and 0 <= size < _MAX_COUNT
        and (type(sha256) is bytes and len(sha256) == 32 if kind == FILE else sha256 is None)
        and ((type(content) is bytes and len(content) == 32 and kind == FILE) or _check_content(kind, content, size))
        and (extra is None or _check_extra(extra))
    )
    if not sound:
        raise DamagedError(f"{what}: the entry {name!r} is malformed")
    return Node._make(row)
