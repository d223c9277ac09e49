"""keyark discover"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import plural
from keyark.text import show

app = new_app()


@app.command(
    epilog=examples("""
keyark discover
keyark discover /etc /home --json""")
)
def discover(
    context: typer.Context,
    roots: Annotated[
        list[str] | None, typer.Argument(metavar="FOLDER", help="where to look; the usual places by default")
    ] = None,
) -> int:
    """Find key material on this host, by path and by content."""
    from keyark.keykinds.discover import DiscoverRequest
    from keyark.keykinds.discover import discover as run_discover

    session = session_of(context)
    wanted = tuple(os.fsencode(os.path.abspath(root)) for root in roots or ())
    report = run_discover(DiscoverRequest(wanted), session.context)
    out = session.output
    if out.as_json:
        out.json(
            {
                "found": [
                    {
                        "path": views.path_text(item.path),
                        "kind": item.kind.name,
                        "title": item.kind.title,
                        "exposed": item.exposed,
                    }
                    for item in report.found
                ],
                "files_seen": report.files_seen,
                "unreadable": report.unreadable,
                "left_out": [views.path_text(path) for path in report.left_out],
            }
        )
        return 0
    if report.found:
        out.table(
            ("Kind", "Path", ""),
            [(item.kind.title, show(item.path), "others can read it" if item.exposed else "") for item in report.found],
        )
    exposed = sum(item.exposed for item in report.found)
    if out.verbose:
        for path in report.left_out:
            out.say(f"not searched: {show(path)}")
    elif report.left_out:
        out.say(
            f"{plural(len(report.left_out), 'folder')} of caches, software and test keys not searched; -v names them"
        )
    if exposed:
        out.warn(f"{plural(exposed, 'key file')} can be read by others than the owner")
    out.print(f"{plural(len(report.found), 'key file')} found among {plural(report.files_seen, 'file')}")
    if report.unreadable:
        advice = "" if os.geteuid() == 0 else "; root would see all"
        noun = "file or folder" if report.unreadable == 1 else "files or folders"
        out.warn(f"{report.unreadable:,} {noun} could not be read{advice}")
    return 0
