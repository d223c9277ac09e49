"""Secrets that are asked for or read: passphrases from a terminal or a command, age identities from a file."""

from __future__ import annotations

import getpass
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keyark.crypto.age import AgeIdentity, parse_identities
from keyark.errors import NoKeyError, UsageError
from keyark.secret import Secret


def ask_passphrase(prompt: str) -> Secret:
    """Ask on the terminal, without an echo. NoKeyError when nothing is typed."""
    with _interruptible():
        try:
            text = getpass.getpass(prompt)
        except EOFError:
            text = ""
        except KeyboardInterrupt:
            sys.stderr.write("\n")  # the question's line is still open
            raise
    if not text:
        raise NoKeyError("no passphrase was given")
    return Secret(text.encode("utf-8", "surrogateescape"))


def ask_new_passphrase(what: str, instead: str) -> Secret:
    """Ask twice for a new passphrase; ``instead`` is the option that takes it from a file where there is no terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for the {what} on; use {instead} FILE")
    first = ask_passphrase(f"new {what}: ")
    if first != ask_passphrase(f"the same {what} again: "):
        raise UsageError(f"the two entries of the {what} differ; nothing was changed")
    return first


@contextmanager
def _interruptible() -> Iterator[None]:
    # Operations end at a safe point after Ctrl-C. A question has none to wait for: it ends at once.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run_password_command(command: str) -> Secret:
    """The first line that a command prints."""
    try:
        words = shlex.split(command)
        if not words:
            raise UsageError("the password command is empty")
        done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    except OSError as e:
        raise UsageError(f"cannot run the password command {words[0]}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"the password command is malformed: {e}") from e
    if done.returncode != 0:
        raise UsageError(f"the password command failed with exit code {done.returncode}")
    line = done.stdout.split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise UsageError("the password command printed nothing")
    return Secret(line)


def read_identities(path: str) -> list[AgeIdentity]:
    """The age identities in a file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_identities(file.read(1 << 20), path)
    except OSError as e:
        raise UsageError(f"cannot read the identity {path}: {e.strerror}") from e
