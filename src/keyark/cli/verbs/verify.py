"""keyark verify"""

from __future__ import annotations

from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import Output, duration, human_size, paint, plural
from keyark.text import show
from keyark.upkeep.model import Finding, VerifyReport, VerifyRequest

app = new_app()
_SHOWN = 10  # snapshots or files named with a finding on the terminal


@app.command(
    epilog=examples("""
keyark -r /backups --key-file master.key verify --read-data
keyark -r /backups --credential operator.credential verify --read-data-subset 5%""")
)
def verify(
    context: typer.Context,
    read_data: Annotated[bool, typer.Option("--read-data", help="read every pack")] = False,
    read_data_subset: Annotated[str | None, typer.Option(metavar="5%|n/m|500M", help="read a part")] = None,
    repair_index: Annotated[
        bool, typer.Option("--repair-index", help="rebuild the index from the packs first")
    ] = False,
) -> int:
    """Look for damage: structure by default, everything with --read-data."""
    from keyark.upkeep.verify import verify as run_verify

    session = session_of(context)
    with session.open() as repository:
        report = run_verify(repository, VerifyRequest(read_data, read_data_subset, repair_index), session.context)
    if session.output.as_json:
        session.output.json(as_json(report))
    else:
        render(session.output, report)
    return 0 if report.sound else 13


def as_json(report: VerifyReport) -> dict[str, object]:
    """A verification as plain values."""
    return {
        "message_type": "summary",
        "sound": report.sound,
        "findings": [
            {
                "object": item.object,
                "what": item.what,
                "fatal": item.fatal,
                "snapshots": list(item.snapshots),
                "files": [views.path_text(path) for path in item.files],
            }
            for item in report.findings
        ],
        "snapshots": report.snapshots,
        "packs": report.packs,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "files_checked": report.files_checked,
        "content_checked": report.content_checked,
        "index_repaired": report.index_repaired,
        "total_duration": round(report.total_duration, 6),
    }


def render(out: Output, report: VerifyReport) -> None:
    """A verification for people."""
    for finding in report.findings:
        if finding.fatal:
            _finding(out, finding)
        elif out.verbose:
            out.say(f"notice: {finding.what}")
    notices = sum(not item.fatal for item in report.findings)
    if report.index_repaired:
        out.say("the index was rebuilt from the packs")
    data = f", {plural(report.packs_read, 'pack')} read ({human_size(report.bytes_read)})" if report.packs_read else ""
    files = f", {plural(report.files_checked, 'file')}" if report.files_checked else ""
    counted = f"{plural(report.snapshots, 'snapshot')}, {plural(report.packs, 'pack')}"
    checked = f"{counted}{files}{data} in {duration(report.total_duration)}"
    if report.sound:
        import sys

        out.print(f"{paint('no damage found', '32', sys.stdout)}: {checked}")
    else:
        fatal = len(report.findings) - notices
        out.print(f"{plural(fatal, 'damaged or forged object')}: {checked}")
    if notices and not out.verbose:
        out.say(f"{plural(notices, 'notice')} about harmless leftovers; -v shows them, `keyark prune` removes them")


def _finding(out: Output, finding: Finding) -> None:
    out.error(finding.what)
    if finding.snapshots:
        out.print(f"  touches snapshots {_some([item[:8] for item in finding.snapshots])}")
    if finding.files:
        out.print(f"  touches files     {_some([show(path) for path in finding.files])}")


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
