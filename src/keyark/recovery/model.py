"""What browsing and restoring are asked for and what they report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OverwritePolicy = Literal["always", "if-changed", "never"]


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One snapshot as ``snapshots`` shows it.

    With an operator credential only ``id``, ``sequence``, ``time_ns``, ``summary`` and who wrote it are known; ``name`` and
    the other content fields are then None or empty, and ``content_open`` is False.
    """

    id: str  # 64 hexadecimal digits
    compartment: str
    writer: str
    sequence: int
    time_ns: int
    content_open: bool
    name: str | None = None
    hostname: str | None = None
    username: str | None = None
    paths: tuple[bytes, ...] = ()
    tags: tuple[str, ...] = ()
    parent: str | None = None
    problems: tuple[tuple[bytes, str], ...] = ()  # path, what: sources not backed up as they were; summary counts all
    writer_label: str | None = None
    summary: Mapping[str, Any] = field(
        default_factory=dict
    )  # files, dirs, bytes, data_added, data_added_packed, problems

    @property
    def short_id(self) -> str:
        return self.id[:8]


@dataclass(frozen=True, slots=True)
class SnapshotFilter:
    """Which snapshots to show; empty fields do not restrict."""

    tags: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    paths: tuple[bytes, ...] = ()
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file system object in a snapshot. ``type`` is file, dir, symlink, fifo, chardev or dev (restic's words)."""

    path: bytes
    type: str
    mode: int  # permission bits, 07777
    uid: int
    gid: int
    size: int
    mtime_ns: int
    user: str | None = None
    group: str | None = None
    sha256: str | None = None
    link_target: bytes | None = None
    changed: bool = False  # while being read: what is stored may mix two states
    snapshot: str | None = None  # id, where entries of several snapshots are mixed (find)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two snapshots: modifier + (added), - (removed), M (content), U (metadata), T (type)."""

    path: bytes
    modifier: str


@dataclass(frozen=True, slots=True)
class DiffReport:
    """Differences from ``a`` to ``b``."""

    a: str
    b: str
    changes: tuple[Change, ...]
    added_files: int
    removed_files: int
    changed_files: int
    added_bytes: int
    removed_bytes: int


@dataclass(frozen=True, slots=True)
class StatsReport:
    """Sizes of a repository, or of one snapshot in it."""

    snapshots: int
    packs: int
    stored_bytes: int  # all objects
    pack_bytes: int
    index_bytes: int
    other_bytes: int
    total_files: int | None = None  # of the snapshots looked at, when content is open
    total_size: int | None = None  # restored size of the snapshots looked at
    compression_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """Restore ``snapshot`` (id, prefix, name, or ``latest``) below ``target``.

    ``at_ns`` in place of ``snapshot`` takes the newest at or before that time. Patterns are gitignore-like; a pattern without a
    slash matches names anywhere.
    """

    snapshot: str | None
    target: bytes
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    at_ns: int | None = None
    dry_run: bool = False
    overwrite: OverwritePolicy | None = None  # None: the target must be empty or absent
    verify: bool = False  # read everything back and compare


@dataclass(frozen=True, slots=True)
class RestoreProblem:
    """One object that was not restored as it was, and why."""

    path: bytes
    what: str
    integrity: bool  # True: damaged or forged data (exit code 13)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did."""

    snapshot_id: str
    name: str
    target: bytes
    files_restored: int
    files_skipped: int
    dirs_restored: int
    others_restored: int  # links, FIFOs, devices
    bytes_restored: int
    bytes_fetched: int
    total_duration: float
    dry_run: bool = False
    verified: bool = False
    problems: tuple[RestoreProblem, ...] = ()
    entries: tuple[Entry, ...] = ()  # filled by a dry run
    notices: tuple[str, ...] = ()  # what the target, or an ordinary user, cannot bring back, in total
