"""The shell front doors: what ``backup_automation.sh``, ``backup_restore.sh`` and ``backup_monitor.sh`` hand over to."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from keyark import views
from keyark.backup.model import BackupRequest
from keyark.cli.globals import Globals, split_arguments
from keyark.cli.render import plural
from keyark.cli.session import Session
from keyark.errors import NoKeyError, UsageError
from keyark.manager import MASTER_KEY, Manager, Outcome
from keyark.recovery.model import RestoreRequest

_HERE = frozenset({"backup"})  # verbs that mean something of their own at this door; any other one is keyark's
_TAKEN = frozenset({"config", "key_file", "json", "quiet", "verbose", "debug", "no_progress", "strict"})
_OPTIONS = """\
options before or after the verb:
  --config FILE    in place of backup_config.json
  --key-file FILE  in place of backup_master.key, wherever it is kept
  --strict         refuse a key file that others can read
  --json           answer in JSON
  -q, --quiet      results and errors only
  --no-progress    no progress bar
  --debug          show tracebacks
"""
_AUTOMATION_EXAMPLES = """
examples:
  ./backup_automation.sh backup
  ./backup_automation.sh backup /etc/ssl/private /srv/ca --compression-level 6 --retention-days 60
  ./backup_automation.sh verify --read-data

Every other verb of keyark works too, on this folder's repository: snapshots, ls, find, diff, stats, verify, forget,
prune, copy, key, writer, doctor, discover, ... (./backup_automation.sh VERB --help).
"""
_RESTORE_EXAMPLES = """
examples:
  ./backup_restore.sh list
  ./backup_restore.sh restore latest
  ./backup_restore.sh restore keys_backup_20240716_142533.tar.gz --selective "*.key" --target /tmp/keys
