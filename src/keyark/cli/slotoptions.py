"""Options that name a new slot, shared by ``init`` and ``key add``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from keyark.errors import UsageError

if TYPE_CHECKING:
    from keyark.cli.session import Session
    from keyark.crypto.kdf import KdfParams
    from keyark.crypto.slots import SlotMethod
    from keyark.repository.create import NewSlot
    from keyark.secret import Secret

NewKeyFile = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="a key file; made (mode 600) when it is not there")
]
NewPasswordFile = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="a passphrase: the first line of a file")
]
NewPassword = Annotated[bool, typer.Option("--new-password", help="a passphrase, asked for on the terminal")]
NewRecipient = Annotated[
    list[str] | None, typer.Option(metavar="AGE1...", help="an age recipient, or a file with some")
]
KeyDerivation = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="for passphrases: Argon2id (default), scrypt or PBKDF2-SHA256"),
]
Iterations = Annotated[int | None, typer.Option(metavar="N", help="iterations of PBKDF2-SHA256")]


def new_slots(
    session: Session,
    key_files: Sequence[str] | None,
    password_files: Sequence[str] | None,
    recipients: Sequence[str] | None,
    derivation: str,
    iterations: int | None,
    *,
    ask: bool = False,
) -> tuple[list[NewSlot], list[str]]:
    """The slots that the options name, key files first, and the key files that were made for them."""
    from keyark.cli.prompt import ask_new_passphrase
    from keyark.crypto.kdf import kdf_by_name
    from keyark.crypto.slots import KeyFileSlot
    from keyark.repository.create import NewSlot

    kdf_by_name(derivation, iterations)
    slots = _recipient_slots(recipients)
    for path in password_files or ():
        slots.append(NewSlot(_passphrase_slot(_passphrase(session, path), derivation, iterations), _label(path)))
    if ask:
        secret = ask_new_passphrase("passphrase", "--new-password-file")
        slots.append(NewSlot(_passphrase_slot(secret, derivation, iterations), "passphrase"))
    made: list[str] = []
    for path in key_files or ():
        try:
            line = _key_line(session, path, made)
        except BaseException:
            remove_key_files(made)
            raise
        slots.insert(0, NewSlot(KeyFileSlot(line), _label(path)))
    return slots, made


def recovery_slots(
    session: Session,
    recipients: Sequence[str] | None,
    password_file: str | None,
    derivation: str,
    iterations: int | None,
    *,
    ask: bool,
) -> list[NewSlot]:
    """The second ways in that the options of ``init`` name."""
    from keyark.cli.prompt import ask_new_passphrase
    from keyark.repository.create import NewSlot

    slots = [NewSlot(slot.method, "recovery recipient") for slot in _recipient_slots(recipients)]
    secrets = [] if password_file is None else [_passphrase(session, password_file)]
    if ask:
        secrets.append(ask_new_passphrase("recovery passphrase", "--recovery-passphrase-file"))
    methods = [_passphrase_slot(secret, derivation, iterations) for secret in secrets]
    return slots + [NewSlot(method, "recovery passphrase") for method in methods]


def _passphrase(session: Session, path: str) -> Secret:
    from keyark.crypto.slots import read_passphrase

    session.check_exposure(path)
    return read_passphrase(path)


def _passphrase_slot(secret: Secret, derivation: str, iterations: int | None) -> SlotMethod:
    from keyark.crypto.kdf import kdf_by_name
    from keyark.crypto.slots import PassphraseSlot

    kdf: KdfParams = kdf_by_name(derivation, iterations)
    return PassphraseSlot(secret, kdf)


def _recipient_slots(recipients: Sequence[str] | None) -> list[NewSlot]:
    from keyark.crypto.age import parse_recipient
    from keyark.crypto.slots import AgeSlot
    from keyark.repository.create import NewSlot

    lines = [line for text in recipients or () for line in _recipient_lines(text)]
    return [NewSlot(AgeSlot(parse_recipient(line)), _short(line)) for line in lines]


def _key_line(session: Session, path: str, made: list[str]) -> Secret:
    """The line of an existing key file, or of one made now (and then noted in ``made``)."""
    from keyark.crypto.slots import generate_key_line, read_key_file
    from keyark.repository.places import write_private

    if os.path.lexists(path):
        line, warning = read_key_file(path)
        if warning is not None:
            session.check_exposure(path)
        return line
    line = generate_key_line()
    try:
        write_private(path, line.reveal() + b"\n")
    except OSError as e:
        raise UsageError(f"cannot write the key file {path}: {e.strerror}") from e
    made.append(path)
    return line


def remove_key_files(made: Sequence[str]) -> None:
    """Take back key files of a command that failed."""
    for path in made:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _label(path: str) -> str:
    return os.path.basename(path).encode("utf-8", "replace").decode()[:60]


def _short(recipient: str) -> str:
    return recipient if len(recipient) <= 70 else recipient[:24] + "…"


def _recipient_lines(text: str) -> list[str]:
    if text.lower().startswith("age1") or not os.path.exists(text):
        return [text]
    try:
        with open(text, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file.read(1 << 20).splitlines()]
    except OSError as e:
        raise UsageError(f"cannot read the recipients {text}: {e.strerror}") from e
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{text} holds no recipient")
    return found
