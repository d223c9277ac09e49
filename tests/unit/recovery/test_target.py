"""Restore never writes outside the target, whatever names or links a hostile snapshot or the target holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyark.errors import UsageError
from keyark.recovery.target import Owners, TargetConflict, TargetTree
from keyark.repository.tree import DIR, FILE, SYMLINK, Node

HOSTILE = [b"..", b".", b"", b"a/../../x", b"x\0y", b"y" * 256]


@pytest.fixture
def tree(tmp_path: Path):  # type: ignore[no-untyped-def]
    target = TargetTree(os.fsencode(tmp_path / "target"), Owners({}, {}))
    yield target
    target.close()


def node(kind: int = FILE, content: bytes | None = None) -> Node:
    return Node(b"n", kind, 0o644, os.geteuid(), os.getegid(), 1, 0, content)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(tree: TargetTree, tmp_path: Path, name: bytes) -> None:
    before = everything(tmp_path)
    for action in (
        lambda: tree.begin(b"/" + name),
        lambda: tree.make_folder(b"/" + name, replace=True),
        lambda: tree.make_special(b"/" + name, node(SYMLINK, b"/etc"), replace=True),
        lambda: tree.begin(b"/" + (name or b".") + b"/inside"),
    ):
        with pytest.raises((TargetConflict, FileNotFoundError)):
            action()
    assert everything(tmp_path) == before


def test_a_link_that_stands_where_a_folder_should_be_is_not_followed(tree: TargetTree, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target/link").symlink_to(tmp_path / "outside")
    with pytest.raises(TargetConflict):
        tree.begin(b"/link/file")
    with pytest.raises(TargetConflict):
        tree.make_folder(b"/link", replace=False)
    tree.make_folder(b"/link", replace=True)
    pending = tree.begin(b"/link/file")
    pending.write(memoryview(b"data"), 0)
    tree.commit(pending, node(), replace=True)
    assert everything(tmp_path / "outside") == set()
    assert (tmp_path / "target/link/file").read_bytes() == b"data"


def test_a_link_restored_first_does_not_lead_what_comes_later_outside(tree: TargetTree, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    tree.make_special(b"/trap", node(SYMLINK, os.fsencode(tmp_path / "outside")), replace=True)
    for action in (
        lambda: tree.begin(b"/trap/file"),
        lambda: tree.make_folder(b"/trap/sub", replace=True),
        lambda: tree.make_link(b"/trap/hard", b"/trap", replace=True),
    ):
        with pytest.raises(TargetConflict):
            action()
    assert everything(tmp_path / "outside") == set()


def test_a_file_where_a_link_stands_replaces_the_link_not_what_it_points_to(tree: TargetTree, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "target/file").symlink_to(tmp_path / "victim")
    pending = tree.begin(b"/file")
    pending.write(memoryview(b"new"), 0)
    tree.commit(pending, node(), replace=True)
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert (tmp_path / "target/file").read_bytes() == b"new"


def test_nothing_is_replaced_unless_asked_and_a_discarded_file_leaves_nothing(tree: TargetTree, tmp_path: Path) -> None:
    (tmp_path / "target/file").write_bytes(b"old")
    pending = tree.begin(b"/file")
    with pytest.raises(TargetConflict):
        tree.commit(pending, node(), replace=False)
    assert (tmp_path / "target/file").read_bytes() == b"old"
    tree.begin(b"/other").discard()
    assert everything(tmp_path / "target") == {"file"}
    tree.make_folder(b"/folder", replace=True)
    tree.make_folder(b"/folder/sub", replace=True)
    pending = tree.begin(b"/folder")
    with pytest.raises(TargetConflict):
        tree.commit(pending, node(), replace=True)
    assert everything(tmp_path / "target") == {"file", "folder", "folder/sub"}


def test_a_target_that_is_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError):
        TargetTree(os.fsencode(tmp_path / "file"), Owners({}, {}))


def test_metadata_of_folders_is_set_at_the_end(tree: TargetTree, tmp_path: Path) -> None:
    tree.make_folder(b"/folder", replace=False)
    assert tree.finish_folder(b"/folder", Node(b"folder", DIR, 0o510, os.geteuid(), os.getegid(), 77, 0, [])) == []
    facts = (tmp_path / "target/folder").stat()
    assert (facts.st_mode & 0o7777, facts.st_mtime_ns) == (0o510, 77)
