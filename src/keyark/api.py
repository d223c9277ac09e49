"""`BackupManager`: backups, listing and restores from Python, over the same folder as the shell front doors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from keyark import views
from keyark.backup.model import BackupRequest
from keyark.errors import DamagedError, KeyarkError
from keyark.manager import CONFIG, Manager
from keyark.operation import Context
from keyark.recovery.model import OverwritePolicy, RestoreRequest

Path = str | bytes | os.PathLike[str]


class _Readable:
    """A frozen dataclass that can also be read like a mapping."""

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self.keys() else default

    def keys(self) -> list[str]:
        return [field.name for field in fields(self)]  # type: ignore[arg-type]

    def values(self) -> list[Any]:
        return [getattr(self, key) for key in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, getattr(self, key)) for key in self.keys()]


@dataclass(frozen=True)
class BackupResult(_Readable):
    """What a backup did; the names are those of ``backup --json``. ``verified`` is None when it was not verified."""

    snapshot_id: str
    name: str
    files_new: int
    files_changed: int
    files_unmodified: int
    dirs_new: int
    dirs_changed: int
    dirs_unmodified: int
    data_added: int
    data_added_packed: int
    total_files_processed: int
    total_bytes_processed: int
    total_duration: float
    parent: str | None
    dry_run: bool
    problems: list[dict[str, str]]
    verified: bool | None
    repository: str


@dataclass(frozen=True)
class BackupInfo(_Readable):
    """One snapshot; the names are those of ``snapshots --json``. ``time`` is RFC 3339, UTC."""

    id: str
    short_id: str
    name: str | None
    time: str
    hostname: str | None
    username: str | None
    paths: list[str]
    tags: list[str]
    summary: dict[str, Any]
    parent: str | None
    problems: list[dict[str, str]]
    writer: str | None
    sequence: int


@dataclass(frozen=True)
class RestoreReport(_Readable):
    """What a restore did."""

    snapshot_id: str
    name: str
    target: str
    files_restored: int
    files_skipped: int
    dirs_restored: int
    others_restored: int
    bytes_restored: int
    bytes_fetched: int
    total_duration: float
    dry_run: bool
    verified: bool
    problems: list[dict[str, Any]]
    notices: list[str]


class BackupManager:
    """Backups of one folder's configuration: ``backup_config.json``, ``backup_master.key`` and repository lie together.

    Every error is a `keyark.errors.KeyarkError`. Warnings go to `warnings.warn`.
    """

    def __init__(self, config_file: str = CONFIG, *, context: Context | None = None) -> None:
        path = os.path.abspath(config_file)
        given = path if os.path.exists(path) or config_file != CONFIG else None
        self._manager = Manager(os.path.dirname(path), given)
        self._context = context or Context(warn=lambda message: warnings.warn(message, stacklevel=2))

    def create_backup(
        self, source: Path | Sequence[Path] = (), *, tags: Sequence[str] = (), name: str | None = None
    ) -> BackupResult:
        """Back up a path, or several; none means the configured sources, or what is found on this host.

        DamagedError when the verification that the configuration asks for finds damage.
        """
        paths = [source] if isinstance(source, (str, bytes, os.PathLike)) else list(source)
        log = self._manager.logger("backup_automation")
        request = BackupRequest(tags=tuple(tags), name=name, compression=self._manager.config.compression)
        try:
            outcome = self._manager.backup(request, [os.fsdecode(path) for path in paths], self._context)
        except KeyarkError as e:
            log.error("backup failed: %s", e)
            raise
        log.info("backup %s done: %d files", outcome.report.name, outcome.report.total_files_processed)
        if outcome.init is not None:
            self._context.warn(f"copy {self._manager.key_path} off this machine: without it nothing can be restored")
        if outcome.verified is not None and not outcome.verified.sound:
            bad = next(item for item in outcome.verified.findings if item.fatal)
            raise DamagedError(f"the backup {outcome.report.name} was stored, but verification failed: {bad.what}")
        return BackupResult(
            **views.backup_summary(outcome.report),
            verified=None if outcome.verified is None else outcome.verified.sound,
            repository=outcome.repository,
        )

    def list_backups(self) -> list[BackupInfo]:
        """All snapshots, oldest first."""
        return [BackupInfo(**views.snapshot(info)) for info in self._manager.list(self._context)]

    def restore_backup(
        self,
        backup: str,
        target: Path,
        *,
        include: Sequence[str] = (),
        overwrite: OverwritePolicy | None = None,
        verify: bool = True,
    ) -> RestoreReport:
        """Restore a snapshot (name, with or without ``.tar.gz``, id or ``latest``) below ``target``.

        What is sound is restored; DamagedError then names the first object that was not.
        """
        log = self._manager.logger("restore")
        request = RestoreRequest(
            backup, os.fsencode(os.path.abspath(target)), tuple(include), overwrite=overwrite, verify=verify
        )
        try:
            report = self._manager.restore(request, self._context)
        except KeyarkError as e:
            log.error("restore of %s failed: %s", backup, e)
            raise
        log.info("restore of %s to %s done: %d files", report.name, os.fsdecode(report.target), report.files_restored)
        damaged = [item for item in report.problems if item.integrity]
        if damaged:
            raise DamagedError(f"{os.fsdecode(damaged[0].path)}: {damaged[0].what}")
        value: Mapping[str, Any] = views.restore_report(report)
        return RestoreReport(**value)
