"""Looking into snapshots: ls, find, diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyark.errors import NotFoundError
from keyark.recovery import browse
from keyark.recovery.model import SnapshotFilter
from support import Sandbox, fill


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = fill(tmp_path / "source", {"a.key": b"1", "sub/b.key": b"22", "sub/deeper/c": b"333"})
    (top / "link").symlink_to("a.key")
    (top / os.fsdecode(b"\xff\nname.key")).write_bytes(b"")
    return top


def listed(ready: Sandbox, path: Path | str | None, *, recursive: bool = False) -> list[str]:
    with ready.open() as repository:
        wanted = None if path is None else os.fsencode(path)
        found = list(browse.list_entries(repository, "latest", wanted, recursive=recursive, context=ready.context))
    return [os.fsdecode(entry.path) for entry in found]


def test_ls_lists_a_folders_own_entries_all_below_it_or_one_object(ready: Sandbox, source: Path) -> None:
    ready.backup(source)
    assert listed(ready, f"{source}/sub/") == [f"{source}/sub/b.key", f"{source}/sub/deeper"]
    assert listed(ready, f"{source}/sub", recursive=True)[-1] == f"{source}/sub/deeper/c"
    assert listed(ready, f"{source}/sub/../link") == [f"{source}/link"]
    assert listed(ready, "/") == [f"/{source.parts[1]}"]
    assert f"{source}/sub/deeper/c" in listed(ready, None)
    assert listed(ready, source / os.fsdecode(b"\xff\nname.key")) == [f"{source}/" + os.fsdecode(b"\xff\nname.key")]
    for absent in (f"{source}/absent", f"{source}/a.key/below"):
        with pytest.raises(NotFoundError, match="keyark ls"):
            listed(ready, absent)


def test_find_matches_names_or_whole_paths_in_every_snapshot(ready: Sandbox, source: Path) -> None:
    ready.backup(source)
    (source / "a.key").unlink()
    ready.backup(source)

    def found(pattern: str) -> list[bytes]:
        with ready.open() as repository:
            return [
                os.path.basename(entry.path)
                for entry in browse.find_entries(repository, pattern, SnapshotFilter(), ready.context)
            ]

    assert sorted(found("*.key")) == sorted([b"a.key", b"b.key", b"\xff\nname.key", b"b.key", b"\xff\nname.key"])
    assert found(f"{source}/sub/*/c") == [b"c", b"c"]
    assert found("\udcff*") == [b"\xff\nname.key"] * 2
    assert found("nothing") == []


def test_diff_names_each_change_once_with_its_kind(ready: Sandbox, source: Path) -> None:
    ready.backup(source)
    (source / "a.key").write_bytes(b"other")
    (source / "sub/b.key").chmod(0o640)
    (source / "sub/deeper/new").write_bytes(b"4444")
    (source / "link").unlink()
    (source / "link").write_bytes(b"a file now")
    (source / os.fsdecode(b"\xff\nname.key")).unlink()
    ready.backup(source)
    with ready.open() as repository:
        ids = [item.id.hex() for item in sorted(repository.history("t").live, key=lambda item: item.head.sequence)]
        report = browse.diff(repository, ids[0], ids[1], ready.context)
        assert browse.diff(repository, ids[1], ids[1], ready.context).changes == ()
    changes = {os.fsdecode(change.path)[len(str(source)) :]: change.modifier for change in report.changes}
    folders = {path: kind for path, kind in changes.items() if path in ("", "/sub", "/sub/deeper")}
    assert set(folders.values()) <= {"U"}  # their times
    assert {path: kind for path, kind in changes.items() if path not in folders} == {
        "/a.key": "M",
        "/sub/b.key": "U",
        "/sub/deeper/new": "+",
        "/link": "T",
        "/" + os.fsdecode(b"\xff\nname.key"): "-",
    }
    assert (report.added_files, report.removed_files, report.added_bytes) == (1, 1, 4)
