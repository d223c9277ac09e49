"""keyark snapshots"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import human_size, local_time, plural, relative_time
from keyark.cli.session import Session
from keyark.recovery.model import SnapshotFilter, SnapshotInfo

app = new_app()
_INCOMPLETE = 5  # snapshots of which it is said


@app.command(epilog=examples("keyark -r /backups --key-file master.key snapshots --tag nightly --last 5"))
def snapshots(
    context: typer.Context,
    tag: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="only with one of these tags")] = None,
    host: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="only of one of these hosts")] = None,
    path: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="only of all of these paths")] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="only the newest N")] = None,
) -> int:
    """List snapshots, oldest first."""
    from keyark.recovery.snapshots import list_snapshots

    session = session_of(context)
    chosen = SnapshotFilter(
        tuple(tag or ()),
        tuple(host or ()),
        tuple(os.fsencode(os.path.abspath(item)) for item in path or ()),
        last,
    )
    with session.open() as repository:
        found = list_snapshots(repository, chosen, session.context)
    if session.output.as_json:
        session.output.json([views.snapshot(info) for info in found])
        return 0
    table(session, found, f"keyark -r {session.location} backup PATH" if not (tag or host or path) else None)
    return 0


def table(session: Session, found: list[SnapshotInfo], next_command: str | None) -> None:
    """Snapshots as a table; for none, what to do next."""
    out = session.output
    if not found:
        if next_command is None:
            out.print("no snapshot matches")
        else:
            out.print(f"no snapshots yet; make the first with: {next_command}")
        return
    now = session.context.clock.now_ns()
    if not found[0].content_open:
        rows = [
            (
                info.short_id,
                local_time(info.time_ns),
                relative_time(info.time_ns, now),
                str(info.summary["total_files_processed"]),
                human_size(info.summary["total_bytes_processed"]),
                info.writer_label or info.writer[:8],
            )
            for info in found
        ]
        out.table(("ID", "Time", "", "Files", "Size", "Writer"), rows, frozenset({3, 4}))
    else:
        content = [
            (
                info.short_id,
                info.name or "",
                relative_time(info.time_ns, now),
                f"{info.summary['total_files_processed']:,}",
                human_size(info.summary["total_bytes_processed"]),
                info.hostname or "",
                ",".join(info.tags),
                _paths(info),
            )
            for info in found
        ]
        out.table(("ID", "Name", "When", "Files", "Size", "Host", "Tags", "Paths"), content, frozenset({3, 4}))
    out.say(plural(len(found), "snapshot"))
    for info in [info for info in found if info.summary["problems"]][-_INCOMPLETE:]:
        lost = plural(info.summary["problems"], "object")
        out.say(f"{info.short_id}: {lost} not backed up as they were; `keyark ls {info.short_id}` names them")


def _paths(info: SnapshotInfo) -> str:
    shown = [os.fsdecode(path) for path in info.paths[:3]]
    more = len(info.paths) - len(shown)
    return " ".join(shown) + (f" (+{more} more)" if more > 0 else "")
