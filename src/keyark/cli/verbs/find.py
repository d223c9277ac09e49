"""keyark find"""

from __future__ import annotations

from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.errors import NotFoundError
from keyark.recovery.model import SnapshotFilter
from keyark.text import show

app = new_app()


@app.command(epilog=examples("keyark -r /backups --key-file master.key find 'id_ed25519*'"))
def find(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="a shell pattern of names; with a slash, of paths")],
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="only in snapshots with one of these tags")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="only in snapshots of one of these hosts")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="only in the newest N")] = None,
) -> int:
    """Find files in all snapshots."""
    from keyark.recovery.browse import find_entries

    session = session_of(context)
    out = session.output
    current = None
    with session.open() as repository:
        chosen = SnapshotFilter(tuple(tag or ()), tuple(host or ()), (), last)
        for entry in find_entries(repository, pattern, chosen, session.context):
            if out.as_json:
                out.json({"message_type": "match", **views.entry(entry)})
            else:
                if entry.snapshot != current:
                    out.print(f"snapshot {(entry.snapshot or '')[:8]}")
                out.print(f"  {show(entry.path)}")
            current = entry.snapshot
    if current is None:
        raise NotFoundError(f"nothing matches {pattern!r}")
    return 0
