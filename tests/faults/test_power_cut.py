"""The power fails: writes that were not synced are gone. A backup that was reported done is there."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.disks import LoopDisk, loop_disk
from faults.rig import ACTIONS, KILLED, Rig, settle
from support import picture

pytestmark = [pytest.mark.root, pytest.mark.program("mkfs.ext4", "mount")]
ROUNDS = int(os.environ.get("KEYARK_ROUNDS", "100"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path / "loop") as disk:
        yield disk


@pytest.fixture
def rig(tmp_path: Path, disk: LoopDisk) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", random.Random(1), disk.folder)
    yield rig
    rig.close()


def test_a_backup_that_was_reported_done_survives(rig: Rig, disk: LoopDisk) -> None:
    for _ in range(2):
        rig.change_source()
        rig.done(["backup", "-q", str(rig.source)])
        disk.cut_power()
        before = set(rig.pictures)
        rig.check()
        (new,) = set(rig.pictures) - before
        assert rig.pictures[new] == picture(rig.source)
        assert rig.errors == "", "nothing is suspicious about the state of this machine either"


@pytest.mark.program("strace")
def test_without_syncing_it_would_not_survive(rig: Rig, disk: LoopDisk) -> None:
    """That the test above can fail: fsync is skipped, and the backup is gone."""
    rig.change_source()
    silent = ["strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", "inject=fsync,fdatasync:retval=0"]
    assert rig.run_wrapped(silent, ["backup", "-q", str(rig.source)]) == 0
    disk.cut_power()
    assert len(rig.live()) == 1


def cut_somewhere(rig: Rig, disk: LoopDisk, name: str) -> bool:
    """Stop an action in the middle, cut the power, and look; True when it was under way."""
    action = ACTIONS[name]
    action.prepare(rig)
    os.sync()
    child = rig.start(action.arguments(rig))
    time.sleep(rig.rng.uniform(0, 0.3))
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    code = child.wait()
    disk.cut_power()
    settle(rig, action)
    return code == KILLED


@pytest.mark.parametrize("name", ["backup", "prune"])
def test_power_fails_in_the_middle(rig: Rig, disk: LoopDisk, name: str) -> None:
    for _ in range(3):
        cut_somewhere(rig, disk, name)


@pytest.mark.deep
@pytest.mark.timeout(0)
def test_deep_campaign(rig: Rig, disk: LoopDisk) -> None:
    """By hand: KEYARK_ROUNDS=300 pytest -m deep tests/faults/test_power_cut.py -n0 -s"""
    under_way = 0
    for number in range(ROUNDS):
        under_way += cut_somewhere(
            rig, disk, rig.rng.choice(["backup", "backup", "prune", "forget", "rotate", "reseal"])
        )
        if number % 20 == 19:
            print(number + 1, "power cuts,", under_way, "under way,", rig.restored, "restores")
