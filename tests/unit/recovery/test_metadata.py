"""What a restored object is given, and what is said when it cannot be given."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyark.recovery.metadata import MetadataWriter, Owners
from keyark.repository.tree import DIR, FILE, Node
from support import run

NOBODY = 65534


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield opened
    os.close(opened)


def node(mode: int, *, uid: int = 0, gid: int = 0, kind: int = FILE, extra: dict[str, object] | None = None) -> Node:
    return Node(b"file", kind, mode, uid, gid, 1_234_567_890_123_456_789, 0, None, None, extra)


def as_nobody(action: Callable[[], None]) -> None:
    """Run something in a process without root's rights; its failure fails the test."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
        except BaseException as e:
            sys.stderr.write(f"{type(e).__name__}: {e}\n")
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.root
def test_another_owners_program_never_becomes_a_set_id_program_of_ours(descriptor: int) -> None:
    os.fchown(descriptor, NOBODY, NOBODY)
    os.fchmod(descriptor, 0o600)
    extra = {"x": {b"trusted.note": b"1", b"user.note": b"2"}}

    def restore() -> None:
        writer = MetadataWriter(Owners({}, {}))
        assert writer.apply(descriptor, node(0o6755, extra=extra)) == []
        assert writer.apply(descriptor, node(0o755)) == []
        notices = writer.notices()
        assert notices[0].startswith("2 objects belong to you now"), notices
        assert "set-ID bits left out on 1 of them" in notices[0], notices
        assert notices[1].startswith("1 attributes"), notices

    as_nobody(restore)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o755


@pytest.mark.root
def test_set_id_bits_come_back_where_the_owner_does(descriptor: int) -> None:
    writer = MetadataWriter(Owners({}, {}))
    assert writer.apply(descriptor, node(0o6755, uid=NOBODY, gid=NOBODY)) == []
    facts = os.fstat(descriptor)
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_mtime_ns) == (0o6755, NOBODY, 1_234_567_890_123_456_789)
    assert writer.notices() == []


@pytest.mark.root
def test_an_ordinary_user_keeps_set_group_id_on_folders(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    os.fchown(folder, NOBODY, NOBODY)
    as_nobody(lambda: MetadataWriter(Owners({}, {})).apply(folder, node(0o2750, kind=DIR)) and None)
    assert stat.S_IMODE(os.fstat(folder).st_mode) == 0o2750
    os.close(folder)


def test_attributes_that_the_snapshot_does_not_have_are_removed(descriptor: int) -> None:
    os.setxattr(descriptor, "user.stale", b"1")
    os.setxattr(descriptor, "user.kept", b"old")
    extra = {"x": {b"user.kept": b"new"}}
    assert (
        MetadataWriter(Owners({}, {})).apply(descriptor, node(0o600, uid=os.geteuid(), gid=os.getegid(), extra=extra))
        == []
    )
    assert {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)} == {"user.kept": b"new"}


def test_an_attribute_that_the_target_refuses_is_named_and_the_rest_is_set(descriptor: int) -> None:
    extra = {"x": {b"nonsense.name": b"1", b"user.good": b"2"}}
    trouble = MetadataWriter(Owners({}, {})).apply(
        descriptor, node(0o640, uid=os.geteuid(), gid=os.getegid(), extra=extra)
    )
    assert trouble == ["attribute nonsense.name not set: Operation not supported"]
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o640
    assert os.getxattr(descriptor, "user.good") == b"2"


@pytest.mark.program("mkfs.ext4")
@pytest.mark.root
def test_a_file_system_with_coarse_times_is_told_once(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb") as image:
        image.truncate(8 << 20)
    run(["mkfs.ext4", "-q", "-F", "-I", "128", str(tmp_path / "image")])  # whole seconds only
    (tmp_path / "mounted").mkdir()
    run(["mount", "-o", "loop", str(tmp_path / "image"), str(tmp_path / "mounted")])
    try:
        writer = MetadataWriter(Owners({}, {}))
        for name in ("a", "b"):
            opened = os.open(tmp_path / "mounted" / name, os.O_RDWR | os.O_CREAT, 0o600)
            assert writer.apply(opened, node(0o600)) == []
            os.close(opened)
        (notice,) = writer.notices()
        assert notice.startswith("2 objects have other times")
    finally:
        run(["umount", str(tmp_path / "mounted")])


def test_names_that_no_host_has_leave_the_numbers() -> None:
    assert Owners({5: "no\0name", 6: "nobody-of-that-name"}, {7: "\udcff"}).resolve() == ({}, {})
