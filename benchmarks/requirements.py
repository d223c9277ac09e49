"""What is required of Keyark, and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_MB, MEMORY_AIM_MB = 200, 120
INDEX_ADDS_MB = 100
HELP_SECONDS, SNAPSHOTS_SECONDS, STARTUP_AIM_SECONDS = 0.2, 0.5, 0.12
FLAT = 1.2  # cost per file with a million files, relative to 50,000


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure to reach against one peer: a peer must take ``times`` as long, or Keyark at most ``within`` times as long."""

    peer: str
    must: float
    aim: float | None
    within: bool = False

    def holds(self, ratio: float, figure: float) -> bool:
        """Whether ``ratio`` (see `ratio`) reaches ``figure``."""
        return ratio <= figure if self.within else ratio >= figure

    def ratio(self, keyark: float, peer: float) -> float:
        """Peer / Keyark for a peer that must be slower, Keyark / peer for one that it must come near."""
        return keyark / peer if self.within else peer / keyark

    def __str__(self) -> str:
        return f"{self.peer} {'≤' if self.within else '≥'} {self.must:g}x"


_SECOND = (Bar("restic", 4, 8), Bar("borg", 4, 8))
_VERIFY = (Bar("restic", 1, 1.5),)
SPEED: dict[tuple[str, str], tuple[Bar, ...]] = {
    ("secrets", "first"): (Bar("restic", 3, 4), Bar("borg", 4.5, 6), Bar("pipe", 2.5, 1.5, within=True)),
    ("secrets", "restore"): (Bar("restic", 2, 3), Bar("borg", 2, 3)),
    ("tree", "first"): (Bar("restic", 2, 2.5), Bar("borg", 1.8, None), Bar("pipe", 1.15, 1, within=True)),
    ("random", "first"): (Bar("restic", 2, 2.5),),
    **{(source, "second"): _SECOND for source in ("secrets", "tree", "random")},
    **{(source, "verify"): _VERIFY for source in ("secrets", "tree", "random")},
}
# Keyark's repository against the smaller of restic's and borg's: what it must be, and what is aimed at.
SIZE: dict[str, tuple[float, float]] = {"secrets": (1.0, 0.9), "tree": (0.95, 0.9)}


def verdict(bars: tuple[Bar, ...], ratios: dict[str, float]) -> str:
    """Whether every figure is reached by the peers that were measured, and if not, against whom."""
    measured = [bar for bar in bars if bar.peer in ratios]
    if not measured:
        return "–"
    failed = [bar.peer for bar in measured if not bar.holds(ratios[bar.peer], bar.must)]
    if failed:
        return f"**no**: {', '.join(failed)}"
    aimed = all(bar.holds(ratios[bar.peer], bar.aim) for bar in measured if bar.aim is not None)
    return "yes, and the aim" if aimed else "yes"


def at_most(value: float, must: float, aim: float | None = None) -> str:
    """The verdict on a figure with an upper bound."""
    if value > must:
        return "**no**"
    return "yes, and the aim" if aim is not None and value <= aim else "yes"
