"""The commit and prune protocol (docs/format.md, section 12) as a small model, explored exhaustively.

Two writers and a pruner, every interleaving of their steps. Any of them may be suspended between any two steps for longer than
any grace: the pruner here treats every unlisted pack as old. What must hold in every state that can be reached: a backup that
was reported as done finds every pack of its last snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

Pack = tuple[str, int]  # content, how often it was stored anew


@dataclass(frozen=True)
class World:
    """What the storage holds."""

    packs: frozenset[Pack]
    marks: frozenset[Pack] = frozenset()
    snapshots: frozenset[tuple[int, frozenset[Pack]]] = frozenset()  # writer, packs; replaced ones still count

    def listed(self) -> frozenset[Pack]:
        return frozenset(pack for _, packs in self.snapshots for pack in packs)


@dataclass(frozen=True)
class Writer:
    """A backup under way. It wants one content that is already there and one of its own."""

    number: int
    step: str = "read marks"
    marks: frozenset[Pack] = frozenset()
    chosen: frozenset[Pack] = frozenset()
    tries: int = 0
    checks_presence: bool = True
    checks_marks: bool = True
    marks_first: bool = True

    def moves(self, world: World) -> Iterator[tuple[Writer, World]]:
        if self.step == "read marks":
            yield replace(self, step="read presence", marks=world.marks), world
        elif self.step == "read presence":
            usable = {pack for pack in world.packs if pack not in self.marks}
            known = {content: (content, count) for content, count in sorted(usable)}
            chosen = frozenset(known[content] for content in self.wanted if content in known)
            yield replace(self, step="store packs", chosen=chosen), world
        elif self.step == "store packs":
            missing = set(self.wanted) - {content for content, _ in self.chosen}
            # A pack's name is its hash and its key is random: stored anew it is another pack.
            fresh = frozenset((content, 10 * self.number + self.tries + 1) for content in missing)
            chosen = self.chosen | fresh
            yield replace(self, step="write snapshot", chosen=chosen), replace(world, packs=world.packs | fresh)
        elif self.step == "write snapshot":
            first = "look at marks" if self.marks_first else "look at presence"
            snapshots = world.snapshots | {(self.number, self.chosen)}
            yield replace(self, step=first), replace(world, snapshots=snapshots)
        elif self.step == "look at marks":
            marks = world.marks if self.checks_marks else frozenset()
            if self.marks_first:
                yield replace(self, step="look at presence", marks=marks), world
            else:
                yield self._judge(self.chosen & marks), world
        elif self.step == "look at presence":
            gone = self.chosen - world.packs if self.checks_presence else frozenset()
            if self.marks_first:
                yield self._judge(gone | (self.chosen & self.marks)), world
            elif gone:
                yield self._judge(gone), world
            else:
                yield replace(self, step="look at marks"), world

    @property
    def wanted(self) -> tuple[str, ...]:
        return ("shared", f"own {self.number}")

    def _judge(self, lost: frozenset[Pack]) -> Writer:
        if not lost:
            return replace(self, step="done")
        if self.tries == 2:
            return replace(self, step="gave up")
        return replace(self, step="read marks", tries=self.tries + 1)


@dataclass(frozen=True)
class Pruner:
    """A prune under way; may run twice."""

    step: str = "list"
    ready: frozenset[Pack] = frozenset()
    runs: int = 0
    looks_again: bool = True
    marks: bool = True

    def moves(self, world: World) -> Iterator[tuple[Pruner, World]]:
        if self.step == "list":
            yield replace(self, step="mark", ready=world.packs - world.listed()), world
        elif self.step == "mark":
            marks = world.marks | self.ready if self.marks else world.marks
            yield replace(self, step="look again"), replace(world, marks=marks)
        elif self.step == "look again":
            ready = self.ready - world.listed() if self.looks_again else self.ready
            yield replace(self, step="delete", ready=ready), world
        elif self.step == "delete":
            if not self.ready:
                after = "done" if self.runs else "list"
                yield replace(self, step=after, runs=self.runs + 1), world
            for pack in self.ready:
                yield replace(self, ready=self.ready - {pack}), replace(world, packs=world.packs - {pack})


def violations(writers: tuple[Writer, ...], pruner: Pruner) -> Iterator[str]:
    """Explore every interleaving; yields what goes wrong where."""
    start = (writers, pruner, World(frozenset({("shared", 0)})))
    todo, seen = [start], {start}
    while todo:
        writers, pruner, world = todo.pop()
        for writer in writers:
            if writer.step == "done" and not writer.chosen <= world.packs:
                yield f"writer {writer.number} is done, but {set(writer.chosen - world.packs)} is gone"
        states = [
            (tuple(moved if other is writer else other for other in writers), pruner, after)
            for writer in writers
            for moved, after in writer.moves(world)
        ]
        states += [(writers, moved, after) for moved, after in pruner.moves(world)]
        for state in states:
            if state not in seen:
                seen.add(state)
                todo.append(state)


def test_no_interleaving_of_two_writers_and_a_pruner_loses_a_reported_backup() -> None:
    assert next(violations((Writer(1), Writer(2)), Pruner()), None) is None


@pytest.mark.parametrize(
    ("writer", "pruner"),
    [
        (Writer(1, checks_presence=False, checks_marks=False), Pruner()),
        (Writer(1, checks_marks=False), Pruner()),
        (Writer(1), Pruner(looks_again=False)),
        (Writer(1), Pruner(marks=False)),
    ],
    ids=["writer does not look back", "writer ignores marks", "pruner does not look again", "pruner does not mark"],
)
def test_the_model_sees_what_each_step_is_for(writer: Writer, pruner: Pruner) -> None:
    assert next(violations((writer,), pruner), None) is not None
