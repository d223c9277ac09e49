"""What the verbs' modules share."""

from __future__ import annotations

import re

import typer

from keyark.cli.session import Session


def new_app() -> typer.Typer:
    """A typer application without decoration: help is plain text, errors are ours."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def session_of(context: typer.Context) -> Session:
    """The session of this run."""
    session: Session = context.obj
    return session


def examples(text: str) -> str:
    """An epilog that keeps its line breaks."""
    return "\b\nExamples:\n" + re.sub(r"^", "  ", text.strip(), flags=re.MULTILINE)
