"""keyark forget"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import local_time, plural
from keyark.cli.verbs.prune import summary as prune_summary
from keyark.errors import UsageError
from keyark.upkeep.model import ForgetRequest

app = new_app()
Count = Annotated[int, typer.Option(min=0, metavar="N")]


@app.command(
    epilog=examples("""
keyark -r /backups --credential operator.credential forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --prune
keyark -r /backups --key-file master.key forget 1a2b3c4d""")
)
def forget(
    context: typer.Context,
    snapshots: Annotated[
        list[str] | None, typer.Argument(metavar="SNAPSHOT", help="forget these, in place of rules")
    ] = None,
    keep_last: Count = 0,
    keep_hourly: Count = 0,
    keep_daily: Count = 0,
    keep_weekly: Count = 0,
    keep_monthly: Count = 0,
    keep_yearly: Count = 0,
    keep_within: Annotated[
        str | None, typer.Option(metavar="1y2m3w4d5h", help="all within this time of the newest")
    ] = None,
    retention_days: Annotated[int | None, typer.Option(metavar="N", help="none older than this")] = None,
    max_backups: Annotated[int | None, typer.Option(metavar="N", help="no more than this")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="decide, change nothing")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="reclaim space afterwards")] = False,
    accept_rate: Annotated[
        bool, typer.Option("--accept-rate", help="go on although one writer made very many snapshots")
    ] = False,
    acknowledge_loss: Annotated[
        bool, typer.Option("--acknowledge-loss", help="accept that missing snapshots are lost; ends that alarm")
    ] = False,
) -> int:
    """Forget snapshots by rules, or those named. The newest of each writer is kept by every rule."""
    from keyark.upkeep.forget import forget as run_forget

    session = session_of(context)
    if snapshots and any(
        (
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within,
            retention_days,
            max_backups,
        )
    ):
        raise UsageError("give either snapshots or rules, not both")
    settings = session.config.backup_settings
    if not snapshots and session.options.config:
        retention_days = retention_days if retention_days is not None else settings.retention_days
        max_backups = max_backups if max_backups is not None else settings.max_backups
    request = ForgetRequest(
        keep_last,
        keep_hourly,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        keep_within,
        retention_days,
        max_backups,
        tuple(snapshots or ()),
        dry_run,
        prune,
        accept_rate,
        acknowledge_loss,
    )
    with session.open() as repository:
        report = run_forget(repository, request, session.context)
    out = session.output
    if out.as_json:
        out.json(
            {
                "message_type": "summary",
                "removed": report.removed,
                "dry_run": report.dry_run,
                "decisions": [
                    {
                        "id": item.snapshot,
                        "name": item.name,
                        "time": views.rfc3339(item.time_ns),
                        "keep": item.keep,
                        "reasons": list(item.reasons),
                    }
                    for item in report.decisions
                ],
                "prune": None if report.prune is None else dataclasses.asdict(report.prune),
            }
        )
        return 0
    if report.decisions:
        rows = [
            (
                "keep" if item.keep else "forget",
                item.snapshot[:8],
                item.name or "",
                local_time(item.time_ns),
                ", ".join(item.reasons),
            )
            for item in report.decisions
        ]
        out.table(("", "ID", "Name", "Time", "Why"), rows)
    done = "would be forgotten" if dry_run else "forgotten"
    out.print(f"{plural(report.removed, 'snapshot')} {done}")
    if report.prune is not None:
        prune_summary(out, report.prune)
    elif report.removed and not dry_run:
        out.say("`keyark prune` reclaims their space")
    return 0
