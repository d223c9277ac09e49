"""keyark init"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from keyark.cli.command import examples, new_app, session_of
from keyark.cli.slotoptions import (
    Iterations,
    KeyDerivation,
    NewKeyFile,
    NewPassword,
    NewPasswordFile,
    NewRecipient,
    new_slots,
    recovery_slots,
    remove_key_files,
)

if TYPE_CHECKING:
    from keyark.cli.session import Session
    from keyark.repository.create import InitReport
    from keyark.upkeep.doctor import Probe

app = new_app()


@app.command(
    epilog=examples("""
keyark -r /backups init --new-key-file backup_master.key --recovery-recipient age1pq1...
keyark -r /backups init --new-key-file backup_master.key --recovery-passphrase
keyark -r /backups init --new-password-file pass.txt --recovery-passphrase-file paper.txt
keyark -r /backups init --new-key-file backup_master.key --i-accept-a-single-key""")
)
def init(
    context: typer.Context,
    new_key_file: NewKeyFile = None,
    new_password_file: NewPasswordFile = None,
    new_password: NewPassword = False,
    new_recipient: NewRecipient = None,
    recovery_recipient: Annotated[
        list[str] | None,
        typer.Option(metavar="AGE1...", help="a second way in: an age recipient, or a file with some"),
    ] = None,
    recovery_passphrase: Annotated[
        bool, typer.Option("--recovery-passphrase", help="a second way in: a passphrase, asked for on the terminal")
    ] = False,
    recovery_passphrase_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="a second way in: a passphrase, in a file")
    ] = None,
    i_accept_a_single_key: Annotated[
        bool, typer.Option("--i-accept-a-single-key", help="go on with one way in; if it is lost, so is everything")
    ] = False,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="default, or fips: approved algorithms only")
    ] = "default",
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="AES-256-GCM, ChaCha20-Poly1305, AES-256-GCM-SIV or multi-layer")
    ] = None,
    post_quantum_signatures: Annotated[
        bool, typer.Option("--post-quantum-signatures", help="this machine also signs with ML-DSA-65")
    ] = False,
    key_derivation: KeyDerivation = None,
    iterations: Iterations = None,
) -> int:
    """Create a repository and this machine's writer credential."""
    from keyark.repository.create import InitRequest, init_repository
    from keyark.upkeep.doctor import probe_storage

    session = session_of(context)
    encryption = session.config.encryption
    derivation = key_derivation or encryption.key_derivation
    count = iterations if iterations is not None else encryption.iterations
    slots, made = new_slots(
        session, new_key_file, new_password_file, new_recipient, derivation, count, ask=new_password
    )
    try:
        slots += recovery_slots(
            session, recovery_recipient, recovery_passphrase_file, derivation, count, ask=recovery_passphrase
        )
        storage = session.storage(create=True)
        request = InitRequest(
            tuple(slots),
            i_accept_a_single_key,
            profile,
            suite or encryption.algorithm,
            socket.gethostname(),
            post_quantum_signatures,
        )
        report = init_repository(storage, request, session.places, session.context)
    except BaseException:
        remove_key_files(made)
        raise
    probe = probe_storage(storage)
    if session.output.as_json:
        session.output.json(_as_json(report, probe))
    else:
        _show(session, report, probe, made)
    return 0


def _as_json(report: InitReport, probe: Probe) -> dict[str, object]:
    return {
        "message_type": "initialized",
        "id": report.repository_id,
        "repository": report.location,
        "slots": [dataclasses.asdict(slot) for slot in report.slots],
        "writer": report.writer_id,
        "readme_sha256": report.readme_sha256,
        "reader_sha256": report.reader_sha256,
        "storage_enforces_append_only": probe.append_only,
    }


def _show(session: Session, report: InitReport, probe: Probe, made: Sequence[str]) -> None:
    out = session.output
    for slot in report.slots:
        if slot.warning is not None:
            out.warn(f"{slot.label}: {slot.warning}")
    out.print(f"repository created at {report.location}")
    out.print(f"  id             {report.repository_id}")
    out.print(f"  README.txt     SHA-256 {report.readme_sha256}")
    out.print(f"  recover.py     SHA-256 {report.reader_sha256}")
    for slot in report.slots:
        out.print(f"  key slot       {slot.id[:8]}  {slot.label} ({slot.strength})")
    out.print(f"  storage        {probe.detail}")
    out.say("")
    out.say("Write the id down, on paper: with it and one of the keys above, everything can be restored elsewhere:")
    kind = report.slots[0].kind
    how = {"key-file": "--key-file FILE", "passphrase": "--password-file FILE"}.get(
        kind, "--identity FILE --repository-id ID"
    )
    out.say(f"  keyark -r {report.location} {how} restore latest --target DIR")
    out.say(
        "Write the SHA-256 of recover.py down, too: it restores without Keyark, and only that shows if it was replaced."
    )
    out.say("This machine can add backups from now on without any of these keys. Copy key files off this machine:")
    out.say("key and backups on one disk die together.")
    if len(report.slots) == 1:
        out.warn("there is only one way in; `keyark key add` makes another")
    for path in made:
        out.say(f"The key file {os.path.abspath(path)} is the only copy of that key.")
