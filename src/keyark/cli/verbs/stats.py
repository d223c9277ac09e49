"""keyark stats"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import human_size

app = new_app()


@app.command(epilog=examples("keyark -r /backups --key-file master.key stats"))
def stats(
    context: typer.Context,
    snapshot: Annotated[str | None, typer.Argument(metavar="SNAPSHOT", help="only this one's restore size")] = None,
) -> int:
    """Show sizes."""
    from keyark.recovery.browse import stats as run_stats

    session = session_of(context)
    with session.open() as repository:
        report = run_stats(repository, snapshot, session.context)
    out = session.output
    if out.as_json:
        out.json(dataclasses.asdict(report))
        return 0
    rows = [
        ("snapshots", f"{report.snapshots:,}"),
        ("packs", f"{report.packs:,}  {human_size(report.pack_bytes)}"),
        ("index", human_size(report.index_bytes)),
        ("everything else", human_size(report.other_bytes)),
        ("stored", human_size(report.stored_bytes)),
    ]
    if report.total_size is not None:
        rows.append(
            (
                "restore size",
                f"{human_size(report.total_size)} in {report.total_files or 0:,} files, all snapshots together"
                if snapshot is None
                else human_size(report.total_size),
            )
        )
    if report.compression_ratio is not None:
        rows.append(("restored per stored byte", f"{report.compression_ratio:.1f}"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.print(f"{name.ljust(width)}  {value}")
    return 0
