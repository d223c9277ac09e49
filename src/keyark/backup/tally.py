"""Counting what a backup does, and collecting what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from keyark.backup.model import SourceProblem
from keyark.clock import Clock
from keyark.operation import Progress
from keyark.text import show

_INTERVAL = 0.1  # seconds between progress reports


@dataclass(slots=True)
class Tally:
    """Running counts of one pass over the sources."""

    clock: Clock
    report: Callable[[Progress], None]
    warn: Callable[[str], None]
    files_total: int = 0
    bytes_total: int = 0
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    others: int = 0
    bytes_read: int = 0
    bytes_in_file: int = 0
    problems: list[SourceProblem] = field(default_factory=list)
    uids: set[int] = field(default_factory=set)
    gids: set[int] = field(default_factory=set)
    _next: float = 0.0

    @property
    def files(self) -> int:
        return self.files_new + self.files_changed + self.files_unmodified

    @property
    def dirs(self) -> int:
        return self.dirs_new + self.dirs_changed + self.dirs_unmodified

    def problem(self, path: bytes, what: str) -> None:
        """Note an object that could not be backed up as it was, and tell the user at once."""
        self.problems.append(SourceProblem(path, what))
        self.warn(f"{show(path)}: {what}")

    def tick(self, current: bytes) -> None:
        """Report progress, not more often than people can see."""
        now = self.clock.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self.report(
                Progress(
                    "backup",
                    self.files,
                    self.files_total,
                    self.bytes_read + self.bytes_in_file,
                    self.bytes_total,
                    show(current),
                )
            )
