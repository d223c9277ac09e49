"""A folder while it is being walked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from keyark.backup.filescache import Entry, FolderRecord

Listed = tuple[bytes, "os.DirEntry[str]"]  # name, entry


@dataclass(slots=True)
class Frame:
    """A folder being walked. It is finished when everything in it was walked and no file is waiting to be read."""

    path: bytes
    descriptor: int
    facts: os.stat_result
    device: int
    names: list[Listed]
    root: int  # number of the source it belongs to
    parent: Frame | None = None
    place: int = 0  # among the parent's entries
    position: int = 0  # of the next name to look at
    waiting: int = 0  # files given to a reader
    entries: list[bytes | None] = field(default_factory=list)  # encoded tree entries in the order of names
    known: FolderRecord | None = None
    record: FolderRecord = field(default_factory=FolderRecord)
    unchanged: dict[bytes, Entry] = field(default_factory=dict)

    def reserve(self) -> int:
        """A place for an entry that comes later."""
        self.entries.append(None)
        return len(self.entries) - 1

    def below(self, name: bytes) -> bytes:
        """The path of something in this folder."""
        return self.path + b"/" + name if self.path != b"/" else b"/" + name
