"""The shell front doors: what ``backup_automation.sh``, ``backup_restore.sh`` and ``backup_monitor.sh`` hand over to."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from keyark import views
from keyark.backup.model import BackupRequest
from keyark.cli.globals import Globals
from keyark.cli.render import plural
from keyark.cli.session import Session
from keyark.errors import NoKeyError, UsageError
from keyark.manager import MASTER_KEY, Manager, Outcome
from keyark.recovery.model import RestoreRequest

_PASSED_ON = [
    "init",
    "snapshots",
    "ls",
    "find",
    "diff",
    "stats",
    "verify",
    "check",
    "forget",
    "prune",
    "copy",
    "key",
    "writer",
    "doctor",
    "discover",
]


class _Parser(argparse.ArgumentParser):
    """argparse with our errors in place of its own."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def automation(folder: str, arguments: Sequence[str]) -> int:
    """``backup_automation.sh``."""
    parser = _Parser(prog="./backup_automation.sh", description="Back up this host's keys and secrets.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    backup = verbs.add_parser("backup", help="back up PATHs, or the key material found on this host")
    backup.add_argument("paths", nargs="*", metavar="PATH")
    backup.add_argument("--compression-level", type=int)
    backup.add_argument("--retention-days", type=int)
    backup.add_argument("--tag", action="append", default=[])
    backup.add_argument("--name")
    _common(backup)
    for verb in _PASSED_ON:
        verbs.add_parser(verb, add_help=False, help=f"as `keyark {verb}`")
    if arguments and arguments[0] in _PASSED_ON:
        return _pass_on(folder, arguments)
    return _run(folder, parser, arguments, _backup, "backup_automation")


def restore(folder: str, arguments: Sequence[str]) -> int:
    """``backup_restore.sh``."""
    parser = _Parser(prog="./backup_restore.sh", description="List and restore backups.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _common(verbs.add_parser("list", help="list backups"))
    command = verbs.add_parser("restore", help="restore a backup")
    command.add_argument("snapshot", metavar="BACKUP", help="a name (with or without .tar.gz), an id, or latest")
    command.add_argument("--selective", action="append", default=[], metavar="PATTERN", help="only what matches")
    command.add_argument("--target", metavar="DIR")
    command.add_argument("--overwrite", choices=("always", "if-changed", "never"))
    _common(command)
    verbs.add_parser("interactive", help="comes with a later version")
    return _run(folder, parser, arguments, _restore, "restore")


def monitor(folder: str, arguments: Sequence[str]) -> int:
    """``backup_monitor.sh``: not yet there, and says so."""
    del folder
    verb = arguments[0] if arguments else ""
    sys.stderr.write(
        f"keyark: ./backup_monitor.sh {verb}: monitoring is not part of this version yet; "
        "`./backup_automation.sh verify` checks the repository\n"
    )
    return 2


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="in place of backup_config.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quiet", "-q", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--no-progress", action="store_true")


_Action = Callable[[Manager, Session, argparse.Namespace], int]


def _run(folder: str, parser: _Parser, arguments: Sequence[str], action: _Action, log_name: str) -> int:
    from keyark.cli.main import guarded

    parsed = argparse.Namespace(verb=None)
    options = Globals(debug="--debug" in arguments, json="--json" in arguments)

    def run() -> int:
        parser.parse_args(list(arguments), parsed)
        if parsed.verb == "interactive":
            raise UsageError("`interactive` is not part of this version yet; use `list` and `restore`")
        options.quiet, options.no_progress = parsed.quiet, parsed.no_progress
        session = Session(options)
        session.catch_signals()
        manager = Manager(folder, parsed.config)
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
        raise NoKeyError(f"{MASTER_KEY} is not here; bring it back to {manager.key_path} to list and restore")
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


def _pass_on(folder: str, arguments: Sequence[str]) -> int:
    """Any other verb, with this folder's repository and key."""
    from keyark.cli.main import guarded, main

    options = Globals(debug="--debug" in arguments)

    def run() -> int:
        manager = Manager(folder)
        os.environ.setdefault("KEYARK_REPOSITORY", manager.location)
        os.environ.setdefault("KEYARK_STATE_DIR", manager.places.state_dir)
        os.environ.setdefault("KEYARK_CACHE_DIR", manager.places.cache_dir)
        if os.path.exists(manager.key_path):
            os.environ.setdefault("KEYARK_KEY_FILE", manager.key_path)
        return main(list(arguments))

    return guarded(options, run)


def main_of(door: str, folder: str, arguments: Sequence[str]) -> int:
    """Entry of the scripts: ``python -m keyark.cli.frontdoor DOOR FOLDER ARGUMENTS...``."""
    from keyark.cli.main import harden

    harden()
    return {"automation": automation, "restore": restore, "monitor": monitor}[door](folder, arguments)


if __name__ == "__main__":
    sys.exit(main_of(sys.argv[1], sys.argv[2], sys.argv[3:]))
