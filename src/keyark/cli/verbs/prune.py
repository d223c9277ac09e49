"""keyark prune"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import Output, human_size, plural
from keyark.upkeep.model import PruneReport, PruneRequest

app = new_app()


@app.command(epilog=examples("keyark -r /backups --credential operator.credential prune"))
def prune(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="change nothing")] = False,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="leave packs of no snapshot alone for this long; a backup may be under way")
    ] = 24.0,
) -> int:
    """Delete what no snapshot needs."""
    from keyark.upkeep.prune import prune as run_prune

    session = session_of(context)
    with session.open() as repository:
        report = run_prune(repository, PruneRequest(dry_run, int(grace_hours * 3600)), session.context)
    if session.output.as_json:
        session.output.json({"message_type": "summary", **dataclasses.asdict(report)})
    else:
        summary(session.output, report)
    return 0


def summary(out: Output, report: PruneReport) -> None:
    """A prune in two lines."""
    verb = "would be deleted" if report.dry_run else "deleted"
    out.print(
        f"{plural(report.packs_deleted, 'pack')} {verb}, {human_size(report.bytes_freed)}; {plural(report.packs_kept, 'pack')} kept"
    )
    if report.packs_thin:
        out.say(
            f"  {plural(report.packs_thin, 'pack')} little used: the next backup stores their rest again, then they can go"
        )
    if report.waiting:
        out.say(f"  {plural(report.waiting, 'pack')} of no snapshot left alone: perhaps of a backup under way")
