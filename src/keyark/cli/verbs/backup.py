"""keyark backup"""

from __future__ import annotations

import os
import sys
from typing import Annotated, BinaryIO

import typer

from keyark import views
from keyark.backup.model import BackupReport, BackupRequest
from keyark.backup.sources import absolute
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import Output, duration, human_size, plural
from keyark.cli.session import Session
from keyark.errors import UsageError

app = new_app()


@app.command(
    epilog=examples("""
keyark -r /backups backup /etc/ssl/private /etc/ssh --tag nightly
keyark -r /backups backup / --one-file-system --exclude /var/cache --exclude '*.tmp'
vault operator raft snapshot save /dev/stdout | keyark -r /backups backup --stdin --stdin-name vault.snap""")
)
def backup(
    context: typer.Context,
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="files and folders")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="a tag; repeat for more")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", "-e", metavar="PATTERN", help="leave out, in gitignore syntax")
    ] = None,
    exclude_file: Annotated[list[str] | None, typer.Option(metavar="FILE", help="a file of such patterns")] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", "-x", help="do not enter other file systems")
    ] = False,
    include_caches: Annotated[
        bool, typer.Option("--include-caches", help="also enter folders with a CACHEDIR.TAG")
    ] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="back up standard input as one file")] = False,
    stdin_name: Annotated[str | None, typer.Option(metavar="NAME", help="that file's name")] = None,
    compression: Annotated[
        str | None, typer.Option(metavar="CODEC", help="zstd:3, gzip:6, bzip2:9, lzma:6 (levels vary), none or auto")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="AES-256-GCM, ChaCha20-Poly1305, AES-256-GCM-SIV or multi-layer")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="store nothing, say what would be")] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="the snapshot's name")] = None,
    force: Annotated[bool, typer.Option("--force", help="read files even if they look unchanged")] = False,
) -> int:
    """Back up files, folders or a stream."""
    from keyark.backup.run import backup as run_backup

    session = session_of(context)
    if stdin_name is not None and not stdin:
        raise UsageError("--stdin-name needs --stdin")
    config = session.config if session.options.config else None  # the checker of configurations is slow to load
    request = BackupRequest(
        paths=()
        if stdin and not paths
        else tuple(map(absolute, paths or (session.configured_sources if config else ()))),
        tags=tuple(tag or ()),
        excludes=(*(exclude or ()), *(config.excludes if config else ())),
        exclude_files=tuple(exclude_file or ()),
        exclude_caches=not include_caches,
        one_file_system=one_file_system,
        stdin=_standard_input() if stdin else None,
        stdin_name=os.fsencode(stdin_name or "stdin") if stdin else None,
        compression=compression or (config.compression if config else "zstd:3"),
        suite=suite or (config.encryption.algorithm if config else None),
        dry_run=dry_run,
        name=name,
        force=force,
    )
    with session.open(reading=False) as repository:
        report = run_backup(repository, request, session.context)
    render(session, report)
    return 0 if report.complete else 3


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed by whoever started us
        raise UsageError("--stdin: standard input is closed; nothing was backed up")
    return sys.stdin.buffer


def render(session: Session, report: BackupReport) -> None:
    """Show what a backup did."""
    out = session.output
    if out.as_json:
        out.json({"message_type": "summary", **views.backup_summary(report)})
        return
    summary(out, report)


def summary(out: Output, report: BackupReport) -> None:
    """A backup in three lines."""
    total = f"{plural(report.total_files_processed, 'file')}, {human_size(report.total_bytes_processed)}"
    if report.snapshot_id is None:
        out.print(f"dry run: {total}; nothing was stored")
        out.say(f"  would add {human_size(report.data_added)} before compression")
        return
    out.print(f"snapshot {report.snapshot_id[:8]}  {report.name}")
    counts = f"{report.files_new:,} new, {report.files_changed:,} changed, {report.files_unmodified:,} unmodified"
    out.say(f"  read   {total}: {counts}, in {duration(report.total_duration)}")
    out.say(f"  added  {human_size(report.data_added)}, stored as {human_size(report.data_added_packed)}")
    if report.problems:
        objects = plural(len(report.problems), "object")
        out.warn(f"{objects} not backed up as they were; `keyark ls {report.snapshot_id[:8]}` names them, too")
