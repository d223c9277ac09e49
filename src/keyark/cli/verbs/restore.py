"""keyark restore"""

from __future__ import annotations

import datetime
import os
from collections import defaultdict
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import Output, duration, human_size, plural
from keyark.cli.verbs.ls import print_entry
from keyark.errors import UsageError
from keyark.recovery.model import OverwritePolicy, RestoreReport, RestoreRequest
from keyark.text import show

app = new_app()
_POLICIES: dict[str, OverwritePolicy] = {"always": "always", "if-changed": "if-changed", "never": "never"}
_NAMED = 20  # objects named for one and the same reason


@app.command(
    epilog=examples("""
keyark -r /backups --key-file master.key restore latest --target /tmp/restored
keyark -r /backups --key-file master.key restore latest --target /tmp/keys --include '*.key'
keyark -r /backups --key-file master.key restore --at '2026-01-31 18:00' --target /tmp/january""")
)
def restore(
    context: typer.Context,
    snapshot: Annotated[
        str | None, typer.Argument(metavar="SNAPSHOT", help="an id, a prefix, a name, or latest")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", metavar="DIR", help="objects go below it, under their original paths"),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", "-i", metavar="PATTERN", help="only what matches, in gitignore syntax"),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", "-e", metavar="PATTERN", help="leave out what matches")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="in place of SNAPSHOT: the newest at or before this time")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="list what would be restored")] = False,
    overwrite: Annotated[
        str | None, typer.Option(metavar="POLICY", help="always, if-changed or never; without it DIR must be empty")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="read everything back and compare")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", hidden=True)] = False,
) -> int:
    """Restore a snapshot, or parts of it."""
    from keyark.recovery.restore import restore as run_restore

    session = session_of(context)
    if in_place:
        raise UsageError("--in-place is not part of this version yet; restore into a folder with --target")
    if (snapshot is None) == (at is None):
        raise UsageError(
            "say which snapshot: an id, a name, latest, or --at TIME"
            if at is None
            else "give either SNAPSHOT or --at, not both"
        )
    if not target and not dry_run:
        raise UsageError("say where to restore to: --target DIR")
    request = RestoreRequest(
        snapshot,
        os.fsencode(os.path.abspath(target or ".")),
        tuple(include or ()),
        tuple(exclude or ()),
        None if at is None else parse_time(at),
        dry_run,
        parse_policy(overwrite),
        verify,
    )
    with session.open() as repository:
        report = run_restore(repository, request, session.context)
    out = session.output
    for entry in report.entries:
        print_entry(session, entry, long=out.verbose)
    if out.as_json:
        out.json({"message_type": "summary", **views.restore_report(report)})
    elif dry_run:
        out.say(f"dry run: {plural(len(report.entries), 'object')}; nothing was written")
    else:
        summary(out, report)
    name_problems(out, report)
    return exit_code(report)


def parse_policy(text: str | None) -> OverwritePolicy | None:
    """The overwrite policy that an option names."""
    if text is None:
        return None
    if text not in _POLICIES:
        raise UsageError(f"--overwrite {text!r} is unknown; use always, if-changed or never")
    return _POLICIES[text]


def parse_time(text: str) -> int:
    """ISO 8601, local time unless it says otherwise, in ns. A date alone means its end."""
    try:
        value = datetime.datetime.fromisoformat(text)
    except ValueError as e:
        raise UsageError(
            f"time {text!r} is malformed; write 2026-01-31, '2026-01-31 18:00' or 2026-01-31T18:00:00Z"
        ) from e
    if len(text) == 10:
        value = value.replace(hour=23, minute=59, second=59, microsecond=999_999)
    elif "." not in text:
        value = value.replace(microsecond=999_999)  # "at 18:00:05" includes what was made within that second
    aware = value.astimezone() if value.tzinfo is None else value
    return int(aware.timestamp() * 10**6) * 1000


def exit_code(report: RestoreReport) -> int:
    """13 for damage, 1 for what the target refused, 0."""
    if any(problem.integrity for problem in report.problems):
        return 13
    return 1 if report.problems else 0


def summary(out: Output, report: RestoreReport) -> None:
    """A restore in two lines."""
    out.print(f"restored {report.name} to {show(report.target)}")
    parts = [plural(report.files_restored, "file"), plural(report.dirs_restored, "folder")]
    if report.others_restored:
        parts.append(plural(report.others_restored, "other object"))
    if report.files_skipped:
        parts.append(f"{report.files_skipped:,} left as they were")
    out.say(f"  {', '.join(parts)}; {human_size(report.bytes_restored)} in {duration(report.total_duration)}")
    if report.verified and not report.problems:
        out.say("  read back and compared: everything is as it was")


def name_problems(out: Output, report: RestoreReport) -> None:
    """Every object that was not restored; one and the same small loss on many objects in one line."""
    for notice in report.notices:
        out.warn(notice)
    losses: dict[str, list[bytes]] = defaultdict(list)
    for problem in report.problems:
        if problem.integrity:
            out.error(f"{show(problem.path)}: not restored: {problem.what}")
        else:
            losses[problem.what].append(problem.path)
    for what, paths in losses.items():
        for path in paths[:_NAMED]:
            out.error(f"{show(path)}: {what}")
        if len(paths) > _NAMED:
            out.error(f"{what}: the same on {plural(len(paths) - _NAMED, 'more object')}; --json names them all")
