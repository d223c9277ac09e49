"""Which objects a backup leaves out: patterns in gitignore syntax, matched against absolute paths."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keyark.errors import UsageError


class Excludes:
    """Compiled patterns. A pattern with a leading slash is anchored at the file system's root, others match anywhere."""

    def __init__(self, patterns: Sequence[str], pattern_files: Sequence[str] = ()) -> None:
        lines = list(patterns)
        for path in pattern_files:
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    lines += file.read().splitlines()
            except OSError as e:
                raise UsageError(f"cannot read the exclude file {path}: {e.strerror}") from e
        self.lines = tuple(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
        self._spec = None
        if self.lines:
            from pathspec import GitIgnoreSpec

            try:
                self._spec = GitIgnoreSpec.from_lines(self.lines)
            except (ValueError, TypeError) as e:
                raise UsageError(f"an exclude pattern is malformed: {e}") from e

    def __bool__(self) -> bool:
        return self._spec is not None

    def match(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object at an absolute ``path`` is left out."""
        if self._spec is None:
            return False
        text = os.fsdecode(path).lstrip("/")
        return bool(self._spec.match_file(text + "/" if folder else text))
