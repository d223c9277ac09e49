"""The options that stand before or after any verb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyark.errors import UsageError

# option -> (field, takes a value, environment variable)
OPTIONS: dict[str, tuple[str, bool]] = {
    "-r": ("repository", True),
    "--repository": ("repository", True),
    "--repo": ("repository", True),
    "--password-file": ("password_file", True),
    "--password-command": ("password_command", True),
    "--key-file": ("key_file", True),
    "--identity": ("identity", True),
    "--credential": ("credential", True),
    "--repository-id": ("repository_id", True),
    "--config": ("config", True),
    "--cache-dir": ("cache_dir", True),
    "--json": ("json", False),
    "-q": ("quiet", False),
    "--quiet": ("quiet", False),
    "-v": ("verbose", False),
    "--verbose": ("verbose", False),
    "--debug": ("debug", False),
    "--no-progress": ("no_progress", False),
    "--strict": ("strict", False),
    "--require-pq": ("require_pq", False),
    "--accept-rollback": ("accept_rollback", False),
    "--version": ("version", False),
}
_ENVIRONMENT = {
    "repository": "KEYARK_REPOSITORY",
    "password_file": "KEYARK_PASSWORD_FILE",
    "password_command": "KEYARK_PASSWORD_COMMAND",
    "key_file": "KEYARK_KEY_FILE",
    "identity": "KEYARK_IDENTITY",
    "credential": "KEYARK_CREDENTIAL",
    "config": "KEYARK_CONFIG",
    "cache_dir": "KEYARK_CACHE_DIR",
}
# Options of verbs that take a value: what follows them is theirs, whatever it looks like.
_VALUES = """
--tag --exclude -e --exclude-file --stdin-name --compression --suite --name --host --path --last --target -t --include -i --at
--overwrite --read-data-subset --keep-last --keep-hourly --keep-daily --keep-weekly --keep-monthly --keep-yearly --keep-within
--retention-days --max-backups --grace-hours --output -o --new-password-file --new-key-file --new-recipient
--recovery-recipient --recovery-passphrase-file --key-derivation --iterations --label --compartment --profile --test-enc
--compression-level --selective
"""
VERB_VALUES = frozenset(_VALUES.split())

HELP = """\
Options for every verb (before or after it):
  -r, --repository LOCATION   where the repository is (KEYARK_REPOSITORY)
  --key-file FILE             a key file, such as backup_master.key (KEYARK_KEY_FILE)
  --password-file FILE        a file whose first line is the passphrase (KEYARK_PASSWORD_FILE)
  --password-command COMMAND  a command that prints it (KEYARK_PASSWORD_COMMAND)
  --identity FILE             an age identity (KEYARK_IDENTITY)
  --credential FILE           a writer's or an operator's credential (KEYARK_CREDENTIAL)
  --repository-id ID          the id that `keyark init` printed
  --config FILE               a backup_config.json with defaults (KEYARK_CONFIG)
  --cache-dir DIR             where caches go (KEYARK_CACHE_DIR)
  --json                      answer in JSON
  -q, --quiet                 results and errors only
  -v, --verbose               say more
  --debug                     show tracebacks
  --no-progress               no progress bar
  --strict                    refuse key files that others can read
  --require-pq                refuse repositories with slots that are not post-quantum
  --accept-rollback           go on reading although history is not as it should be
  --version                   print the version"""


@dataclass(slots=True)
class Globals:
    """Their values, from the command line, then the environment."""

    repository: list[str] = field(default_factory=list)
    password_file: str | None = None
    password_command: str | None = None
    key_file: str | None = None
    identity: str | None = None
    credential: str | None = None
    repository_id: str | None = None
    config: str | None = None
    cache_dir: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    no_progress: bool = False
    strict: bool = False
    require_pq: bool = False
    accept_rollback: bool = False
    version: bool = False


def split_arguments(arguments: Sequence[str], *, environment: bool = True) -> tuple[Globals, list[str]]:
    """Take the global options out of a command line, wherever they stand; UsageError when one lacks its value."""
    found = Globals()
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += [argument, *arguments[position:]]
            break
        name, equals, value = argument.partition("=")
        if argument in VERB_VALUES and position < len(arguments):
            rest += [argument, arguments[position]]
            position += 1
        elif argument.startswith("-r") and len(argument) > 2 and not argument.startswith("-r="):
            found.repository.append(argument[2:])
        elif name in ("--password", "--passphrase"):
            raise UsageError(
                "a password is never taken from the command line, where others can see it; "
                "use --password-file or --password-command, or be asked for it on a terminal"
            )
        elif name not in OPTIONS:
            rest.append(argument)
        else:
            key, takes_value = OPTIONS[name]
            if not takes_value:
                if equals:
                    raise UsageError(f"option {name} takes no value")
                setattr(found, key, True)
                continue
            if not equals:
                if position >= len(arguments):
                    raise UsageError(f"option {name} needs a value")
                value = arguments[position]
                position += 1
            if key == "repository":
                found.repository.append(value)
            else:
                setattr(found, key, value)
    if environment:
        _environment(found)
    return found, rest


def _environment(found: Globals) -> None:
    brought = any((found.password_file, found.password_command, found.key_file, found.identity, found.credential))
    for key, variable in _ENVIRONMENT.items():
        value = os.environ.get(variable)
        if not value:
            continue
        if key == "repository":
            found.repository = found.repository or [value]
        elif getattr(found, key) is None and not (brought and key in _KEYS):
            # A key on the command line stands alone: the environment's must not quietly add rights to it.
            setattr(found, key, value)


_KEYS = frozenset({"password_file", "password_command", "key_file", "identity", "credential"})
