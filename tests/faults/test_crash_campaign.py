"""kill -9 at any instant, of any command that changes a repository, leaves garbage and never damage.

Three ways of choosing the instant: at random; before or after the n-th storage call (a driver of our own in the process); at
the n-th system call of one kind (strace). After each: `settle`. `KEYARK_ROUNDS` sets the rounds of the deep campaign.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.rig import ACTIONS, KILLED, Rig, settle

ROUNDS = int(os.environ.get("KEYARK_ROUNDS", "2000"))
SEED = int(os.environ.get("KEYARK_SEED", "1"))
# System calls that change what a file system holds, or promise that it does.
CALLS = ("fsync", "linkat", "link", "unlink", "rename", "mkdir", "writev", "pwrite64", "openat", "flock")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", random.Random(SEED))
    yield rig
    rig.close()


def kill_at_random(rig: Rig, name: str, usual: dict[str, float]) -> bool:
    """Run an action and kill it somewhere; True when it was still alive."""
    action = ACTIONS[name]
    action.prepare(rig)
    arguments = action.arguments(rig)
    longest = usual.setdefault(name, 0.2)  # seconds; follows what this machine takes under the load of the moment
    child = rig.start(arguments)
    time.sleep(rig.rng.uniform(0, longest))
    child.kill()
    killed = child.wait() == KILLED
    usual[name] = longest * (1.15 if killed else 0.7)
    settle(rig, action)
    return killed


def strace(call: str, number: int) -> list[str]:
    """A wrapper that kills the process as it enters a system call for the n-th time."""
    return ["strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", f"inject={call}:signal=KILL:when={number}"]


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_random_instants(rig: Rig, name: str) -> None:
    usual: dict[str, float] = {}
    killed = attempts = 0
    while killed < (4 if name == "backup" else 2):
        attempts += 1
        assert attempts < 20
        killed += kill_at_random(rig, name, usual)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_storage_calls_chosen_by_number(rig: Rig, name: str, when: str) -> None:
    action = ACTIONS[name]
    calls = {
        "backup": (1, 2, 4),
        "forget": (1, 2),
        "prune": (2, 4),
        "rotate": (2, 4),
        "reseal": (4, 6, 9),
        "repair": (1, 2),
    }[name]
    killed = 0
    for number in calls if when == "after" else calls[-1:]:
        action.prepare(rig)
        code = rig.run(action.arguments(rig), f"kill={number}&when={when}")
        assert code in (KILLED, 0), rig.errors
        killed += code == KILLED
        settle(rig, action)
    assert killed


@pytest.mark.program("strace")
@pytest.mark.parametrize(
    ("name", "call", "number"),
    [
        ("backup", "fsync", 4),
        ("backup", "linkat", 2),
        ("backup", "unlink", 3),
        ("backup", "rename", 1),
        ("prune", "unlink", 3),
        ("prune", "fsync", 3),
        ("forget", "rename", 1),
        ("rotate", "rename", 3),
        ("reseal", "rename", 12),
        ("repair", "unlink", 1),
    ],
)
def test_killed_at_system_calls_chosen_by_number(rig: Rig, name: str, call: str, number: int) -> None:
    action = ACTIONS[name]
    action.prepare(rig)
    assert rig.run_wrapped(strace(call, number), action.arguments(rig)) in (KILLED, 0), rig.errors
    settle(rig, action)


def test_what_killed_puts_leave_goes_with_a_prune_after_a_day(rig: Rig) -> None:
    action = ACTIONS["backup"]
    action.prepare(rig)
    assert rig.run_wrapped(strace("linkat", 1), action.arguments(rig)) == KILLED
    assert rig.leftovers()
    settle(rig, action)
    rig.done(["prune", "-q"])
    assert rig.leftovers(), "it may belong to a backup under way"
    for path in rig.leftovers():
        os.utime(path, (path.stat().st_mtime - 90_000,) * 2)
    rig.done(["prune", "-q"])
    assert not rig.leftovers()


@pytest.mark.deep
@pytest.mark.timeout(0)
def test_deep_campaign(tmp_path: Path) -> None:
    """By hand: KEYARK_ROUNDS=2000 pytest -m deep tests/faults/test_crash_campaign.py -n0 -s"""
    rng = random.Random(SEED)
    rig = Rig(tmp_path / "rig", rng)
    usual: dict[str, float] = {}
    tally: dict[tuple[str, str], list[int]] = {}
    names = [*ACTIONS, "backup", "prune"]  # twice as often
    restored = 0
    for number in range(ROUNDS):
        if number % 40 == 39:  # a fresh repository: keyring generations pile up, and with them the cost of a round
            rig.close()
            restored += rig.restored
            shutil.rmtree(rig.base)
            rig = Rig(tmp_path / f"rig {number}", rng)
        name = rng.choice(names)
        action = ACTIONS[name]
        how = rng.choice(["random", "storage", "system"])
        if how == "random":
            killed = kill_at_random(rig, name, usual)
        else:
            action.prepare(rig)
            if how == "storage":
                code = rig.run(
                    action.arguments(rig), f"kill={rng.randint(1, 14)}&when={rng.choice(['before', 'after'])}"
                )
            else:
                code = rig.run_wrapped(strace(rng.choice(CALLS), rng.randint(1, 12)), action.arguments(rig))
            assert code in (KILLED, 0), (number, name, how, code, rig.errors)
            killed = code != 0
            settle(rig, action)
        counts = tally.setdefault((name, how), [0, 0])
        counts[0] += 1
        counts[1] += killed
        if rng.random() < 0.05:
            shutil.rmtree(rig.sandbox.places.cache_dir)
        if number % 50 == 49 or number == ROUNDS - 1:
            print(
                number + 1,
                "rounds;",
                restored + rig.restored,
                "restores;",
                {f"{n} {h}": c for (n, h), c in sorted(tally.items())},
            )