"""


class _Parser(argparse.ArgumentParser):
    """argparse with our errors in place of its own."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser(program: str, description: str, examples: str) -> _Parser:
    return _Parser(
        prog=program,
        description=description,
        epilog=_OPTIONS + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def automation(folder: str, arguments: Sequence[str]) -> int:
    """``backup_automation.sh``."""
    parser = _parser("./backup_automation.sh", "Back up this host's keys and secrets.", _AUTOMATION_EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    backup = verbs.add_parser(
        "backup",
        help="back up PATHs, or the key material found on this host",
        epilog=_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backup.add_argument(
        "paths", nargs="*", metavar="PATH", help="without one: `sources` of the configuration, or discover"
    )
    backup.add_argument("--compression-level", type=int, metavar="N", help="of the configured codec")
    backup.add_argument("--retention-days", type=int, metavar="N", help="forget what is older, but never the newest")
    backup.add_argument("--tag", action="append", default=[], metavar="TEXT", help="repeat for more")
    backup.add_argument("--name", help="in place of keys_backup_<time>")
    return _run(folder, parser, arguments, _backup, "backup_automation", passes_on=True)


def restore(folder: str, arguments: Sequence[str]) -> int:
    """``backup_restore.sh``."""
    parser = _parser("./backup_restore.sh", "List and restore backups.", _RESTORE_EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    verbs.add_parser("list", help="list backups")
    command = verbs.add_parser(
        "restore", help="restore a backup", epilog=_OPTIONS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("snapshot", metavar="BACKUP", help="a name (with or without .tar.gz), an id, or latest")
    command.add_argument("--selective", action="append", default=[], metavar="PATTERN", help="only what matches")
    command.add_argument("--target", metavar="DIR", help="in place of ./restored/NAME")
    command.add_argument("--overwrite", choices=("always", "if-changed", "never"), help="for a DIR that is not empty")
    verbs.add_parser("interactive", help="comes with a later version")
    return _run(folder, parser, arguments, _restore, "restore")


def monitor(folder: str, arguments: Sequence[str]) -> int:
    """``backup_monitor.sh``: not yet there, and says so."""
    del folder
    shown = " ".join(["./backup_monitor.sh", *arguments[:1]])
    sys.stderr.write(
        f"keyark: {shown}: monitoring is not part of this version yet; "
        "`./backup_automation.sh verify` checks the repository\n"
    )
    return 2


_Action = Callable[[Manager, Session, argparse.Namespace], int]


def _run(
    folder: str,
    parser: _Parser,
    arguments: Sequence[str],
    action: _Action,
    log_name: str,
    *,
    passes_on: bool = False,
) -> int:
    from keyark.cli.main import ALIASES, LATER, VERBS, guarded

    options = Globals(debug="--debug" in arguments)

    def run() -> int:
        nonlocal options
        options, rest = split_arguments(arguments, environment=False)
        if passes_on and rest and rest[0] not in _HERE and rest[0] in {*VERBS, *ALIASES, *LATER}:
            return _pass_on(folder, options, arguments)
        parsed = parser.parse_args(rest)
        _refuse_foreign(options, parser.prog)
        if parsed.verb == "interactive":
            raise UsageError("`interactive` is not part of this version yet; use `list` and `restore`")
        session = Session(options)
        session.catch_signals()
        manager = Manager(folder, options.config, key_file=options.key_file, strict=options.strict)
        log = manager.logger(log_name)
        log.info("%s started", " ".join(arguments))
        try:
            code = action(manager, session, parsed)
        except BaseException as e:
            log.error("%s failed: %s", parsed.verb, str(e) or type(e).__name__)
            raise
        finally:
            session.output.clear()
        log.info("%s ended with exit code %d", parsed.verb, code)
        return code

    return guarded(options, run)


def _refuse_foreign(options: Globals, program: str) -> None:
    """The options of keyark that make no sense at a door, which has its own repository and key."""
    empty = Globals()
    for field in dataclasses.fields(Globals):
        if field.name not in _TAKEN and getattr(options, field.name) != getattr(empty, field.name):
            option = field.name.replace("_", "-")
            raise UsageError(f"--{option} is not an option of {program}, which works on its own folder; use `keyark`")


def _backup(manager: Manager, session: Session, parsed: argparse.Namespace) -> int:
    compression = manager.config.compression
    if parsed.compression_level is not None:
        codec = manager.config.backup_settings.compression
        compression = codec if codec in ("none", "auto") else f"{codec}:{parsed.compression_level}"
    request = BackupRequest(tags=tuple(parsed.tag), name=parsed.name, compression=compression)
    if parsed.retention_days is not None and parsed.retention_days < 1:
        raise UsageError("--retention-days must be at least 1")
    outcome = manager.backup(request, parsed.paths, session.context, retention_days=parsed.retention_days)
    report = outcome.report
    manager.logger("backup_automation").info(
        "snapshot %s (%s): %d files, %d bytes, %d bytes stored, %d problems",
        (report.snapshot_id or "")[:8],
        report.name,
        report.total_files_processed,
        report.total_bytes_processed,
        report.data_added_packed,
        len(report.problems),
    )
    _show_outcome(session, manager, outcome)
    if outcome.verified is not None and not outcome.verified.sound:
        return 13
    return 0 if report.complete else 3


def _show_outcome(session: Session, manager: Manager, outcome: Outcome) -> None:
    from keyark.cli.verbs.backup import summary
    from keyark.cli.verbs.verify import render

    out = session.output
    if out.as_json:
        verified = None if outcome.verified is None else outcome.verified.sound
        value = {**views.backup_summary(outcome.report), "repository": outcome.repository, "verified": verified}
        out.json({"message_type": "summary", **value})
        return
    if outcome.init is not None:
        out.say(f"made a repository in {outcome.init.location} (id {outcome.init.repository_id})")
        out.say(f"its recover.py restores without Keyark; write its SHA-256 down: {outcome.init.reader_sha256}")
        out.say(f"made its master key {manager.key_path} (mode 600)")
    if outcome.found is not None:
        kinds: dict[str, int] = {}
        for item in outcome.found.found:
            kinds[item.kind.title] = kinds.get(item.kind.title, 0) + 1
        out.say(f"found {plural(len(outcome.found.found), 'key file')} on this host:")
        for title, count in sorted(kinds.items()):
            out.say(f"  {count:>5,}  {title}")
    summary(out, outcome.report)
    if outcome.verified is not None:
        render(out, outcome.verified)
    if outcome.forgotten is not None and outcome.forgotten.removed:
        out.say(f"{plural(outcome.forgotten.removed, 'older snapshot')} forgotten, as configured")
    out.say("")
    out.say(f"backups   {outcome.repository}")
    out.say(f"restore   ./backup_restore.sh restore {outcome.report.name}")
    if outcome.key_here:
        out.warn(
            f"copy {MASTER_KEY} off this machine now: it opens every backup, and without it nothing can be restored. "
            "Key and backups on one disk die together"
        )


def _restore(manager: Manager, session: Session, parsed: argparse.Namespace) -> int:
    from keyark.cli.verbs import restore as verb
    from keyark.cli.verbs.snapshots import table

    out = session.output
    if not os.path.exists(manager.key_path):
        raise NoKeyError(
            f"{manager.key_path} is not here; bring it back to list and restore, or say where it is with --key-file FILE"
        )
    if parsed.verb == "list":
        found = manager.list(session.context)
        if out.as_json:
            out.json([views.snapshot(info) for info in found])
        else:
            table(session, found, "./backup_automation.sh backup")
        return 0
    target = os.fsencode(os.path.abspath(parsed.target)) if parsed.target else b""
    request = RestoreRequest(
        parsed.snapshot, target, tuple(parsed.selective), overwrite=verb.parse_policy(parsed.overwrite), verify=True
    )
    report = manager.restore(request, session.context)
    log = manager.logger("restore")
    log.info("%s to %s: %d files", report.name, os.fsdecode(report.target), report.files_restored)
    for problem in report.problems:
        log.error("%s: %s", os.fsdecode(problem.path).encode("utf-8", "backslashreplace").decode(), problem.what)
    if out.as_json:
        out.json({"message_type": "summary", **views.restore_report(report)})
    else:
        verb.summary(out, report)
    verb.name_problems(out, report)
    return verb.exit_code(report)


def _pass_on(folder: str, options: Globals, arguments: Sequence[str]) -> int:
    """Any other verb, with this folder's repository and key."""
    from keyark.cli.main import main

    manager = Manager(folder, options.config)
    os.environ["KEYARK_REPOSITORY"] = manager.location
    os.environ["KEYARK_STATE_DIR"] = manager.places.state_dir
    os.environ["KEYARK_CACHE_DIR"] = manager.places.cache_dir
    if os.path.exists(manager.key_path):
        os.environ["KEYARK_KEY_FILE"] = manager.key_path
    return main(list(arguments))


def main_of(door: str, folder: str, arguments: Sequence[str]) -> int:
    """Entry of the scripts: ``python -m keyark.cli.frontdoor DOOR FOLDER ARGUMENTS...``."""
    from keyark.cli.main import harden, open_streams

    harden()
    open_streams()
    return {"automation": automation, "restore": restore, "monitor": monitor}[door](folder, arguments)


if __name__ == "__main__":
    sys.exit(main_of(sys.argv[1], sys.argv[2], sys.argv[3:]))
