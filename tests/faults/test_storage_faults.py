"""A storage that fails, lies, truncates, flips, delays and shuffles; full, failing and read-only disks; clocks that jump."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.rig import ACTIONS, Rig, settle
from keyark.clock import SystemClock
from keyark.errors import DamagedError, KeyarkError, StorageError
from keyark.storage import faults
from keyark.storage.decorators import Retrying
from keyark.storage.faults import CHANGES, EVERYTHING, FaultInjecting
from keyark.storage.local import LocalStorage
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from support import FakeClock, Sandbox, below, fill, memory_disk, picture, run

FULL = 14
DAMAGED = 13


def source_of(ready: Sandbox, count: int = 3) -> Path:
    files = {f"{number}/key": os.urandom(3000) for number in range(count)} | {"large": os.urandom(700_000)}
    return fill(ready.base / "source", files)


def faulty(ready: Sandbox, **hooks: object) -> FaultInjecting:
    return FaultInjecting(LocalStorage(ready.location), **hooks)  # type: ignore[arg-type]


def assert_whole(ready: Sandbox, source: Path) -> None:
    report = ready.verify()
    assert report.sound, report.findings
    target = ready.base / "whole"
    assert ready.restore("latest", target, verify=True).problems == ()
    assert picture(below(target, source)) == picture(source)
    shutil.rmtree(target)


# -- the decorator -----------------------------------------------------------------------------------------------------


def test_every_single_call_of_a_backup_and_a_prune_may_fail(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)

    def back_up(storage: FaultInjecting) -> None:
        (source / "0/key").write_bytes(os.urandom(3000))
        ready.backup(source, storage=storage)

    def reclaim(storage: FaultInjecting) -> None:
        with ready.open() as repository:
            forget(repository, ForgetRequest(keep_last=1, accept_rate=True), ready.context)
        with ready.open(storage=storage) as repository:
            prune(repository, PruneRequest(grace_seconds=0), ready.context)

    for action in (back_up, reclaim):
        for operations in (CHANGES, EVERYTHING - CHANGES):
            failures = fail_each(ready, action, operations, step=1 if operations is CHANGES else 6)
            assert failures >= 3
            assert_whole(ready, source)


def fail_each(ready: Sandbox, action: Callable[[FaultInjecting], None], operations: frozenset[str], step: int) -> int:
    """Run an action with its n-th call failing, for every ``step``-th n until it succeeds; returns how often it failed."""
    failures = 0
    while True:
        try:
            action(faulty(ready, before=faults.fail_nth(1 + failures * step, operations)))
        except KeyarkError as e:
            check_code(e, FULL, DAMAGED)
            failures += 1
        else:
            return failures
        assert ready.verify().sound


def check_code(e: KeyarkError, *allowed: int) -> None:
    assert e.exit_code in allowed, e


def test_every_write_may_be_reported_as_failed_although_it_happened(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)
    n = 0
    while True:
        n += 1
        (source / "0/key").write_bytes(os.urandom(3000))
        try:
            ready.backup(source, storage=faulty(ready, after=faults.NthCall(n, CHANGES, faults.fail)))
        except StorageError:
            assert ready.verify().sound
            continue
        break
    assert n >= 5
    assert_whole(ready, source)


@pytest.mark.parametrize("seed", range(3))
def test_calls_that_fail_at_random_are_ridden_out_by_retrying(ready: Sandbox, seed: int) -> None:
    source = source_of(ready)
    for _ in range(3):
        (source / "0/key").write_bytes(os.urandom(3000))
        bad = faulty(ready, before=faults.fail_randomly(seed, 0.1), after=faults.fail_randomly(seed + 50, 0.1))
        ready.backup(source, storage=Retrying(bad, FakeClock(), attempts=9))
    with ready.open(storage=Retrying(bad, FakeClock(), attempts=9)) as repository:
        forget(repository, ForgetRequest(keep_last=1, accept_rate=True), ready.context)
        prune(repository, PruneRequest(grace_seconds=0), ready.context)
    assert_whole(ready, source)


def test_listings_in_any_order_and_slow_calls_change_nothing(ready: Sandbox) -> None:
    source = source_of(ready)
    for seed in range(3):
        (source / "0/key").write_bytes(os.urandom(3000))
        ready.backup(source, storage=faulty(ready, on_list=faults.shuffle_listings(seed)))
    slow = faulty(ready, on_list=faults.shuffle_listings(9), before=faults.delay(0.001))
    with ready.open(storage=slow) as repository:
        forget(repository, ForgetRequest(keep_last=1, accept_rate=True), ready.context)
        prune(repository, PruneRequest(grace_seconds=0), ready.context)
    assert_whole(ready, source)


@pytest.mark.parametrize("top", ["packs", "index", "snapshots", "packlists", "wraps", "marks", "keys"])
@pytest.mark.parametrize("kind", ["flip", "truncate", "flip once"])
def test_reads_that_lie_never_bring_back_anything_wrong(ready: Sandbox, top: str, kind: str) -> None:
    source = source_of(ready)
    for _ in range(2):
        (source / "0/key").write_bytes(os.urandom(3000))
        ready.backup(source)
    with ready.open() as repository:
        forget(repository, ForgetRequest(keep_last=1, accept_rate=True), ready.context)
    shutil.rmtree(ready.places.cache_dir)

    def chosen(name: str) -> bool:
        return name.startswith(top + "/")

    on_read = {
        "flip": faults.flip_reads(chosen),
        "truncate": faults.truncate_reads(chosen),
        "flip once": faults.flip_reads(chosen, times=1),
    }[kind]
    target = ready.base / "lies"
    try:
        report = ready.restore("latest", target, storage=faulty(ready, on_read=on_read))
    except KeyarkError as e:
        check_code(e, DAMAGED, 12, 16)
        report = None
    expected = picture(source)
    restored = picture(below(target, source)) if below(target, source).exists() else {}
    for path, value in restored.items():
        if value[6] is not None:
            assert value[6] == expected[path][6], "what came back is what was backed up"
    if report is not None and not report.problems:
        assert {path for path, value in restored.items() if value[6]} == {p for p, v in expected.items() if v[6]}
    (source / "1/key").write_bytes(os.urandom(3000))
    assert_whole_after(ready, source)


def assert_whole_after(ready: Sandbox, source: Path) -> None:
    """The storage is honest again: nothing of the lie has stuck."""
    ready.backup(source)
    assert_whole(ready, source)


# -- full, failing and read-only disks ---------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", random.Random(3))
    yield rig
    rig.close()


@pytest.mark.root
@pytest.mark.program("mount")
def test_no_inodes_left_is_a_full_storage_and_passes_once_there_are_more(tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "size=40m,nr_inodes=60") as disk:
        rig = Rig(tmp_path / "rig", random.Random(3), disk)
        code = 0
        for _ in range(30):
            rig.change_source()
            code = rig.run(["backup", "-q", str(rig.source)])
            if code:
                break
            rig.check()
        assert code == FULL, (code, rig.errors)
        assert "full" in rig.errors
        assert rig.errors.count("\n") == 1
        rig.check()
        run(["mount", "-o", "remount,nr_inodes=2000", str(disk)])
        settle(rig, ACTIONS["backup"])
        rig.close()


@pytest.mark.root
@pytest.mark.program("mount")
def test_a_read_only_remount_refuses_backups_and_still_gives_back(rig: Rig, tmp_path: Path) -> None:
    with memory_disk(tmp_path / "disk", "size=40m") as disk:
        shutil.copytree(rig.sandbox.location, disk / "repository")
        shutil.rmtree(rig.sandbox.location)
        os.symlink(disk / "repository", rig.sandbox.location)
        rig.change_source()
        run(["mount", "-o", "remount,ro", str(disk)])
        for action in ("backup", "forget", "prune", "rotate", "reseal"):
            code = rig.run(ACTIONS[action].arguments(rig))
            assert code == FULL or (action in ("forget", "prune") and code == 0), (action, code, rig.errors)
            assert code == 0 or "Read-only" in rig.errors
        rig.check()
        run(["mount", "-o", "remount,rw", str(disk)])
        settle(rig, ACTIONS["backup"])


def failing(call: str, error: str, when: str, path: Path | None = None) -> list[str]:
    chosen = [] if path is None else ["-P", str(path)]
    return ["strace", "-f", "-qq", "-o", "/dev/null", *chosen, "-e", f"inject={call}:error={error}:when={when}"]


@pytest.mark.program("strace")
@pytest.mark.parametrize(
    ("call", "error", "when"),
    [
        ("fsync", "EIO", "1"),
        ("fsync", "EIO", "4+"),
        ("writev", "ENOSPC", "2"),
        ("writev", "EDQUOT", "1"),
        ("linkat", "EIO", "2"),
        ("rename", "EIO", "1"),
        ("fsync", "EINTR", "1"),
        ("linkat", "ESTALE", "1"),
    ],
)
def test_system_calls_that_fail_in_a_backup(rig: Rig, call: str, error: str, when: str) -> None:
    action = ACTIONS["backup"]
    action.prepare(rig)
    code = rig.run_wrapped(failing(call, error, when), action.arguments(rig))
    assert code == (0 if error == "EINTR" else FULL), (code, rig.errors)
    assert code == 0 or rig.errors.count("\n") == 1, rig.errors
    settle(rig, action)


@pytest.mark.program("strace")
def test_a_pack_that_the_disk_cannot_read_is_named_with_its_snapshots_and_the_rest_comes_back(rig: Rig) -> None:
    rig.change_source()
    rig.backed_up()
    packs = sorted(Path(rig.sandbox.location, "packs").rglob("*/*"), key=lambda path: path.stat().st_size)
    bad = packs[-1]
    wrapper = failing("pread64", "EIO", "1+", bad)
    assert rig.run_wrapped(wrapper, ["verify", "--read-data"]) == DAMAGED
    assert bad.name in rig.errors
    target = rig.base / "target"
    assert rig.run_wrapped(wrapper, ["restore", "latest", "--target", str(target)]) == DAMAGED
    back = below(target, rig.source)
    assert not (back / "large").exists()
    assert len(list(back.rglob("*.key"))) > 5
    shutil.rmtree(target)
    rig.check()


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, -1, 400, -400])
def test_a_clock_that_jumps_while_a_prune_and_a_backup_run_bounds_waste_and_never_safety(
    ready: Sandbox, days: int
) -> None:
    assert isinstance(ready.clock, FakeClock)
    ready.clock.time_ns = SystemClock().now_ns()
    shared = os.urandom(900_000)
    one = fill(ready.base / "one", {"shared": shared})
    ready.backup(one)
    ready.backup(fill(ready.base / "other", {"x": os.urandom(10_000)}))
    with ready.open() as repository:
        forget(repository, ForgetRequest(keep_last=1), ready.context)
    calls = 0

    def jump(operation: str, name: str) -> None:
        nonlocal calls
        calls += 1
        ready.clock.pass_days(days if calls % 2 else -days)  # type: ignore[attr-defined]

    pruned: list[int] = []

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("snapshots/") and len(pruned) < 2:
            with ready.open(storage=faulty(ready, before=jump)) as repository:
                try:
                    pruned.append(prune(repository, PruneRequest(), ready.context).packs_deleted)
                except DamagedError:  # the first prune took the pack list of a snapshot that is being replaced
                    pruned.append(0)

    report = ready.backup(one, storage=faulty(ready, before=before))
    assert len(pruned) == 2
    assert ready.verify().sound
    target = ready.base / "target"
    assert ready.restore(report.snapshot_id, target, verify=True).problems == ()
    assert (below(target, one) / "shared").read_bytes() == shared
    with ready.open() as repository:
        prune(repository, PruneRequest(), ready.context)
    assert ready.verify().sound


def test_all_operations_are_among_those_that_can_fail() -> None:
    assert {"put", "get", "list", "stat", "delete"} == EVERYTHING
