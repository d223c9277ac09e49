"""Collecting what a verification finds, and what each finding touches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from keyark.repository.names import parse_name
from keyark.repository.wire import ObjectType
from keyark.upkeep.model import Finding

_MAX_FILES = 1000  # paths named with one finding


@dataclass(slots=True)
class Findings:
    """Findings under construction. One object may be found wrong in several ways; the first is kept."""

    fatal: dict[str, str] = field(default_factory=dict)
    notices: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    files: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def bad(self, name: str, what: str) -> None:
        """Something is damaged, forged or missing."""
        self.fatal.setdefault(name, what)

    def note(self, name: str, what: str) -> None:
        """Something is odd but harmless."""
        self.notices.setdefault(name, what)

    def touches(self, name: str, snapshot: bytes, path: bytes | None = None) -> None:
        """A bad object matters to a snapshot, and to a file in it."""
        self.snapshots[name].add(snapshot.hex())
        if path is not None and len(self.files[name]) < _MAX_FILES:
            self.files[name].add(path)

    def excuse(self, snapshots: set[bytes]) -> None:
        """Findings that touch these snapshots and no others become notices."""
        gone = {item.hex() for item in snapshots}
        for name in [name for name in self.fatal if self.snapshots.get(name) and self.snapshots[name] <= gone]:
            self.notices.setdefault(
                name, f"{self.fatal.pop(name)} (only needed by snapshots that were forgotten meanwhile)"
            )

    def bad_packs(self) -> set[bytes]:
        """Ids of packs found bad."""
        found = set()
        for name in self.fatal:
            parsed = parse_name(name)
            if parsed is not None and parsed.type is ObjectType.PACK and parsed.sha256 is not None:
                found.add(parsed.sha256)
        return found

    def result(self) -> tuple[Finding, ...]:
        """All findings, fatal ones first."""
        found = [
            Finding(
                name,
                what,
                fatal=True,
                snapshots=tuple(sorted(self.snapshots.get(name, ()))),
                files=tuple(sorted(self.files.get(name, ()))),
            )
            for name, what in sorted(self.fatal.items())
        ]
        found += [
            Finding(name, what, fatal=False) for name, what in sorted(self.notices.items()) if name not in self.fatal
        ]
        return tuple(found)
