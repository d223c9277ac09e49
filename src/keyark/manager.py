"""What stands behind the documented front doors: one folder with configuration, master key, repository and logs.

The shell scripts and `BackupManager` are thin over this. The folder holds ``backup_config.json`` (optional),
``backup_master.key`` (made on first use, mode 600), the repository (``storage.local_path``), the log files, and ``.keyark`` with
what this machine remembers.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyark.backup.model import BackupReport, BackupRequest
from keyark.backup.run import backup
from keyark.backup.sources import absolute
from keyark.config import BackupConfig, is_shipped_example, load_backup_config
from keyark.crypto.age import parse_recipient
from keyark.crypto.kdf import kdf_by_name
from keyark.crypto.slots import (
    AgeSlot,
    KeyFileSlot,
    PassphraseSlot,
    exposure,
    generate_key_line,
    read_key_file,
    read_passphrase,
)
from keyark.crypto.suites import suite_by_name
from keyark.errors import RepositoryNotFound, UsageError
from keyark.keykinds.discover import DiscoverReport, DiscoverRequest, discover
from keyark.operation import Context
from keyark.recovery.model import RestoreReport, RestoreRequest, SnapshotFilter, SnapshotInfo
from keyark.recovery.restore import restore
from keyark.recovery.snapshots import find_snapshot, list_snapshots
from keyark.repository.compression import parse_compression
from keyark.repository.create import InitReport, InitRequest, NewSlot, init_repository
from keyark.repository.credentials import Credentials
from keyark.repository.open import open_repository
from keyark.repository.places import Places, write_private
from keyark.repository.repository import Repository
from keyark.secret import Secret
from keyark.storage.location import open_storage
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetReport, ForgetRequest, PruneRequest, VerifyReport, VerifyRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.verify import verify

MASTER_KEY = "backup_master.key"
CONFIG = "backup_config.json"
_READ_ALL = 1 << 30  # bytes of packs up to which a backup is verified by reading everything
_READ_SUBSET = "5%"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the front door's backup did."""

    report: BackupReport
    init: InitReport | None
    found: DiscoverReport | None
    verified: VerifyReport | None
    forgotten: ForgetReport | None
    repository: str
    key_here: bool


