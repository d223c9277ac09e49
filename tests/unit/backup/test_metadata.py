"""What the file system says about objects."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyark.backup.metadata import (
    data_extents,
    fingerprint,
    is_cache_folder,
    is_sparse,
    kind_of,
    recorded_time,
    xattrs,
)
from keyark.repository import tree
from keyark.text import show

MIB = 1 << 20


def mark(path: Path) -> bytes:
    return fingerprint(path.stat())


def extents(path: Path, parts: list[tuple[int, bytes]], size: int) -> list[tuple[int, int]]:
    with path.open("wb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(data_extents(descriptor, size))
    finally:
        os.close(descriptor)


def test_extents_cover_all_data_and_stay_within_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    assert extents(path, [], 3 * MIB) == []
    assert is_sparse(path.stat())
    (only,) = extents(path, [(4 * MIB, b"x" * 5000)], 4 * MIB + 5000)
    assert only == (4 * MIB, 4 * MIB + 5000)
    first, last = extents(path, [(0, b"x" * 4096), (2 * MIB, b"y" * 4096)], 8 * MIB)
    assert (first[0], last[0]) == (0, 2 * MIB)
    assert extents(path, [(0, b"full")], 4) == [(0, 4)]
    assert not is_sparse(path.stat())


def test_extents_of_a_file_that_shrank_since_end_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    descriptor = os.open(path, os.O_RDONLY)
    assert list(data_extents(descriptor, 10 * MIB)) in ([(0, 100)], [(0, 4096)], [(0, 10 * MIB)])
    path.write_bytes(b"")
    assert list(data_extents(descriptor, 10 * MIB)) == []
    os.close(descriptor)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o640),
        lambda path: path.write_bytes(b"2"),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: os.setxattr(path, "user.x", b"1"),
        lambda path: os.link(path, path.with_name("other")),
        lambda path: (path.unlink(), path.with_name("new").write_bytes(b"1"), path.write_bytes(b"1")),
    ],
)
def test_every_change_shows_in_the_fingerprint(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    path.write_bytes(b"1")
    os.utime(path, ns=(10**18, 10**18))
    before = mark(path)
    change(path)
    assert mark(path) != before


def test_content_put_back_with_its_time_is_still_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"1")
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the next tick of the file system's clock
        path.write_bytes(b"2")
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert mark(path) != fingerprint(before)


def test_attributes_of_links_are_their_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.setxattr(tmp_path / "file", "user.x", b"\0\xff")
    (tmp_path / "link").symlink_to("file")
    assert xattrs(os.fsencode(tmp_path / "link")) is None
    assert xattrs(os.fsencode(tmp_path / "file")) == {b"user.x": b"\0\xff"}
    assert xattrs(os.fsencode(tmp_path / "absent")) is None


def test_only_a_signed_regular_tag_makes_a_cache_folder(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    tag = tmp_path / "CACHEDIR.TAG"
    assert not is_cache_folder(descriptor)
    tag.write_bytes(b"Signature: 8a477f597d28d172789f06886806bc5")
    assert not is_cache_folder(descriptor)
    tag.write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\nand more")
    assert is_cache_folder(descriptor)
    tag.rename(tmp_path / "elsewhere")
    tag.symlink_to("elsewhere")
    assert not is_cache_folder(descriptor)
    tag.unlink()
    os.mkfifo(tag)  # must not hang
    assert not is_cache_folder(descriptor)
    os.close(descriptor)


def test_sockets_have_no_kind(tmp_path: Path) -> None:
    assert kind_of(0o140777) is None
    assert kind_of(0o100644) == tree.FILE
    assert kind_of(os.stat("/dev/null").st_mode) == tree.CHAR


def test_paths_are_shown_in_one_printable_line() -> None:
    assert show(b"/a\n\x1b[31m\xff\xc3\xbc\\") == "/a\\n\\x1b[31m\\xff\u00fc\\"


def test_times_and_device_numbers_that_a_record_cannot_rest_on(tmp_path: Path) -> None:
    found = tmp_path.stat()

    def mark_of(**changed: int) -> bytes:
        names = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_uid", "st_gid", "st_dev")
        return fingerprint(
            SimpleNamespace(**{**{name: getattr(found, name) for name in names}, "st_nlink": 1, **changed})
        )  # type: ignore[arg-type]

    for time_ns in (1 << 63, -(1 << 63) - 1, 1 << 64, -1):  # file systems hold more than 64 bits of nanoseconds
        assert mark_of(st_mtime_ns=time_ns, st_ctime_ns=time_ns) != mark_of()
        assert tree.FIRST_TIME <= recorded_time(time_ns) <= tree.LAST_TIME
    assert recorded_time(1 << 63) == 1 << 63
    # After a reboot a device may have another number. Then all names of a hard-linked file must be read again together.
    assert mark_of(st_dev=1) == mark_of(st_dev=2)
    assert mark_of(st_dev=1, st_nlink=2) != mark_of(st_dev=2, st_nlink=2)
