"""keyark writer"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import relative_time

app = new_app()


@app.callback(epilog=examples("keyark -r /backups --key-file master.key writer add web1 -o web1.credential"))
def writer() -> None:
    """Who may write, and (operators) who may forget and prune."""


@app.command("list", epilog=examples("keyark -r /backups --key-file master.key writer list"))
def list_writers(context: typer.Context) -> int:
    """List writers and operators."""
    from keyark.upkeep import writers as upkeep

    session = session_of(context)
    with session.open() as repository:
        found = upkeep.list_writers(repository)
    out = session.output
    if out.as_json:
        out.json([{**dataclasses.asdict(item), "created": views.rfc3339(item.created_ns)} for item in found])
        return 0
    now = session.context.clock.now_ns()
    rows = [
        (
            item.id[:8],
            item.role,
            item.label or "",
            item.compartment or "",
            "revoked" if item.revoked else "standing",
            relative_time(item.created_ns, now),
            "" if item.last_sequence is None else str(item.last_sequence),
        )
        for item in found
    ]
    out.table(("ID", "Role", "Name", "Compartment", "Standing", "Made", "Snapshots"), rows, frozenset({6}))
    return 0


@app.command(
    "add",
    epilog=examples("""
keyark -r /backups --key-file master.key writer add web1 -o web1.credential
keyark -r /backups --key-file master.key writer add ops -o ops.credential --operator"""),
)
def add_writer(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="where the credential goes (mode 600)")],
    operator: Annotated[
        bool, typer.Option("--operator", help="may forget, prune, verify, copy; reads no content, adds nothing")
    ] = False,
    compartment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="share this one and deduplicate in it; the default is one of its own"),
    ] = None,
    post_quantum: Annotated[bool, typer.Option("--post-quantum-signatures", help="also sign with ML-DSA-65")] = False,
) -> int:
    """Make a credential for a writer or an operator."""
    from keyark.upkeep import writers as upkeep

    session = session_of(context)
    with session.open() as repository:
        made = upkeep.add_writer(
            repository,
            name,
            output,
            operator=operator,
            compartment=compartment,
            post_quantum=post_quantum,
            context=session.context,
        )
    if session.output.as_json:
        session.output.json(dataclasses.asdict(made))
        return 0
    session.output.print(f"{made.role} {made.name} added; its credential is in {made.path}")
    where = f" in compartment {made.compartment}" if made.compartment else ""
    session.output.say(
        f"Move that file to its machine and use it there: keyark -r LOCATION --credential {made.path} ...{where}"
    )
    return 0


@app.command("revoke", epilog=examples("keyark -r /backups --key-file master.key writer revoke web1"))
def revoke_writer(
    context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="a name, an id, or a prefix")]
) -> int:
    """Revoke a writer or operator, and change the keys that it knew for what comes."""
    from keyark.upkeep import writers as upkeep

    session = session_of(context)
    with session.open() as repository:
        info = upkeep.revoke_writer(repository, name, session.context)
    if session.output.as_json:
        session.output.json(dataclasses.asdict(info))
    else:
        session.output.print(f"{info.role} {info.label or info.id[:8]} revoked; what it did until now stays valid")
    return 0
