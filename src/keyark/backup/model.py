"""What a backup is asked for and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """A backup of file trees, or of one stream.

    ``paths`` are absolute. ``stdin`` with ``stdin_name`` replaces them by one file. ``compression`` is
    ``codec[:level]``. ``name`` None means ``keys_backup_<local time>``. ``suite`` None means the repository's own.
    """

    paths: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    exclude_files: tuple[str, ...] = ()
    exclude_caches: bool = True
    one_file_system: bool = False
    stdin: BinaryIO | None = None
    stdin_name: bytes | None = None
    compression: str = "zstd:3"
    suite: str | None = None
    dry_run: bool = False
    name: str | None = None
    hostname: str | None = None
    username: str | None = None
    force: bool = False  # read every file even if it looks unchanged


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """One object that could not be backed up as it was."""

    path: bytes
    what: str  # "cannot be read: ...", "vanished", "changed while being read"


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did. Field names are restic's where restic has one."""

    snapshot_id: str | None  # None after a dry run
    name: str
    files_new: int
    files_changed: int
    files_unmodified: int
    dirs_new: int
    dirs_changed: int
    dirs_unmodified: int
    data_added: int  # bytes before compression
    data_added_packed: int  # bytes stored
    total_files_processed: int
    total_bytes_processed: int
    total_duration: float  # seconds
    parent: str | None = None
    dry_run: bool = False
    problems: tuple[SourceProblem, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """False when some sources could not be read (exit code 3)."""
        return not self.problems
