"""keyark ls"""

from __future__ import annotations

import os
import stat
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import local_time
from keyark.cli.session import Session
from keyark.recovery.model import Entry
from keyark.text import show

app = new_app()
_TYPE_BITS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "chardev": stat.S_IFCHR,
    "dev": stat.S_IFBLK,
}


@app.command(epilog=examples("keyark -r /backups --key-file master.key ls latest /etc/ssh --long"))
def ls(
    context: typer.Context,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="an id, a prefix, a name, or latest")],
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="only what is there")] = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="mode, owner, size, time")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="below PATH too")] = False,
) -> int:
    """List what is in a snapshot."""
    from keyark.recovery.browse import list_entries

    session = session_of(context)
    wanted = None if path is None else os.fsencode(path)
    with session.open() as repository:
        for entry in list_entries(repository, snapshot, wanted, recursive=recursive, context=session.context):
            print_entry(session, entry, long=long)
    return 0


def print_entry(session: Session, entry: Entry, *, long: bool) -> None:
    """One object, as a line or as JSON."""
    out = session.output
    if out.as_json:
        out.json({"message_type": "node", **views.entry(entry)})
    elif long:
        mode = stat.filemode(_TYPE_BITS[entry.type] | entry.mode)
        owner = f"{entry.user or entry.uid} {entry.group or entry.gid}"
        target = f" -> {show(entry.link_target)}" if entry.link_target is not None else ""
        out.print(f"{mode} {owner:<17} {entry.size:>12} {local_time(entry.mtime_ns)} {show(entry.path)}{target}")
    else:
        out.print(show(entry.path))
