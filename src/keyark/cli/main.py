"""The command ``keyark``: global options, the verb, and errors turned into one line and an exit code."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable

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
        "monitor", "audit", "compliance", "interactive",
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
    open_streams()
    options = Globals(debug="--debug" in given)

    def run() -> int:
        nonlocal options
        options, rest = split_arguments(given)
        return _answer(options, rest)

    return guarded(options, run)


def _answer(options: Globals, rest: list[str]) -> int:
    if options.version:
        shown = (
            f'{{"message_type": "version", "version": "{__version__}"}}' if options.json else f"keyark {__version__}"
        )
        sys.stdout.write(f"{shown}\n")
        return 0
    if not rest or rest[0] in ("--help", "-h", "help"):
        if len(rest) < 2:
            sys.stdout.write(help_text())
            return 0 if rest else 2
        rest = [*rest[1:], "--help"]
    return _run(options, rest)


def open_streams() -> None:
    """Make standard output and error writable whatever the caller closed and whichever alphabet the locale has."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # takes its number, so that no file of ours becomes standard input


def guarded(options: Globals, action: Callable[[], int]) -> int:
    """Run something; every error becomes one line on standard error and an exit code."""
    try:
        code = action()
        _flush()
        return code
    except KeyarkError as e:
        return _fail(options, e, e.exit_code)
    except KeyboardInterrupt as e:
        return _fail(options, InterruptedByUser("interrupted"), 130, e)
    except BrokenPipeError:
        _silence_stdout()
        return 1  # quietly, as every filter does: the reader had enough
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
        import traceback

        traceback.print_exception(cause or shown)
    try:
        Output(as_json=options.json, quiet=False, verbose=False, no_progress=True).error(str(shown))
        sys.stderr.flush()
        sys.stdout.flush()
    except OSError:
        _silence_stdout()  # nobody can be told; the exit code says it
    return code


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        _silence_stdout()
        raise KeyarkError(f"cannot write to standard output: {e.strerror}") from e


def _silence_stdout() -> None:
    # The reader went away (`| head`), or the disk is full: nothing may be flushed there again at exit.
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


def _run(options: Globals, rest: list[str]) -> int:
    verb = ALIASES.get(rest[0], rest[0])
    if verb in LATER:
        raise UsageError(f"`keyark {rest[0]}` is not part of this version yet; see `keyark --help`")
    if verb not in VERBS:
        if verb.startswith("-"):
            raise UsageError(f"unknown option {verb}; see `keyark --help`")
        raise UsageError(f"unknown verb {verb!r}{_suggestion(verb)}; see `keyark --help`")
    import importlib

    from keyark.cli.command import command_of
    from keyark.cli.session import Session

    module = importlib.import_module(f"keyark.cli.verbs.{VERBS[verb][0]}")
    command = command_of(module.app)
    session = Session(options)
    if options.config is not None and not {"-h", "--help"} & set(rest):
        _ = session.config  # a configuration that was named is read, whether or not this verb asks for it
    session.catch_signals()
    # What is loaded by now stays, and what a run makes has no cycles to speak of: the collector need not look that often.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        result = command.main(rest[1:], prog_name=f"keyark {verb}", standalone_mode=False, obj=session)
    except Exception as e:
        shown = _click_error(e, f"keyark {verb}", secrets=verb in _TAKES_SECRETS)
        if shown is None:
            raise
        raise UsageError(shown) from e
    finally:
        session.output.clear()
    if result == InterruptedByUser.exit_code:  # typer makes a silent exit code of a KeyboardInterrupt
        raise InterruptedByUser("interrupted")
    return int(result or 0)


_TAKES_SECRETS = ("init", "key")  # a stray word here may be a passphrase, which must not be repeated


def _click_error(e: Exception, program: str, *, secrets: bool) -> str | None:
    """The message of a bad command line, whichever click raised it."""
    if not any(kind.__name__ in ("ClickException", "Abort") for kind in type(e).__mro__):
        return None
    message = str(getattr(e, "format_message", lambda: "aborted")()).rstrip(".")
    if secrets and message.startswith("Got unexpected extra argument"):
        message = "got an argument that is no option; a passphrase is never taken from the command line"
    return f"{message[:1].lower()}{message[1:]}; see `{program} --help`"


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
