"""How much there is to do, counted beside the backup so that a progress bar has an end."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from keyark.backup.excludes import Excludes
from keyark.backup.tally import Tally


class Estimate:
    """Counts files and bytes on a thread and writes the totals into a tally. It may be off; nothing rests on it."""

    def __init__(self, paths: Sequence[bytes], excludes: Excludes, tally: Tally) -> None:
        self._paths = paths
        self._excludes = excludes
        self._tally = tally
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="estimate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        files = size = 0
        todo = list(self._paths)
        while todo and not self._stop.is_set():
            path = todo.pop()
            try:
                if not os.path.isdir(path) or os.path.islink(path):
                    files, size = files + 1, size + os.lstat(path).st_size
                    continue
                with os.scandir(path) as entries:
                    for entry in entries:
                        folder = entry.is_dir(follow_symlinks=False)
                        if self._excludes and self._excludes.match(entry.path, folder=folder):
                            continue
                        if folder:
                            todo.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            files, size = files + 1, size + entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
        if not self._stop.is_set():
            self._tally.files_total, self._tally.bytes_total = files, size
