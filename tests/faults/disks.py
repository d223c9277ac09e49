"""Small file systems of their own for tests: in memory, or in a file whose copy is what a power cut would leave."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import run


@dataclass
class LoopDisk:
    """An ext4 in a file. What was written and not synced is not in the file: its copy is the disk after a power cut."""

    image: Path
    folder: Path

    def mount(self) -> None:
        # commit=: the journal is written by fsync alone, not by the clock.
        run(["mount", "-o", "loop,commit=900", str(self.image), str(self.folder)])

    def umount(self) -> None:
        run(["umount", str(self.folder)])

    def cut_power(self) -> None:
        """Everything that was not synced is gone; the disk is mounted again, in the same place."""
        copy = self.image.with_suffix(".cut")
        shutil.copyfile(self.image, copy)
        self.umount()
        copy.replace(self.image)
        self.mount()


@contextlib.contextmanager
def loop_disk(base: Path, megabytes: int = 96) -> Iterator[LoopDisk]:
    """A fresh ext4 of this size, mounted."""
    base.mkdir(parents=True, exist_ok=True)
    disk = LoopDisk(base / "image", base / "disk")
    disk.folder.mkdir()
    with disk.image.open("wb") as file:
        file.truncate(megabytes << 20)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", str(disk.image)])
    disk.mount()
    try:
        yield disk
    finally:
        disk.umount()
        disk.image.unlink()
