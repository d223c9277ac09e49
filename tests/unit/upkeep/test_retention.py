"""Retention decisions: pure functions of facts."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyark.errors import HistoryError, UsageError
from keyark.upkeep.model import ForgetRequest
from keyark.upkeep.retention import Candidate, check_abuse, decide, parse_duration

DAY = 24 * 3600 * 10**9
NOW = int(datetime.datetime(2026, 3, 31, 12).timestamp()) * 10**9


def daily(count: int, writer: bytes = b"w") -> list[Candidate]:
    """One snapshot a day, the newest now, all seen at once."""
    return [
        Candidate(b"%s%03d" % (writer, number), writer, number, NOW - (count - number) * DAY, NOW, None)
        for number in range(1, count + 1)
    ]


def kept(candidates: list[Candidate], last_look: int | None = None, **rules: object) -> list[bytes]:
    return [item.id for item in decide(candidates, ForgetRequest(**rules), NOW, last_look) if item.keep]  # type: ignore[arg-type]


def test_keep_last_keeps_the_newest_by_sequence() -> None:
    assert kept(daily(10), keep_last=3) == [b"w008", b"w009", b"w010"]


def test_daily_weekly_and_monthly_keep_the_newest_of_each_period() -> None:
    assert len(kept(daily(100), keep_daily=7)) == 7
    assert len(kept(daily(100), keep_weekly=4)) == 4
    assert len(kept(daily(100), keep_monthly=3)) == 3
    assert len(kept(daily(800), keep_yearly=5)) == 3
    combined = kept(daily(100), keep_daily=7, keep_weekly=4)
    assert 7 < len(combined) <= 11


def test_hourly_counts_hours_with_snapshots_not_hours_that_passed() -> None:
    assert len(kept(daily(10), keep_hourly=4)) == 4


def test_within_is_measured_from_the_newest() -> None:
    assert len(kept(daily(30), keep_within="7d")) == 8
    assert parse_duration("1y2m3w4d5h") == (365 + 60 + 21 + 4) * DAY + 5 * 3600 * 10**9
    for bad in ("", "7", "d", "-1d", "1h1d"):
        with pytest.raises(UsageError):
            parse_duration(bad)


def test_days_and_number_both_bind_and_the_newest_always_stays() -> None:
    assert len(kept(daily(100), retention_days=30, max_backups=50)) == 31
    assert len(kept(daily(100), retention_days=90, max_backups=50)) == 50
    old = [Candidate(b"only", b"w", 1, NOW - 900 * DAY, NOW, None)]
    assert kept(old, retention_days=1, max_backups=1) == [b"only"]
    assert len(kept(daily(100), keep_yearly=2, retention_days=10)) == 1, "limits bind whatever the rules want"


def test_each_writer_is_judged_alone() -> None:
    assert len(kept([*daily(5), *daily(9, b"x")], keep_last=2)) == 4


def test_a_backdated_snapshot_cannot_take_the_place_of_an_old_one() -> None:
    """A stolen writer adds snapshots that claim to be old, so that the monthly ones go in their favour."""
    honest = daily(60)
    forged = [Candidate(b"f%03d" % n, b"w", 61 + n, NOW - (90 + n) * DAY) for n in range(5)]
    decisions = decide([*honest, *forged], ForgetRequest(keep_monthly=6), NOW, NOW - DAY)
    times = {item.id: item.time_ns for item in decisions}
    assert all(times[item.id] >= NOW - DAY for item in forged)


def test_the_future_is_refused() -> None:
    future = [*daily(3), Candidate(b"late", b"w", 4, NOW + DAY)]
    with pytest.raises(HistoryError, match="future"):
        check_abuse(future, NOW, NOW)
    check_abuse(daily(3), NOW, NOW)


def test_an_abnormal_rate_is_refused_and_a_usual_one_is_not() -> None:
    seen = [Candidate(b"s%d" % n, b"w", n, NOW - (20 - n) * DAY, NOW - (20 - n) * DAY, None) for n in range(1, 11)]
    fresh = [Candidate(b"n%d" % n, b"w", 10 + n, NOW) for n in range(1, 40)]
    look = NOW - 10 * DAY
    check_abuse([*seen, *fresh[:10]], NOW, look)
    check_abuse(fresh, NOW, None)
    check_abuse(fresh, NOW, look)  # a writer without a history has no usual rate
    with pytest.raises(HistoryError, match="stolen"):
        check_abuse([*seen, *fresh, *[Candidate(b"m%d" % n, b"w", 60 + n, NOW) for n in range(30)]], NOW, look)


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(0, 400)), max_size=40),
    st.integers(0, 5),
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(1, 300)),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_the_newest_of_each_writer_survives_everything(
    facts: list[tuple[bytes, int]], last: int, daily_: int, days: int | None, most: int | None
) -> None:
    candidates = [Candidate(b"%d" % n, writer, n, NOW - age * DAY, NOW, None) for n, (writer, age) in enumerate(facts)]
    decisions = decide(candidates, ForgetRequest(last, 0, daily_, retention_days=days, max_backups=most), NOW, None)
    assert len(decisions) == len(candidates)
    for writer in {item.writer for item in candidates}:
        own = [item for item in candidates if item.writer == writer]
        newest = max(own, key=lambda item: item.sequence)
        by_id = {item.id: item for item in decisions}
        assert by_id[newest.id].keep
        if most is not None:
            assert sum(by_id[item.id].keep for item in own) <= most
    assert all(item.reasons for item in decisions)


def test_snapshots_appended_with_old_times_neither_use_up_older_days_nor_age_the_good_ones() -> None:
    good = daily(30)
    for back in (5, 400):
        forged = [
            Candidate(b"f%03d" % number, b"w", 30 + number, NOW - (back + number % 7) * DAY) for number in range(1, 21)
        ]
        before = kept(good, keep_daily=20)
        after = kept([*good, *forged], keep_daily=20)
        assert set(before[:-1]) <= set(after), "all but the last day, whose newest is forged"
        assert set(kept(good, retention_days=40)) <= set(kept([*good, *forged], retention_days=40))
