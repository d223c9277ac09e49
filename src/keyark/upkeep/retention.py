"""Which snapshots to keep: pure decisions over facts (docs/operations.md, "Retention").

Snapshots are grouped by writer and ordered by sequence, both signed. The time that counts is bounded by what operators saw:
never later than the first look at the snapshot, never earlier than the look before that.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keyark.errors import HistoryError, UsageError
from keyark.upkeep.model import ForgetRequest

_SECOND = 10**9  # ns
_DAY = 24 * 3600 * _SECOND
_FUTURE_TOLERANCE = 10 * 60 * _SECOND  # clocks of two hosts may differ this much
_RATE_FLOOR = 5  # new snapshots that are never abnormal
_RATE_FACTOR = 5  # times the usual rate that is still normal
_RATE_HISTORY = 3  # snapshots seen before from which there is a usual rate
_WINDOW = 10  # usual intervals over which the rate is judged whatever the looks between: a flood may come in drops
_WINDOW_FACTOR = 2  # times the usual rate that is still normal over such a window

_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)m)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of one snapshot. Times in ns since the epoch."""

    id: bytes
    writer: bytes
    sequence: int
    claimed_ns: int  # what its writer says
    first_seen_ns: int | None = None  # when an operator first saw it
    previous_look_ns: int | None = None  # the operators' look before that one

    def effective_ns(self, now_ns: int, last_look_ns: int | None) -> int:
        """The time that counts."""
        if self.first_seen_ns is None:
            latest, earliest = now_ns, last_look_ns
        else:
            latest, earliest = self.first_seen_ns, self.previous_look_ns
        time = min(self.claimed_ns, latest)
        return time if earliest is None else max(time, min(earliest, latest))


@dataclass(frozen=True, slots=True)
class Decision:
    """Keep or forget one snapshot, and why."""

    id: bytes
    time_ns: int
    keep: bool
    reasons: tuple[str, ...]


