"""keyark diff"""

from __future__ import annotations

from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import human_size
from keyark.text import show

app = new_app()


@app.command(epilog=examples("keyark -r /backups --key-file master.key diff 1a2b3c4d latest"))
def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="a snapshot")],
    b: Annotated[str, typer.Argument(metavar="B", help="another, usually later one")],
) -> int:
    """Compare two snapshots: + added, - removed, M content, U metadata, T type."""
    from keyark.recovery.browse import diff as run_diff

    session = session_of(context)
    with session.open() as repository:
        report = run_diff(repository, a, b, session.context)
    out = session.output
    if out.as_json:
        out.json(
            {
                "source_snapshot": report.a,
                "target_snapshot": report.b,
                "changes": [{"path": views.path_text(item.path), "modifier": item.modifier} for item in report.changes],
                "added_files": report.added_files,
                "removed_files": report.removed_files,
                "changed_files": report.changed_files,
                "added_bytes": report.added_bytes,
                "removed_bytes": report.removed_bytes,
            }
        )
        return 0
    for change in report.changes:
        out.print(f"{change.modifier}    {show(change.path)}")
    counts = f"{report.added_files} new, {report.removed_files} removed, {report.changed_files} changed"
    out.say(f"files: {counts}; {human_size(report.added_bytes)} added, {human_size(report.removed_bytes)} removed")
    return 0
