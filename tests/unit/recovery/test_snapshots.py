"""Which snapshot is the latest."""

from __future__ import annotations

from keyark.recovery.model import SnapshotInfo
from keyark.recovery.snapshots import in_order


def snapshot(writer: str, sequence: int, time_ns: int) -> SnapshotInfo:
    return SnapshotInfo(f"{writer}{sequence}", "c", writer, sequence, time_ns, True)


def ids(*infos: SnapshotInfo) -> list[str]:
    return [info.id for info in in_order(infos)]


def test_snapshots_are_ordered_by_time_across_writers() -> None:
    assert ids(snapshot("a", 1, 10), snapshot("b", 1, 20), snapshot("a", 2, 30)) == ["a1", "b1", "a2"]


def test_a_clock_that_ran_ahead_once_makes_no_snapshot_the_latest_for_long() -> None:
    assert ids(snapshot("a", 1, 10), snapshot("a", 2, 9999), snapshot("a", 3, 30)) == ["a1", "a2", "a3"]
    assert ids(snapshot("a", 1, 9999), snapshot("a", 2, 30), snapshot("b", 7, 20), snapshot("b", 8, 40)) == [
        "b7",
        "a1",
        "a2",
        "b8",
    ]


def test_a_clock_that_stood_back_once_keeps_the_sequence() -> None:
    assert ids(snapshot("a", 1, 10), snapshot("a", 2, 0), snapshot("a", 3, 30)) == ["a1", "a2", "a3"]
