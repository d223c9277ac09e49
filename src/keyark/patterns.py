"""Patterns in gitignore syntax, matched against absolute paths: excludes of a backup, includes and excludes of a restore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from keyark.errors import UsageError


class Patterns:
    """A set of patterns; the last that matches a path decides, as in git (a test compares the two).

    The file system's root is what the folder of a ``.gitignore`` is to git. So a pattern without a slash (but for one at its
    end) matches names anywhere; any other is anchored at the root, whether it begins with a slash or not; ``**/a/b`` matches
    anywhere. pathspec translates each pattern; which one decides is decided here, since pathspec lets a pattern that matches
    a folder speak for what is in it, even against a later one, and so a negation can leave out what git would keep.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []  # whether it matches or takes back; the last comes first
        if not patterns:
            return
        from pathspec import GitIgnoreSpec

        try:
            spec = GitIgnoreSpec.from_lines([_plain(_one_line(pattern)) for pattern in patterns])
        except (ValueError, TypeError) as e:
            raise UsageError(f"a pattern is malformed: {e}") from e
        for rule in reversed(list(spec.patterns)):
            if rule.include is not None and rule.regex is not None:
                self._rules.append((rule.include, rule.regex))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def match(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object at an absolute ``path`` itself matches, whatever holds for the folders it lies in."""
        return bool(self._decide(_text(path, folder=folder)))

    def match_within(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object matches, or a folder that it lies in does: nothing in an excluded folder comes back."""
        return any(self._decide(text) for text in _upwards(path, folder=folder))

    def covers(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object matches, or, when no pattern speaks of it, the closest folder of which one does."""
        return bool(
            next((said for said in map(self._decide, _upwards(path, folder=folder)) if said is not None), False)
        )

    def _decide(self, text: str) -> bool | None:
        for include, regex in self._rules:
            found = regex.search(text)
            if found is None:
                continue
            slash = found.start("ps_d") if "ps_d" in regex.groupindex else -1
            if slash in (-1, len(text) - 1):  # else it is a folder above that matched
                return include
        return None


def _one_line(text: str) -> str:
    # Wildcards stop at line ends, and a `$` matches before a last one. No path holds a NUL, so it can stand in.
    return text.replace("\n", "\0")


def _plain(pattern: str) -> str:
    # Spellings for which pathspec's expression does not tell an object from what is in it: `a/**` is everything in `a`
    # but not `a` itself, `**/` is every folder.
    pattern = re.sub(r"/\*\*(/?[ \t]*)$", r"/**/*\1", pattern)
    return re.sub(r"^(!?)/?(?:\*\*/)*\*{1,2}/([ \t]*)$", r"\1?*/\2", pattern)


def _text(path: bytes, *, folder: bool) -> str:
    text = _one_line(os.fsdecode(path).strip("/"))
    return text + "/" if folder else text


def _upwards(path: bytes, *, folder: bool) -> Iterator[str]:
    """The path and the folders above it, as patterns see them."""
    text = _text(path, folder=folder)
    while text:
        yield text
        above = text.rstrip("/").rpartition("/")[0]
        text = above + "/" if above else ""