class Manager:
    """One front-door folder."""

    def __init__(
        self, folder: str, config_file: str | None = None, *, key_file: str | None = None, strict: bool = False
    ) -> None:
        self.folder = os.path.abspath(folder)
        self._strict = strict
        path = config_file or os.path.join(self.folder, CONFIG)
        self.config = load_config(path) if config_file or os.path.exists(path) else BackupConfig()
        self.key_path = os.path.abspath(key_file) if key_file else os.path.join(self.folder, MASTER_KEY)
        own = os.path.join(self.folder, ".keyark")
        self.places = Places(
            os.environ.get("KEYARK_STATE_DIR") or os.path.join(own, "state"),
            os.environ.get("KEYARK_CACHE_DIR") or os.path.join(own, "cache"),
        )

    @property
    def location(self) -> str:
        """The repository's folder."""
        return os.path.normpath(os.path.join(self.folder, self.config.storage.local_path))

    def logger(self, name: str) -> logging.Logger:
        """The log file ``<name>.log`` of this folder, mode 600."""
        path = os.path.join(self.folder, f"{name}.log")
        logger = logging.getLogger(f"keyark.frontdoor.{path}")
        if not logger.handlers:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
                handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
            except OSError as e:
                raise UsageError(f"cannot write the log {path}: {e.strerror}") from e
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        return logger

    # -- repository ------------------------------------------------------------------------------------------------

    def credentials(self, context: Context) -> Credentials:
        """The master key when it is here; without it this machine's own writer credential still adds snapshots."""
        if not os.path.exists(self.key_path):
            return Credentials()
        line, warning = read_key_file(self.key_path)
        self._exposed(warning, context)
        return Credentials(key_lines=(line,))

    def _exposed(self, warning: str | None, context: Context) -> None:
        if warning is None:
            return
        if self._strict:
            raise UsageError(f"{warning} (refused because of --strict)")
        context.warn(warning)

    def open(self, context: Context) -> Repository:
        """Open the repository. RepositoryNotFound when there is none yet."""
        self._check_backends()
        return open_repository(open_storage(self.location), self.credentials(context), self.places, context)

    def _check_backends(self, context: Context | None = None) -> None:
        """Refuse backends that do not work here; with a context, say that the example's s3 is not used."""
        storage = self.config.storage
        others = [backend for backend in storage.backends if backend != "local"]
        if not others and "local" in storage.backends:
            return
        if is_shipped_example(storage):
            if context is not None:
                context.warn(
                    'storage.backends names "s3", for which nothing is configured; using the local folder alone'
                )
            return
        raise UsageError(f"this version has local storage only; take {', '.join(others)} out of storage.backends")

    def open_or_create(self, context: Context) -> tuple[Repository, InitReport | None]:
        """Open the repository; the first time, make key and repository. Two first uses at once end in one repository."""
        self._check_backends(context)
        os.makedirs(os.path.join(self.folder, ".keyark"), mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(self.folder, ".keyark", "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                return self.open(context), None
            except RepositoryNotFound:
                return self._create(context)
        finally:
            os.close(lock)

    def _create(self, context: Context) -> tuple[Repository, InitReport]:
        if not os.path.exists(self.key_path):
            line = generate_key_line()
            self._write_key(line)
        else:
            line, warning = read_key_file(self.key_path)
            self._exposed(warning, context)
        slots = [NewSlot(KeyFileSlot(line), MASTER_KEY), *self._recovery_slots(context)]
        for slot in slots:
            if (warning := slot.method.warning()) is not None:
                context.warn(warning)
        request = InitRequest(
            tuple(slots),
            accept_single_key=True,  # the first run says plainly that the key must be copied off the machine
            suite=self.config.encryption.algorithm,
            hostname=socket.gethostname(),
        )
        report = init_repository(open_storage(self.location, create=True), request, self.places, context)
        return self.open(context), report

    def _write_key(self, line: Secret) -> None:
        try:
            write_private(self.key_path, line.reveal() + b"\n")
        except OSError as e:
            raise UsageError(f"cannot write the master key {self.key_path}: {e.strerror}") from e

    def _recovery_slots(self, context: Context) -> list[NewSlot]:
        encryption = self.config.encryption
        slots = []
        if encryption.recovery_passphrase_file is not None:
            path = os.path.join(self.folder, encryption.recovery_passphrase_file)
            password = read_passphrase(path)
            self._exposed(exposure(path, os.stat(path).st_mode), context)
            kdf = kdf_by_name(encryption.key_derivation, encryption.iterations)
            slots.append(NewSlot(PassphraseSlot(password, kdf), "recovery passphrase"))
        if encryption.recovery_recipient is not None:
            slots.append(NewSlot(AgeSlot(parse_recipient(encryption.recovery_recipient)), "recovery recipient"))
        return slots

    # -- operations ------------------------------------------------------------------------------------------------

    def sources(self, paths: Sequence[str], context: Context) -> tuple[tuple[bytes, ...], DiscoverReport | None]:
        """What to back up: the paths given, or the configured ones, or what is found on this host."""
        if paths:
            return tuple(absolute(path) for path in paths), None
        if self.config.sources:
            return tuple(os.fsencode(os.path.join(self.folder, path)) for path in self.config.sources), None
        own = (self.location, *(os.path.join(self.folder, name) for name in (".keyark", "restored")))
        found = discover(DiscoverRequest(skip=tuple(os.fsencode(path) for path in own)), context)
        if not found.found:
            raise UsageError(
                "no key material that this user may read was found on this host, so nothing was backed up; "
                "name what to back up: ./backup_automation.sh backup PATH, or `sources` in backup_config.json"
            )
        return found.paths, found

    def backup(self, request: BackupRequest, paths: Sequence[str], context: Context, **limits: int | None) -> Outcome:
        """Back up, verify, and apply the configured limits. ``limits`` override those of the configuration."""
        settings = self.config.backup_settings
        parse_compression(request.compression)  # bad input is refused before anything is made
        sources, found = self.sources(paths, context)
        if not any(os.path.lexists(path) for path in sources):
            shown = ", ".join(os.fsdecode(path) for path in sources)
            raise UsageError(f"{shown}: does not exist; nothing was backed up")
        repository, init = self.open_or_create(context)
        with repository:
            excludes = (*request.excludes, *self.config.excludes)
            report = backup(
                repository,
                replace(request, paths=sources, excludes=excludes, suite=self.config.encryption.algorithm),
                context,
            )
            verified = forgotten = None
            if not repository.can_list:
                context.warn(f"not verified, and nothing forgotten: {self.key_path} is not on this machine")
            else:
                if settings.verification_enabled:
                    verified = self._verify(repository, context)
                if verified is None or verified.sound:
                    forgotten = self._forget(repository, context, **limits)
        beside = os.path.join(self.folder, MASTER_KEY)
        return Outcome(report, init, found, verified, forgotten, self.location, os.path.exists(beside))

    @staticmethod
    def _verify(repository: Repository, context: Context) -> VerifyReport:
        size = sum(info.size for info in repository.storage.list("packs/"))
        request = VerifyRequest(read_data=True) if size <= _READ_ALL else VerifyRequest(read_data_subset=_READ_SUBSET)
        return verify(repository, request, context)

    def _forget(
        self,
        repository: Repository,
        context: Context,
        retention_days: int | None = None,
        max_backups: int | None = None,
    ) -> ForgetReport | None:
        settings = self.config.backup_settings
        days = retention_days if retention_days is not None else settings.retention_days
        most = max_backups if max_backups is not None else settings.max_backups
        if days is None and most is None:
            return None
        report = forget(repository, ForgetRequest(retention_days=days, max_backups=most), context)
        return replace(report, prune=prune(repository, PruneRequest(), context)) if report.removed else report

    def list(self, context: Context) -> list[SnapshotInfo]:
        """Snapshots, oldest first."""
        with self.open(context) as repository:
            return list_snapshots(repository, SnapshotFilter(), context)

    def restore(self, request: RestoreRequest, context: Context) -> RestoreReport:
        """Restore; an empty target means ``./restored/<name>/`` in this folder."""
        with self.open(context) as repository:
            if not request.target:
                name = find_snapshot(repository, request.snapshot or "latest", context).name or "snapshot"
                folder = os.path.join(self.folder, "restored", name.replace("/", "_").lstrip(".") or "snapshot")
                request = replace(request, target=os.fsencode(folder))
            return restore(repository, request, context)


def load_config(path: str) -> BackupConfig:
    """Read ``backup_config.json`` and check what only other packages know: algorithm and compression level."""
    config = load_backup_config(path)
    try:
        suite_by_name(config.encryption.algorithm)
        parse_compression(config.compression)
    except UsageError as e:
        raise UsageError(f"{os.path.basename(path)}: {e}") from e
    return config
