"""Options that name a new slot, shared by ``init`` and ``key add``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from keyark.cli.session import Session
from keyark.crypto.age import parse_recipient
from keyark.crypto.kdf import kdf_by_name
from keyark.crypto.slots import AgeSlot, KeyFileSlot, PassphraseSlot, generate_key_line, read_key_file
from keyark.errors import UsageError
from keyark.manager import read_passphrase
from keyark.repository.create import NewSlot
from keyark.repository.places import write_private

NewKeyFile = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="a key file; made (mode 600) when it is not there")
]
NewPasswordFile = Annotated[
    list[str] | None, typer.Option(metavar="FILE", help="a passphrase: the first line of a file")
]
NewRecipient = Annotated[
    list[str] | None, typer.Option(metavar="AGE1...", help="an age recipient, or a file with some")
]
KeyDerivation = Annotated[str | None, typer.Option(help="for passphrases: Argon2id (default), scrypt or PBKDF2-SHA256")]
Iterations = Annotated[int | None, typer.Option(help="iterations of PBKDF2-SHA256")]


def new_slots(
    session: Session,
    key_files: Sequence[str] | None,
    password_files: Sequence[str] | None,
    recipients: Sequence[str] | None,
    derivation: str,
    iterations: int | None,
) -> tuple[list[NewSlot], list[str]]:
    """The slots that the options name, and the key files that were made for them."""
    slots: list[NewSlot] = []
    made: list[str] = []
    kdf_by_name(derivation, iterations)
    for text in recipients or ():
        slots += [NewSlot(AgeSlot(parse_recipient(line)), _short(line)) for line in _recipient_lines(text)]
    for path in password_files or ():
        session.check_exposure(path)
        kdf = kdf_by_name(derivation, iterations)
        slots.append(NewSlot(PassphraseSlot(read_passphrase(path), kdf), _label(path)))
    for path in key_files or ():
        if os.path.lexists(path):
            line, warning = read_key_file(path)
            if warning is not None:
                session.check_exposure(path)
        else:
            line = generate_key_line()
            try:
                write_private(path, line.reveal() + b"\n")
            except OSError as e:
                remove_key_files(made)
                raise UsageError(f"cannot write the key file {path}: {e.strerror}") from e
            made.append(path)
        slots.insert(0, NewSlot(KeyFileSlot(line), _label(path)))
    return slots, made


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
    with open(text, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file.read(1 << 20).splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{text} holds no recipient")
    return found
