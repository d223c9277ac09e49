"""The command ``keyark``: global options, the verb, and errors turned into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from keyark import __version__
from keyark.cli.globals import HELP, Globals, split_arguments
from keyark.errors import InterruptedByUser, KeyarkError, UsageError

# verb -> (module, what it does)
VERBS: dict[str, tuple[str, str]] = {
    "init": ("init", "create a repository"),
    "backup": ("backup", "back up files, folders or a stream"),
    "snapshots": ("snapshots", "list snapshots (alias: list)"),
    "ls": ("ls", "list what is in a snapshot"),
    "find": ("find", "find files in all snapshots"),
    "diff": ("diff", "compare two snapshots"),
    "stats": ("stats", "show sizes"),
    "restore": ("restore", "restore a snapshot or parts of it"),
    "verify": ("verify", "look for damage (alias: check)"),
    "forget": ("forget", "forget snapshots by rules"),
    "prune": ("prune", "reclaim space"),
    "copy": ("copy", "replicate to another place"),
    "key": ("key", "who may read: list, add, remove, rotate"),
    "writer": ("writer", "who may write: list, add, revoke"),
    "doctor": ("doctor", "diagnose this installation"),
    "discover": ("discover", "find key material on this host"),
    "completion": ("completion", "print a shell completion script"),
}
ALIASES = {"list": "snapshots", "check": "verify"}
LATER = frozenset(
    {
        "rollback", "heal", "repair", "custodian", "compartment", "export", "import", "drill", "daemon", "serve", "schedule",
        "monitor", "audit", "compliance",
    }
)  # fmt: skip
_INTRO = """\
Usage: keyark [OPTIONS] VERB ...

Encrypted, deduplicating backups of keys and secrets. The machine that writes them cannot read them.
"""
_EXAMPLES = """\
Examples:
  keyark -r /backups init --new-key-file master.key --recovery-recipient age1...
  keyark -r /backups backup /etc/ssl/private /etc/ssh
  keyark -r /backups --key-file master.key snapshots
  keyark -r /backups --key-file master.key restore latest --target /tmp/restored

`keyark VERB --help` says more about a verb."""


def help_text() -> str:
    """The first help screen. Written out here so that no verb's module is loaded for it."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name.ljust(width)}  {what}" for name, (_, what) in VERBS.items())
    return f"{_INTRO}\nVerbs:\n{verbs}\n\n{HELP}\n\n{_EXAMPLES}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    harden()
    try:
        options, rest = split_arguments(given)
    except UsageError as e:
        sys.stderr.write(f"keyark: {e}\n")
        return e.exit_code
    if options.version:
        sys.stdout.write(f"keyark {__version__}\n")
        return 0
    if not rest or rest[0] in ("--help", "-h", "help"):
        if len(rest) < 2:
            sys.stdout.write(help_text())
            return 0 if rest else 2
        rest = [*rest[1:], "--help"]
    return guarded(options, lambda: _run(options, rest))


def guarded(options: Globals, action: Callable[[], int]) -> int:
    """Run something; every error becomes one line on standard error and an exit code."""
    try:
        return action()
    except KeyarkError as e:
        return _fail(options, e, e.exit_code)
    except KeyboardInterrupt as e:
        return _fail(options, InterruptedByUser("interrupted"), 130, e)
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except OSError as e:
        return _fail(options, KeyarkError(f"{e.filename or 'the system'}: {e.strerror or e}"), 1, e)
    except MemoryError as e:
        return _fail(options, KeyarkError("out of memory"), 1, e)
    except Exception as e:  # noqa: BLE001 - the last line of defence: no traceback reaches a user without --debug
        text = f"internal error ({type(e).__name__}: {e}); run again with --debug and report what it prints"
        return _fail(options, KeyarkError(text), 1, e)


def _fail(options: Globals, shown: KeyarkError, code: int, cause: BaseException | None = None) -> int:
    from keyark.cli.render import Output

    if options.debug:
        traceback.print_exception(cause or shown)
    Output(as_json=options.json, quiet=False, verbose=False, no_progress=True).error(str(shown))
    return code


def _silence_stdout() -> None:
    # The reader went away (`| head`): nothing may be flushed into the closed pipe at exit.
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())


def _run(options: Globals, rest: list[str]) -> int:
    verb = ALIASES.get(rest[0], rest[0])
    if verb in LATER:
        raise UsageError(f"`keyark {rest[0]}` is not part of this version yet; see `keyark --help`")
    if verb not in VERBS:
        if verb.startswith("-"):
            raise UsageError(f"unknown option {verb}; see `keyark --help`")
        raise UsageError(f"unknown verb {verb!r}{_suggestion(verb)}; see `keyark --help`")
    import importlib

    import typer

    from keyark.cli.session import Session

    module = importlib.import_module(f"keyark.cli.verbs.{VERBS[verb][0]}")
    command: Any = typer.main.get_command(module.app)
    session = Session(options)
    session.catch_signals()
    try:
        result = command.main(rest[1:], prog_name=f"keyark {verb}", standalone_mode=False, obj=session)
    except Exception as e:
        shown = _click_error(e)
        if shown is None:
            raise
        raise UsageError(shown) from e
    finally:
        session.output.clear()
    sys.stdout.flush()
    return int(result or 0)


def _click_error(e: Exception) -> str | None:
    """The message of a bad command line, whichever click raised it."""
    if not any(kind.__name__ in ("ClickException", "Abort") for kind in type(e).__mro__):
        return None
    message = getattr(e, "format_message", lambda: "aborted")()
    return f"{message.rstrip('.')}; see --help"


def _suggestion(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, [*VERBS, *ALIASES], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def harden() -> None:
    """umask 077, no core dumps, no ptrace by others of the same user: memory holds keys."""
    os.umask(0o077)
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    except (OSError, ValueError, AttributeError):
        return


if __name__ == "__main__":
    sys.exit(main())
