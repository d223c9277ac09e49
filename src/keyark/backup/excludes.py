"""Which objects a backup leaves out: patterns in gitignore syntax, given directly or in files."""

from __future__ import annotations

from collections.abc import Sequence

from keyark.errors import UsageError
from keyark.patterns import Patterns


class Excludes:
    """Compiled patterns; see `Patterns` for what they match."""

    def __init__(self, patterns: Sequence[str], pattern_files: Sequence[str] = ()) -> None:
        lines = list(patterns)
        for path in pattern_files:
            lines += _read(path)
        # Lines as gitignore counts them: empty ones and comments say nothing, `\#` is a pattern.
        self.lines = tuple(line for line in lines if line.strip() and not line.startswith("#"))
        self._patterns = Patterns(self.lines)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: bytes, *, folder: bool) -> bool:
        """Whether the object at an absolute ``path`` is left out; the walk never asks about what is in a folder that is."""
        return self._patterns.match(path, folder=folder)


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as e:
        raise UsageError(f"cannot read the exclude file {path}: {e.strerror}") from e
    return [line.removesuffix("\r") for line in text.split("\n")]
