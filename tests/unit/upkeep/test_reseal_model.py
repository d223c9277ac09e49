"""The re-sealing protocol as a small model: every interleaving of one re-sealing and two prunes keeps the data.

One pack, *old*, that a live snapshot lists; the re-sealing stores *new* and then the record. A prune looks (marks and record,
then packs), marks what nobody needs, looks again, and deletes. Grace is zero: clocks must not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

OLD, NEW = "old", "new"


@dataclass
class World:
    packs: set[str] = field(default_factory=lambda: {OLD})
    marks: set[str] = field(default_factory=set)
    record: bool = False

    @property
    def readable(self) -> bool:
        return OLD in self.packs or (NEW in self.packs and self.record)


Step = Callable[[World], None]


def reseal() -> list[Step]:
    def put(world: World) -> None:
        world.packs.add(NEW)

    def record(world: World) -> None:
        world.record = True

    return [put, record]


def prune(*, minds_marks: bool, looks_twice: bool, keeps_marked: bool) -> list[Step]:
    seen: dict[str, object] = {}

    def read_marks(world: World) -> None:
        seen["marks"], seen["record"] = set(world.marks), world.record

    def list_packs(world: World) -> None:
        seen["packs"] = set(world.packs)

    def needed() -> set[str]:
        marks, packs = seen["marks"], seen["packs"]
        assert isinstance(marks, set)
        assert isinstance(packs, set)
        if not seen["record"]:
            return {OLD}
        sound = NEW in packs and (NEW not in marks or not minds_marks)
        kept = {NEW} if keeps_marked or NEW not in marks else set()
        return kept if sound else {*kept, OLD}

    def mark(world: World) -> None:
        packs = seen["packs"]
        assert isinstance(packs, set)
        seen["ready"] = packs - needed()
        world.marks |= packs - needed()

    def delete(world: World) -> None:
        ready = seen["ready"]
        assert isinstance(ready, set)
        world.packs -= ready - needed()

    again = [read_marks, list_packs] if looks_twice else []
    return [read_marks, list_packs, mark, *again, delete]


def interleavings(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if not any(counts):
        yield ()
        return
    for index, count in enumerate(counts):
        if count:
            rest = (*counts[:index], count - 1, *counts[index + 1 :])
            for tail in interleavings(rest):
                yield (index, *tail)


def losses(*, minds_marks: bool = True, looks_twice: bool = True, keeps_marked: bool = True) -> int:
    """How many interleavings leave a moment in which the data cannot be read."""
    lost = 0

    def pruner() -> list[Step]:
        return prune(minds_marks=minds_marks, looks_twice=looks_twice, keeps_marked=keeps_marked)

    counts = (2, len(pruner()), len(pruner()))
    for order in interleavings(counts):
        world, processes = World(), [iter(reseal()), iter(pruner()), iter(pruner())]
        for process in order:
            next(processes[process])(world)
            if not world.readable:
                lost += 1
                break
    return lost


def test_no_interleaving_of_a_re_sealing_and_two_prunes_loses_anything() -> None:
    assert losses() == 0


@pytest.mark.parametrize("broken", ["minds_marks", "looks_twice", "keeps_marked"])
def test_leaving_out_any_part_of_the_protocol_loses_data_in_some_interleaving(broken: str) -> None:
    assert losses(**{broken: False}) > 0