def parse_duration(text: str) -> int:
    """``1y2m3w4d5h`` in ns; a month has 30 days, a year 365. UsageError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise UsageError(f"duration {text!r} is malformed; write it as 1y2m3w4d5h")
    years, months, weeks, days, hours = (int(part or 0) for part in match.groups())
    return (years * 365 + months * 30 + weeks * 7 + days) * _DAY + hours * 3600 * _SECOND


def check_abuse(candidates: Sequence[Candidate], now_ns: int, last_look_ns: int | None) -> None:
    """Stop on what a stolen writer's credential would do to push good snapshots out.

    HistoryError for a time in the future, or far more new snapshots of one writer than its history explains.
    """
    groups: dict[bytes, list[Candidate]] = defaultdict(list)
    for item in candidates:
        if item.first_seen_ns is None and item.claimed_ns > now_ns + _FUTURE_TOLERANCE:
            raise HistoryError(
                f"snapshot {item.id.hex()[:8]} claims a time in the future; check the clock of its writer "
                f"{item.writer.hex()[:8]}, or revoke it if it is not yours. Nothing was forgotten"
            )
        groups[item.writer].append(item)
    if last_look_ns is None:
        return
    for writer, items in groups.items():
        seen = sorted(item.effective_ns(now_ns, last_look_ns) for item in items if item.first_seen_ns is not None)
        new = sum(item.first_seen_ns is None for item in items)
        if len(seen) < _RATE_HISTORY:
            continue
        usual = _usual_interval(seen)
        allowed = _RATE_FLOOR + _RATE_FACTOR * (now_ns - last_look_ns) / usual
        recent = new + sum(time > now_ns - _WINDOW * usual for time in seen)
        if new > allowed or (new and recent > _RATE_FLOOR + _WINDOW_FACTOR * _WINDOW):
            raise HistoryError(
                f"writer {writer.hex()[:8]} made {new} snapshots since the last look and {recent} lately, far more than usual; "
                "is its credential stolen? --accept-rate goes on. Nothing was forgotten"
            )


def _usual_interval(seen: Sequence[int]) -> int:
    """The usual time between two snapshots: the slower half of the history decides, so that a flood that was let pass once does
    not make the next one usual."""
    intervals = [max(later - earlier, _SECOND) for earlier, later in itertools.pairwise(seen)]
    middle = (len(intervals) + 1) // 2
    halves = (sorted(intervals[:middle]), sorted(intervals[middle:] or intervals[:middle]))
    return max(half[len(half) // 2] for half in halves)


def _hour(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%d %H")


def _day(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m-%d")


def _week(time: datetime.datetime) -> str:
    return time.strftime("%G-%V")


def _month(time: datetime.datetime) -> str:
    return time.strftime("%Y-%m")


def _year(time: datetime.datetime) -> str:
    return time.strftime("%Y")


def decide(
    candidates: Sequence[Candidate], request: ForgetRequest, now_ns: int, last_look_ns: int | None
) -> list[Decision]:
    """Apply the rules to each writer's snapshots. Decisions come oldest first within each writer.

    With ``keep`` rules a snapshot stays when any of them wants it. ``retention_days`` and ``max_backups`` are limits: past
    either, it goes, whatever the rules say. The newest of each writer always stays.
    """
    groups: dict[bytes, list[Candidate]] = defaultdict(list)
    for item in candidates:
        groups[item.writer].append(item)
    result: list[Decision] = []
    for writer in sorted(groups):
        newest_first = sorted(groups[writer], key=lambda item: item.sequence, reverse=True)
        result += reversed(_decide_writer(newest_first, request, now_ns, last_look_ns))
    return result


def _decide_writer(
    newest_first: Sequence[Candidate], request: ForgetRequest, now_ns: int, last_look_ns: int | None
) -> list[Decision]:
    times = _in_order([item.effective_ns(now_ns, last_look_ns) for item in newest_first])
    reasons: list[list[str]] = [[] for _ in newest_first]
    _apply_rules(times, request, reasons)
    has_rules = any(
        (
            request.keep_last,
            request.keep_hourly,
            request.keep_daily,
            request.keep_weekly,
            request.keep_monthly,
            request.keep_yearly,
            request.keep_within,
        )
    )
    result = []
    for index, (item, time) in enumerate(zip(newest_first, times, strict=True)):
        past = _past_limits(index, now_ns - time, request)
        why = reasons[index]
        if index == 0:
            keep, why = True, why or ["newest of its writer"]
        elif past:
            keep, why = False, past
        elif has_rules:
            keep, why = bool(why), why or ["no rule keeps it"]
        else:
            keep, why = True, ["within limits"]
        result.append(Decision(item.id, time, keep, tuple(why)))
    return result


def _in_order(newest_first: Sequence[int]) -> list[int]:
    """Times that agree with the sequence: none is earlier than that of the snapshot before it.

    A thief who appends snapshots with old times so gains nothing: neither do they use up the buckets of older days, nor do
    they make the good ones before them look older.
    """
    return list(itertools.accumulate(reversed(newest_first), max))[::-1]


def _past_limits(index: int, age: int, request: ForgetRequest) -> list[str]:
    past = []
    if request.retention_days is not None and age > request.retention_days * _DAY:
        past.append(f"older than {request.retention_days} days")
    if request.max_backups is not None and index >= request.max_backups:
        past.append(f"more than {request.max_backups} snapshots")
    return past


def _apply_rules(times: Sequence[int], request: ForgetRequest, reasons: Sequence[list[str]]) -> None:
    buckets: Mapping[str, tuple[int, Callable[[datetime.datetime], str]]] = {
        "hourly": (request.keep_hourly, _hour),
        "daily": (request.keep_daily, _day),
        "weekly": (request.keep_weekly, _week),
        "monthly": (request.keep_monthly, _month),
        "yearly": (request.keep_yearly, _year),
    }
    for index in range(min(request.keep_last, len(times))):
        reasons[index].append("last")
    for name, (count, bucket_of) in buckets.items():
        last = None
        for index, time in enumerate(times):
            if count <= 0:
                break
            bucket = bucket_of(datetime.datetime.fromtimestamp(time / _SECOND).astimezone())
            if bucket != last:
                reasons[index].append(name)
                last = bucket
                count -= 1
    if request.keep_within is not None and times:
        window = parse_duration(request.keep_within)
        for index, time in enumerate(times):
            if time >= times[0] - window:
                reasons[index].append("within")
