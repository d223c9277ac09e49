"""From the global options to an opened repository."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from keyark.cli.globals import Globals
from keyark.cli.render import Output
from keyark.errors import NoKeyError, UsageError
from keyark.operation import CancelToken, Context, no_progress

if TYPE_CHECKING:  # none of these is needed for `--help`, which must answer at once
    from keyark.config import BackupConfig
    from keyark.repository.credentials import Credentials
    from keyark.repository.places import Places
    from keyark.repository.repository import Repository
    from keyark.storage.protocol import Storage


class Session:
    """One run of the command line."""

    def __init__(self, options: Globals) -> None:
        self.options = options
        self.output = Output(
            as_json=options.json, quiet=options.quiet, verbose=options.verbose, no_progress=options.no_progress
        )
        self.cancel = CancelToken()
        progress = self.output.progress if self.output.shows_progress else no_progress
        self.context = Context(progress=progress, warn=self.output.warn, cancel=self.cancel)
        self._config: BackupConfig | None = None

    @property
    def config(self) -> BackupConfig:
        """The configuration file's content, or the defaults."""
        if self._config is None:
            from keyark.config import BackupConfig
            from keyark.manager import load_config

            path = self.options.config
            self._config = BackupConfig() if path is None else load_config(path)
        return self._config

    @property
    def configured_sources(self) -> tuple[str, ...]:
        """What the configuration says to back up; its paths are relative to its own folder."""
        base = os.path.dirname(os.path.abspath(self.options.config or ""))
        return tuple(os.path.join(base, path) for path in self.config.sources)

    @property
    def location(self) -> str:
        """The repository's location."""
        if len(self.options.repository) > 1:
            raise UsageError(
                "several repositories at once are not part of this version yet; `keyark copy` replicates one to another"
            )
        if self.options.repository:
            return self.options.repository[0]
        if self.options.config is not None:
            base = os.path.dirname(os.path.abspath(self.options.config))
            return os.path.normpath(os.path.join(base, self.config.storage.local_path))
        raise UsageError("no repository is named: give -r LOCATION or set KEYARK_REPOSITORY")

    @property
    def places(self) -> Places:
        """Where this machine keeps state and caches."""
        from keyark.repository.places import Places

        state = os.environ.get("KEYARK_STATE_DIR") or os.path.join(_base("XDG_STATE_HOME", ".local/state"), "keyark")
        cache = self.options.cache_dir or os.path.join(_base("XDG_CACHE_HOME", ".cache"), "keyark")
        return Places(state, cache)

    def storage(self, *, create: bool = False) -> Storage:
        from keyark.storage.location import open_storage

        return open_storage(self.location, create=create)

    def open(self, *, reading: bool = True) -> Repository:
        """Open the repository with the credentials given.

        Without any, a terminal is asked for a passphrase: when nothing opens the repository, and with ``reading`` also
        when only this machine's writer credential does, which reads nothing.
        """
        credentials = self.credentials()
        asks = not self._brought() and not self.options.json and sys.stdin is not None and sys.stdin.isatty()
        try:
            repository = self._open(credentials)
        except NoKeyError:
            if not asks:
                raise
            return self._open(self._asked(credentials))
        slots = repository.keyring.slots.values()
        if not asks or not reading or repository.can_list or all(slot.kind != "passphrase" for slot in slots):
            return repository
        repository.close()
        return self._open(self._asked(credentials))

    def _asked(self, credentials: Credentials) -> Credentials:
        from keyark.cli.prompt import ask_passphrase

        self.output.clear()
        return dataclasses.replace(credentials, passwords=(ask_passphrase(f"passphrase for {self.location}: "),))

    def _open(self, credentials: Credentials) -> Repository:
        from keyark.repository.open import open_repository

        return open_repository(
            self.storage(),
            credentials,
            self.places,
            self.context,
            require_pq=self.options.require_pq,
            accept_rollback=self.options.accept_rollback,
        )

    # -- credentials -----------------------------------------------------------------------------------------------

    def _brought(self) -> bool:
        options = self.options
        return any(
            (options.password_file, options.password_command, options.key_file, options.identity, options.credential)
        )

    def credentials(self) -> Credentials:
        """What the user brought."""
        from keyark.cli import prompt
        from keyark.crypto.slots import read_key_file, read_passphrase
        from keyark.repository.credentials import Credentials, load_credential

        options = self.options
        found = Credentials(repository_id=self._repository_id())
        if options.password_file is not None:
            self.check_exposure(options.password_file)
            found = dataclasses.replace(found, passwords=(read_passphrase(options.password_file),))
        if options.password_command is not None:
            secret = prompt.run_password_command(options.password_command)
            found = dataclasses.replace(found, passwords=(*found.passwords, secret))
        if options.key_file is not None:
            line, warning = read_key_file(options.key_file)
            self._exposed(warning)
            found = dataclasses.replace(found, key_lines=(line,))
        if options.identity is not None:
            self.check_exposure(options.identity)
            found = dataclasses.replace(found, identities=tuple(prompt.read_identities(options.identity)))
        if options.credential is not None:
            self.check_exposure(options.credential)
            found = dataclasses.replace(found, credential=load_credential(options.credential))
        return found

    def _repository_id(self) -> bytes | None:
        text = self.options.repository_id
        if text is None:
            return None
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != 32:
            raise UsageError("--repository-id must be 64 hexadecimal digits, as `keyark init` printed them")
        return value

    def check_exposure(self, path: str) -> None:
        """Warn about (with --strict: refuse) a secret file that others can reach."""
        from keyark.crypto.slots import exposure

        try:
            mode = os.stat(path).st_mode
        except OSError as e:
            raise UsageError(f"cannot read {path}: {e.strerror}") from e
        self._exposed(exposure(path, mode))

    def _exposed(self, warning: str | None) -> None:
        if warning is None:
            return
        if self.options.strict:
            raise UsageError(f"{warning} (refused because of --strict)")
        self.output.warn(warning)

    # -- signals ---------------------------------------------------------------------------------------------------

    def catch_signals(self) -> None:
        """The first Ctrl-C or SIGTERM asks the operation to stop, a second one stops at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            del frame
            if self.cancel.cancelled:
                raise KeyboardInterrupt
            self.cancel.cancel()
            signal.signal(number, signal.default_int_handler)

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)


def _base(variable: str, default: str) -> str:
    value = os.environ.get(variable)
    if value and os.path.isabs(value):
        return value
    home = os.path.expanduser("~")
    if not os.path.isabs(home) or home == "/":
        raise UsageError("HOME is not set; set it, or KEYARK_STATE_DIR and KEYARK_CACHE_DIR")
    return os.path.join(home, default)
