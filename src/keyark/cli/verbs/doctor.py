"""keyark doctor"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import paint
from keyark.errors import KeyarkError
from keyark.upkeep.model import Check, DoctorReport

app = new_app()
_COLOURS = {"ok": "32", "warning": "33", "failed": "31"}


@app.command(
    epilog=examples("""
keyark -r ./backups --key-file backup_master.key doctor
openssl enc -aes-256-cbc -d -in test.enc -out test.dec -pass file:backup_master.key""")
)
def doctor(
    context: typer.Context,
    test_enc: Annotated[
        str | None, typer.Option(metavar="FILE", help="where the file for openssl goes; beside the key file by default")
    ] = None,
) -> int:
    """Diagnose this installation, and write test.enc, with which openssl alone checks the key file."""
    from keyark.upkeep import doctor as upkeep

    session = session_of(context)
    checks = list(upkeep.check_host())
    key_file = session.options.key_file
    if key_file is not None:
        target = test_enc or os.path.join(os.path.dirname(os.path.abspath(key_file)), "test.enc")
        checks += upkeep.check_key_file(key_file, target)
    if session.options.repository or session.options.config:
        try:
            with session.open() as repository:
                checks += upkeep.check_repository(repository)
        except KeyarkError as e:
            checks.append(Check("repository", "failed", str(e)))
    report = DoctorReport(tuple(checks))
    out = session.output
    if out.as_json:
        out.json({"healthy": report.healthy, "checks": [dataclasses.asdict(item) for item in report.checks]})
    else:
        width = max(len(item.name) for item in report.checks)
        for item in report.checks:
            status = paint(item.status.ljust(7), _COLOURS[item.status], sys.stdout)
            out.print(
                f"{status}  {item.name.ljust(width)}  {item.detail}" + (f"; {item.advice}" if item.advice else "")
            )
    return 0 if report.healthy else 1
