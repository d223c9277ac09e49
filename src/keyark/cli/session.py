"""From the global options to an opened repository."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import stat
import subprocess
import sys
from types import FrameType

from keyark.cli.globals import Globals
from keyark.cli.render import Output
from keyark.config import BackupConfig
from keyark.crypto.age import AgeIdentity, parse_identities
from keyark.crypto.slots import exposure, read_key_file
from keyark.errors import NoKeyError, UsageError
from keyark.manager import load_config, read_passphrase
from keyark.operation import CancelToken, Context, no_progress
from keyark.repository.credentials import Credential, Credentials, load_credential
from keyark.repository.open import open_repository
from keyark.repository.places import Places
from keyark.repository.repository import Repository
from keyark.secret import Secret
from keyark.storage.location import open_storage
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
            path = self.options.config
            self._config = BackupConfig() if path is None else load_config(path)
        return self._config

    @property
    def location(self) -> str:
        """The repository's location."""
        if len(self.options.repository) > 1:
            raise UsageError("this version works on one repository at a time; `keyark copy` replicates it to another")
        if self.options.repository:
            return self.options.repository[0]
        if self.options.config is not None:
            base = os.path.dirname(os.path.abspath(self.options.config))
            return os.path.normpath(os.path.join(base, self.config.storage.local_path))
        raise UsageError("no repository is named: give -r LOCATION or set KEYARK_REPOSITORY")

    @property
    def places(self) -> Places:
        """Where this machine keeps state and caches."""
        state = os.environ.get("KEYARK_STATE_DIR") or os.path.join(_base("XDG_STATE_HOME", ".local/state"), "keyark")
        cache = self.options.cache_dir or os.path.join(_base("XDG_CACHE_HOME", ".cache"), "keyark")
        return Places(state, cache)

    def storage(self, *, create: bool = False) -> Storage:
        return open_storage(self.location, create=create)

    def open(self) -> Repository:
        """Open the repository with the credentials given; on a terminal, ask for a passphrase when there are none."""
        credentials = self.credentials()
        try:
            return self._open(credentials)
        except NoKeyError:
            if self._brought() or not sys.stdin.isatty() or self.options.json:
                raise
        self.output.clear()
        password = getpass.getpass(f"passphrase for {self.location}: ")
        return self._open(Credentials(passwords=(Secret(password.encode()),), repository_id=credentials.repository_id))

    def _open(self, credentials: Credentials) -> Repository:
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
        options = self.options
        passwords: tuple[Secret, ...] = ()
        if options.password_file is not None:
            self.check_exposure(options.password_file)
            passwords += (read_passphrase(options.password_file),)
        if options.password_command is not None:
            passwords += (_run_password_command(options.password_command),)
        lines: tuple[Secret, ...] = ()
        if options.key_file is not None:
            line, warning = read_key_file(options.key_file)
            self._exposed(warning)
            lines = (line,)
        identities: tuple[AgeIdentity, ...] = ()
        if options.identity is not None:
            self.check_exposure(options.identity)
            identities = tuple(read_identities(options.identity))
        credential: Credential | None = None
        if options.credential is not None:
            self.check_exposure(options.credential)
            credential = load_credential(options.credential)
        return Credentials(passwords, lines, identities, credential, self._repository_id())

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
        try:
            mode = os.stat(path).st_mode
        except OSError as e:
            raise UsageError(f"cannot read {path}: {e.strerror}") from e
        self._exposed(exposure(path, mode) if stat.S_ISREG(mode) else None)

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


def _run_password_command(command: str) -> Secret:
    try:
        words = shlex.split(command)
        done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    except (OSError, ValueError) as e:
        raise UsageError(f"cannot run the password command: {e}") from e
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
