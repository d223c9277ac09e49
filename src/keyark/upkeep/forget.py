"""Forgetting snapshots: signed tombstones, by policy or by name. Space comes back with `prune`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from keyark.errors import NotFoundError, ObjectNotFound, UsageError
from keyark.operation import Context
from keyark.repository import marks as mark_objects
from keyark.repository.history import History, missing
from keyark.repository.marks import Marks, encode_marks
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot
from keyark.upkeep.model import ForgetDecision, ForgetReport, ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.retention import Candidate, Decision, check_abuse, decide


def forget(repository: Repository, request: ForgetRequest, context: Context) -> ForgetReport:
    """Forget snapshots that no rule keeps, or those named. Needs an operator's or an administrator's key.

    UsageError when no rule is given; HistoryError for alarms, times in the future or an abnormal rate: then nothing is forgotten.
    """
    context.recorder.before("forget", {"dry_run": request.dry_run})
    try:
        report = _forget(repository, request, context)
    except BaseException as e:
        context.recorder.after("forget", {}, e)
        raise
    context.recorder.after("forget", {"removed": report.removed}, None)
    return report


def _forget(repository: Repository, request: ForgetRequest, context: Context) -> ForgetReport:
    repository.keys.marker("forget snapshots")
    now = context.clock.now_ns()
    if request.acknowledge_loss:
        return _acknowledge(repository, request, context, now)
    marks = repository.marks()
    history = repository.history("forget snapshots", marks)
    if request.snapshots:
        decisions = _named(repository, history, request.snapshots)
    else:
        decisions = _by_policy(repository, history, marks, request, now)
        if not request.dry_run:
            _record_seen(repository, history, marks, now)
    by_id = {item.id: item for item in history.live}
    gone = [by_id[decision.id] for decision in decisions if not decision.keep]
    if gone and not request.dry_run:
        bury(repository, gone, now)
    pruned = prune(repository, PruneRequest(), context) if request.prune and not request.dry_run else None
    return ForgetReport(
        tuple(
            ForgetDecision(
                item.id.hex(),
                _name(repository, by_id[item.id]),
                item.time_ns,
                item.keep,
                item.reasons,
            )
            for item in decisions
        ),
        len(gone),
        request.dry_run,
        pruned,
    )


def _acknowledge(repository: Repository, request: ForgetRequest, context: Context, now: int) -> ForgetReport:
    """Explain every gap by a tombstone, and delete snapshots that a stolen key made. Only an administrator may: it ends alarms."""
    repository.keys.root("accept that snapshots are lost")
    history = repository.judge_history()
    lost = missing(history, repository.state.read_pins().heads, repository.keyring)
    for stone in lost:
        context.warn(f"lost: snapshot {stone.sequence} ({stone.snapshot.hex()[:8]}) of writer {stone.writer.hex()[:8]}")
    for snapshot in history.refused:
        context.warn(f"{snapshot.name}: was refused, it belongs to no history; it is deleted")
    if not request.dry_run:
        for snapshot in history.refused:
            with contextlib.suppress(ObjectNotFound):
                repository.storage.delete(snapshot.name)
        if lost:
            rows = [[stone.compartment, stone.writer, stone.sequence, stone.snapshot] for stone in lost]
            _store(repository, mark_objects.TOMBSTONE, rows, now)
    return ForgetReport((), len(lost) + len(history.refused), request.dry_run)


def _name(repository: Repository, snapshot: Snapshot) -> str | None:
    content = repository.try_content(snapshot)
    return None if content is None else content.name


def _named(repository: Repository, history: History, wanted: Sequence[str]) -> list[Decision]:
    result = []
    for text in wanted:
        found = [item for item in history.live if item.id.hex().startswith(text.lower())]
        if not found and repository.can_read:
            found = [item for item in history.live if _name(repository, item) == text.removesuffix(".tar.gz")]
        if not found:
            raise NotFoundError(f"no snapshot {text!r}; nothing was forgotten")
        if len(found) > 1:
            raise UsageError(f"{text!r} fits {len(found)} snapshots; give more of the id. Nothing was forgotten")
        result.append(Decision(found[0].id, repository.open_listed(found[0]).time_ns, keep=False, reasons=("named",)))
    return result


def _by_policy(
    repository: Repository, history: History, marks: Marks, request: ForgetRequest, now: int
) -> list[Decision]:
    if not _has_rule(request):
        raise UsageError(
            "no rule is given: use --keep-last, --keep-daily, ..., --retention-days, --max-backups, or name snapshots"
        )
    candidates = []
    for snapshot in history.live:
        seen = marks.seen.get(snapshot.id)
        candidates.append(
            Candidate(
                snapshot.id,
                snapshot.head.writer,
                snapshot.head.sequence,
                repository.open_listed(snapshot).time_ns,
                None if seen is None else seen[0],
                None if seen is None else seen[1],
            )
        )
    if not request.accept_rate:
        check_abuse(candidates, now, marks.last_look_ns)
    return decide(candidates, request, now, marks.last_look_ns)


def _has_rule(request: ForgetRequest) -> bool:
    counts = (
        request.keep_last,
        request.keep_hourly,
        request.keep_daily,
        request.keep_weekly,
        request.keep_monthly,
        request.keep_yearly,
    )
    if any(count < 0 for count in counts):
        raise UsageError("a keep rule cannot be negative")
    for limit in (request.retention_days, request.max_backups):
        if limit is not None and limit < 1:
            raise UsageError("retention days and maximum number of backups must be at least 1")
    return any(counts) or any(
        item is not None for item in (request.keep_within, request.retention_days, request.max_backups)
    )


def _record_seen(repository: Repository, history: History, marks: Marks, now: int) -> None:
    """Note which snapshots were seen for the first time now: from then on their claimed times are bounded."""
    fresh = [item for item in history.live if item.id not in marks.seen]
    if not fresh:
        return
    rows = [[item.id, marks.last_look_ns] for item in fresh]
    _store(repository, mark_objects.SEEN, rows, now)


def bury(repository: Repository, snapshots: Sequence[Snapshot], now: int) -> None:
    """Write the tombstones of snapshots."""
    rows = [[item.head.compartment, item.head.writer, item.head.sequence, item.id] for item in snapshots]
    _store(repository, mark_objects.TOMBSTONE, rows, now)


def _store(repository: Repository, kind: str, rows: Sequence[Sequence[object]], now: int) -> None:
    signer = repository.keys.marker("forget snapshots")
    generation = repository.keyring.generation
    for name, parts in encode_marks(kind, rows, repository.id, now, generation, signer):
        repository.storage.put(name, parts, create_only=False)
