"""keyark key"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from keyark import views
from keyark.cli.command import examples, new_app, session_of
from keyark.cli.render import human_size, plural, relative_time
from keyark.cli.slotoptions import (
    Iterations,
    KeyDerivation,
    NewKeyFile,
    NewPassword,
    NewPasswordFile,
    NewRecipient,
    new_slots,
    remove_key_files,
)
from keyark.errors import UsageError

app = new_app()


@app.callback(
    epilog=examples("""
keyark -r /backups --key-file master.key key list
keyark -r /backups --key-file master.key key add --new-recipient age1pq1...""")
)
def key() -> None:
    """Who may read."""


@app.command("list", epilog=examples("keyark -r /backups --key-file master.key key list"))
def list_keys(context: typer.Context) -> int:
    """List the keys, weakest first."""
    from keyark.upkeep import slots as upkeep

    session = session_of(context)
    with session.open() as repository:
        found = upkeep.list_slots(repository)
    out = session.output
    if out.as_json:
        out.json([{**dataclasses.asdict(item), "created": views.rfc3339(item.created_ns)} for item in found])
        return 0
    now = session.context.clock.now_ns()
    rows = [
        (
            ("*" if item.opened else " ") + item.id[:8],
            item.kind,
            item.label or "",
            "admin" if item.admin else "reads",
            relative_time(item.created_ns, now),
            item.strength,
        )
        for item in found
    ]
    out.table(("ID", "Kind", "Label", "May", "Made", "Strength"), rows)
    for item in found:
        if item.warning is not None:
            out.warn(f"{item.id[:8]} ({item.label or item.kind}): {item.warning}")
    if len(found) == 1:
        out.warn("there is only one way in; `keyark key add` makes another")
    return 0


@app.command(
    "add",
    epilog=examples("""
keyark -r /backups --key-file master.key key add --new-recipient age1pq1... --label safe
keyark -r /backups --key-file master.key key add --new-password --admin"""),
)
def add_key(
    context: typer.Context,
    new_key_file: NewKeyFile = None,
    new_password_file: NewPasswordFile = None,
    new_password: NewPassword = False,
    new_recipient: NewRecipient = None,
    label: Annotated[str | None, typer.Option(metavar="NAME", help="a name for people")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="it may also change keys and writers")] = False,
    key_derivation: KeyDerivation = None,
    iterations: Iterations = None,
) -> int:
    """Add a key: everything that yours opens, it opens too."""
    from keyark.repository.create import NewSlot
    from keyark.upkeep import slots as upkeep

    session = session_of(context)
    encryption = session.config.encryption
    derivation = key_derivation or encryption.key_derivation
    count = iterations if iterations is not None else encryption.iterations
    slots, made = new_slots(
        session, new_key_file, new_password_file, new_recipient, derivation, count, ask=new_password
    )
    if not slots:
        raise UsageError("name the new key: --new-key-file, --new-password, --new-password-file or --new-recipient")
    added = []
    try:
        with session.open() as repository:
            for slot in slots:
                named = slot if label is None else NewSlot(slot.method, label)
                added.append(upkeep.add_slot(repository, named, admin=admin, context=session.context))
    except BaseException:
        if not added:
            remove_key_files(made)
        raise
    for item in added:
        if session.output.as_json:
            session.output.json(dataclasses.asdict(item))
            continue
        session.output.print(f"key {item.id[:8]} added: {item.label} ({item.strength})")
        if item.warning is not None:
            session.output.warn(item.warning)
    return 0


@app.command("remove", epilog=examples("keyark -r /backups --key-file master.key key remove 1a2b3c4d"))
def remove_key(
    context: typer.Context, slot: Annotated[str, typer.Argument(metavar="KEY", help="an id, a prefix, or a label")]
) -> int:
    """Remove a key, and change the keys of what comes."""
    from keyark.upkeep import slots as upkeep

    session = session_of(context)
    with session.open() as repository:
        message = upkeep.remove_slot(repository, slot, session.context)
    if session.output.as_json:
        session.output.json({"removed": slot, "note": message})
    else:
        session.output.print(f"key {slot} removed")
        session.output.say(f"note: {message}")
    return 0


@app.command("rotate", epilog=examples("keyark -r /backups --key-file master.key key rotate --reseal"))
def rotate_keys(
    context: typer.Context,
    reseal: Annotated[
        bool,
        typer.Option(
            "--reseal", help="also write what is stored again, under new data keys; run it again if interrupted"
        ),
    ] = False,
) -> int:
    """Change listing, id and index keys for what comes. The next backups store once more."""
    from keyark.upkeep import slots as upkeep

    session = session_of(context)
    with session.open() as repository:
        report = upkeep.rotate(repository, session.context, reseal=reseal)
    if session.output.as_json:
        session.output.json(dataclasses.asdict(report))
    elif report.resealed is not None:
        done = report.resealed
        session.output.print(f"{plural(done.packs, 'pack')} re-sealed under new keys ({human_size(done.bytes)})")
        session.output.say(
            f"`keyark prune` deletes the {plural(done.superseded, 'pack')} that they supersede; until then, and in every copy "
            "made before, the old keys still open those."
        )
    else:
        session.output.print(
            f"keys rotated in {plural(report.compartments, 'compartment')}; nothing stored was rewritten"
        )
        session.output.say("Each writer's next backup starts a new epoch and stores its data once under the new keys.")
    return 0
