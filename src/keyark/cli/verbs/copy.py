"""keyark copy"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import human_size, plural
from keyark.errors import UsageError

app = new_app()


@app.command(epilog=examples("keyark -r /backups --credential operator.credential copy /mnt/second"))
def copy(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="LOCATION", help="where to; made when it is not there")],
) -> int:
    """Replicate the repository to another place, without opening anything."""
    from keyark.storage.location import open_storage
    from keyark.upkeep.copy import copy as run_copy

    session = session_of(context)
    with session.open(reading=False) as repository:
        other = open_storage(destination, create=True)
        if other.location == repository.storage.location:
            raise UsageError(f"{other.location} is the repository itself; name another place to copy it to")
        report = run_copy(repository, other, session.context)
    if session.output.as_json:
        session.output.json({"message_type": "summary", **dataclasses.asdict(report)})
    else:
        session.output.print(
            f"{plural(report.objects, 'object')} copied, {human_size(report.bytes)}; {report.skipped:,} there already"
        )
    return 0
