"""Which objects of a snapshot a restore takes."""

from __future__ import annotations

from collections.abc import Sequence

from keyark.patterns import Patterns


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
        if self._exclude and self._exclude.match_within(path, folder=folder):
            return False
        return not self._include or self._include.covers(path, folder=folder)

    def excluded(self, path: bytes) -> bool:
        """Whether a folder and all that is in it is left out."""
        return bool(self._exclude) and self._exclude.match_within(path, folder=True)
