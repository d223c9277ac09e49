"""The totals of a progress bar count what the walk takes, and never hold a backup up."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from keyark.backup import estimate
from keyark.backup.estimate import Estimate
from keyark.backup.excludes import Excludes
from keyark.backup.tally import Tally
from keyark.backup.walker import WalkRules
from keyark.clock import SystemClock
from support import fill, run


def counted(*paths: Path, excludes: tuple[str, ...] = (), skip: Path | None = None, **rules: bool) -> tuple[int, int]:
    tally = Tally(SystemClock(), lambda progress: None, lambda warning: None)
    skipped = frozenset() if skip is None else frozenset({(skip.stat().st_dev, skip.stat().st_ino)})
    chosen = {"exclude_caches": True, "one_file_system": False, "force": False, **rules}
    counter = Estimate(
        [os.fsencode(path) for path in paths], WalkRules(Excludes(excludes), skip=skipped, **chosen), tally
    )
    counter._thread.join()
    counter.close()
    return tally.files_total, tally.bytes_total


def test_what_the_walk_leaves_out_is_not_counted(tmp_path: Path) -> None:
    tag = b"Signature: 8a477f597d28d172789f06886806bc55"
    fill(tmp_path, {"a": b"12345", "b.tmp": b"x" * 9, "cache/CACHEDIR.TAG": tag, "cache/x": b"1", "repository/p": b"1"})
    (tmp_path / "link").symlink_to("/")
    assert counted(tmp_path, excludes=("*.tmp",), skip=tmp_path / "repository") == (1, 5)
    assert counted(tmp_path / "a", tmp_path / "b.tmp", tmp_path / "absent") == (2, 14)


@pytest.mark.root
def test_other_file_systems_are_left_alone_when_the_walk_leaves_them_alone(tmp_path: Path) -> None:
    fill(tmp_path, {"a": b"12345"})
    (tmp_path / "mounted").mkdir()
    run(["mount", "-t", "tmpfs", "keyark-test", str(tmp_path / "mounted")])
    try:
        fill(tmp_path / "mounted", {"b": b"123"})
        assert counted(tmp_path, one_file_system=True) == (1, 5)
        assert counted(tmp_path, tmp_path / "mounted") == (3, 11)
    finally:
        run(["umount", str(tmp_path / "mounted")])


def test_a_file_system_that_does_not_answer_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_PATIENCE", 0.05)
    monkeypatch.setattr(Estimate, "_run", lambda self: time.sleep(1))
    tally = Tally(SystemClock(), lambda progress: None, lambda warning: None)
    rules = WalkRules(Excludes(()), True, False, frozenset(), False)
    counter = Estimate([os.fsencode(tmp_path)], rules, tally)
    started = time.monotonic()
    counter.close()
    assert time.monotonic() - started < 0.8
