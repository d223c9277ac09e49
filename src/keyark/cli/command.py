"""What the verbs' modules share."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keyark.cli.session import Session


def new_app() -> typer.Typer:
    """A typer application without decoration: help is plain text, errors are ours."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def command_of(app: typer.Typer) -> Any:
    """The command that an application describes, its usage written as manuals write it: ``ls SNAPSHOT [PATH]``."""
    command: Any = typer.main.get_command(app)
    for each in (command, *getattr(command, "commands", {}).values()):
        for parameter in each.params:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda **_: ""
                parameter.get_usage_pieces = functools.partial(_usage, parameter)
    return command


def _usage(argument: Any, _: object) -> list[str]:
    name = f"{argument.metavar}..." if argument.nargs == -1 else str(argument.metavar)
    return [name if argument.required else f"[{name}]"]


def session_of(context: typer.Context) -> Session:
    """The session of this run."""
    session: Session = context.obj
    return session


def examples(text: str) -> str:
    """An epilog that keeps its line breaks."""
    lines = re.sub(r"^", "  ", text.strip(), flags=re.MULTILINE)
    return f"\b\nExamples:\n{lines}\n\nOptions of every verb, such as -r and --json: see `keyark --help`."
