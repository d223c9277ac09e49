"""Include and exclude patterns of a restore, in gitignore syntax, matched against absolute paths."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keyark.errors import UsageError


class Patterns:
    """A set of patterns. One without a slash matches names anywhere; one that matches a folder covers what is in it."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = None
        if patterns:
            from pathspec import GitIgnoreSpec

            try:
                self._spec = GitIgnoreSpec.from_lines(patterns)
            except (ValueError, TypeError) as e:
                raise UsageError(f"a pattern is malformed: {e}") from e

    def __bool__(self) -> bool:
        return self._spec is not None

    def match(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object at an absolute ``path`` matches."""
        if self._spec is None:
            return False
        text = os.fsdecode(path).lstrip("/")
        return bool(self._spec.match_file(text + "/" if folder else text))


class Selection:
    """Which objects of a snapshot are wanted."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = Patterns(include)
        self._exclude = Patterns(exclude)

    @property
    def everything(self) -> bool:
        return not self._include

    def wants(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object itself is wanted; folders on the way to wanted ones are made in any case."""
        if self._exclude and self._exclude.match(path, folder=folder):
            return False
        return not self._include or self._include.match(path, folder=folder)

    def excluded(self, path: bytes) -> bool:
        """Whether a folder and all that is in it is left out."""
        return bool(self._exclude) and self._exclude.match(path, folder=True)
