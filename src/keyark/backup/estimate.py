"""How much there is to do, counted beside the backup so that a progress bar has an end."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence

from keyark.backup.metadata import is_cache_folder
from keyark.backup.tally import Tally
from keyark.backup.walker import WalkRules

_PATIENCE = 1.0  # seconds to wait for the thread; it may hang in a file system that a backup never enters


class Estimate:
    """Counts files and bytes on a thread and writes the totals into a tally. It may be off; nothing rests on it."""

    def __init__(self, paths: Sequence[bytes], rules: WalkRules, tally: Tally) -> None:
        self._paths = paths
        self._rules = rules
        self._tally = tally
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="estimate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop counting. Does not wait for a file system that does not answer."""
        self._stop.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        files = size = 0
        todo: list[tuple[bytes, int | None]] = [(path, None) for path in self._paths]  # path, device that is not left
        while todo and not self._stop.is_set():
            path, device = todo.pop()
            try:
                facts = os.lstat(path)
                if not stat.S_ISDIR(facts.st_mode):
                    files, size = files + 1, size + facts.st_size
                    continue
                if not self._enters(path, facts, device):
                    continue
                for name, folder, length in self._entries(path):
                    if folder:
                        todo.append((name, device if device is not None else facts.st_dev))
                    else:
                        files, size = files + 1, size + length
            except OSError:
                continue
        if not self._stop.is_set():
            self._tally.files_total, self._tally.bytes_total = files, size

    def _enters(self, path: bytes, facts: os.stat_result, device: int | None) -> bool:
        if (facts.st_dev, facts.st_ino) in self._rules.skip:
            return False
        if self._rules.one_file_system and device is not None and facts.st_dev != device:
            return False
        return not (self._rules.exclude_caches and _is_cache(path))

    def _entries(self, path: bytes) -> Iterator[tuple[bytes, bool, int]]:
        """Folders, and files with their sizes."""
        excludes = self._rules.excludes
        with os.scandir(path) as entries:
            for entry in entries:
                if self._stop.is_set():
                    return
                folder = entry.is_dir(follow_symlinks=False)
                if excludes and excludes.match(entry.path, folder=folder):
                    continue
                if folder:
                    yield entry.path, True, 0
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path, False, entry.stat(follow_symlinks=False).st_size


def _is_cache(path: bytes) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return is_cache_folder(descriptor)
    finally:
        os.close(descriptor)
