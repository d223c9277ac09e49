"""A crash at any instant leaves garbage, never damage; a full disk leaves the repository sound."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keyark.errors import ConflictError, StorageError, StorageFull
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from support import Sandbox, below, fill, picture, run


def big_source(path: Path, seed: int) -> Path:
    rng = random.Random(seed)
    return fill(
        path, {f"{number % 20}/{seed}-{number}.key": rng.randbytes(rng.randrange(100, 60_000)) for number in range(400)}
    )


def start_backup(ready: Sandbox, source: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    command = [sys.executable, "-m", "keyark.cli.main", "-r", ready.location, "backup", "-q", str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_random_instants_leaves_every_earlier_snapshot_restorable(
    ready: Sandbox, tmp_path: Path, seed: int
) -> None:
    from keyark.clock import SystemClock

    ready.clock = SystemClock()
    source = big_source(tmp_path / "source", seed)
    begun = time.monotonic()
    process = start_backup(ready, source)
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    usual = time.monotonic() - begun
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    shutil.copytree(source, tmp_path / "first", symlinks=True)
    killed = 0
    rng = random.Random(seed)
    for attempt in range(5):
        big_source(source, 100 * seed + attempt + 10)
        process = start_backup(ready, source)
        time.sleep(rng.uniform(0.1, 1.1) * usual)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed
    report = ready.verify()
    assert report.sound, report.findings
    with ready.open() as repository:
        ids = [item.id.hex() for item in repository.history("test").live]
    for number, snapshot in enumerate(ids):
        assert ready.restore(snapshot, ready.base / f"target {number}", verify=True).problems == ()
    done = ready.backup(source)
    assert ready.verify().sound
    target = ready.base / "last"
    assert ready.restore(done.snapshot_id, target).problems == ()
    assert picture(below(target, source)) == picture(source)
    assert not [item for item in ready.objects() if "tmp" in item]


class Died(BaseException):
    """What a test raises where a process would have died."""


def test_dying_at_every_single_put_leaves_the_repository_sound_and_the_next_run_complete(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {"a": os.urandom(5000), "b": os.urandom(700_000)})
    ready.backup(source)
    step = 0
    while True:
        fill(source, {f"new {step}": os.urandom(3000), f"more {step}": os.urandom(600_000)})
        count = 0

        def before(operation: str, name: str, step: int = step) -> None:
            nonlocal count
            if operation == "put":
                count += 1
                if count > step:
                    raise Died(name)

        try:
            ready.backup(source, storage=FaultInjecting(LocalStorage(ready.location), before=before))
        except Died:
            report = ready.verify()
            assert report.sound, (step, report.findings)
            step += 1
            continue
        break
    assert step >= 4  # two packs, an index, a pack list, a snapshot
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target", verify=True).problems == ()
    assert picture(below(ready.base / "target", source)) == picture(source)


def test_what_a_crashed_run_stored_is_not_stored_again(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{number}": os.urandom(900_000) for number in range(40)})

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("index/"):
            raise Died(name)

    with pytest.raises(Died):
        ready.backup(source, storage=FaultInjecting(LocalStorage(ready.location), before=before))
    shutil.rmtree(ready.places.cache_dir)
    report = ready.backup(source)
    assert report.data_added < 10_000
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target", verify=True).problems == ()


def test_a_put_whose_answer_was_lost_does_not_fail_the_backup_for_good(ready: Sandbox, tmp_path: Path) -> None:
    from keyark.storage.decorators import Retrying

    source = fill(tmp_path / "source", {"a": os.urandom(5000)})
    lost: set[str] = set()

    def lose(name: str) -> bool:
        first = name not in lost
        lost.add(name)
        return first

    storage = Retrying(FaultInjecting(LocalStorage(ready.location), lose_answer=lose), ready.clock)
    assert ready.backup(source, storage=storage).complete
    assert len(lost) >= 5
    assert ready.verify().sound


def test_an_unreachable_storage_is_exit_code_14(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})

    def before(operation: str, name: str) -> None:
        if name.startswith("packs/"):
            raise StorageError(f"{name}: connection refused")

    with pytest.raises(StorageError) as caught:
        ready.backup(source, storage=FaultInjecting(LocalStorage(ready.location), before=before))
    assert caught.value.exit_code == 14
    assert ready.verify().sound


@pytest.mark.root
def test_a_full_disk_is_exit_code_14_and_the_run_succeeds_once_there_is_room(sandbox: Sandbox, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=6m", "keyark-test", str(place)])
    try:
        sandbox.init()
        small = fill(tmp_path / "small", {"a": os.urandom(100_000)})
        first = sandbox.backup(small)
        large = fill(tmp_path / "large", {f"{number}": os.urandom(1_000_000) for number in range(12)})
        environment = {"KEYARK_STATE_DIR": sandbox.places.state_dir, "KEYARK_CACHE_DIR": sandbox.places.cache_dir}
        with pytest.MonkeyPatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            process = start_backup(sandbox, large)
            _, errors = process.communicate()
        assert process.returncode == 14, errors
        assert b"full" in errors
        assert errors.count(b"\n") == 1
        with pytest.raises(StorageFull):
            sandbox.backup(large)
        assert sandbox.verify().sound
        assert sandbox.restore(first.snapshot_id, tmp_path / "target").problems == ()
        run(["mount", "-o", "remount,size=40m", str(place)])
        sandbox.backup(large)
        assert sandbox.verify().sound
        assert sandbox.restore("latest", tmp_path / "target 2", verify=True).problems == ()
    finally:
        run(["umount", str(place)])


def test_interruption_by_sigterm_is_exit_code_130_and_leaves_the_repository_sound(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {f"{number}": os.urandom(2_000_000) for number in range(60)})
    before = sum(1 for _ in ready.storage().list("packs/"))
    process = start_backup(ready, source)
    while process.poll() is None and sum(1 for _ in ready.storage().list("packs/")) == before:
        time.sleep(0.005)  # it is at work once a pack is stored
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode in (130, 0)
    if process.returncode == 130:
        assert b"interrupted" in errors
    assert ready.verify().sound


# -- a prune in the middle ---------------------------------------------------------------------------------------------


def forgotten_all_but(ready: Sandbox, keep: int) -> None:
    with ready.open() as repository:
        forget(repository, ForgetRequest(keep_last=keep), ready.context)


def test_prune_reclaims_what_nothing_lists_and_nothing_else(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": os.urandom(2_000_000)})
    ready.backup(source)
    (source / "a").unlink()
    fill(source, {"b": os.urandom(100_000)})
    ready.backup(source)
    size = sum(info.size for info in ready.storage().list())
    forgotten_all_but(ready, 1)
    with ready.open() as repository:
        planned = prune(repository, PruneRequest(dry_run=True), ready.context)
        before = ready.objects()
        assert ready.objects() == before
        report = prune(repository, PruneRequest(), ready.context)
    assert planned.packs_deleted == report.packs_deleted >= 1
    assert size - sum(info.size for info in ready.storage().list()) > 1_900_000
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target").problems == ()
    with ready.open() as repository:
        again = prune(repository, PruneRequest(), ready.context)
    assert (again.packs_deleted, again.packs_marked, again.objects_deleted) == (0, 0, 0)


def test_a_backup_that_relied_on_packs_which_a_prune_deletes_meanwhile_stores_them_again(
    ready: Sandbox, tmp_path: Path
) -> None:
    shared = os.urandom(1_500_000)
    one = fill(tmp_path / "one", {"shared": shared})
    other = fill(tmp_path / "other", {"x": os.urandom(10_000)})
    ready.backup(one)
    ready.backup(other)
    forgotten_all_but(ready, 1)
    pruned = []

    def before(operation: str, name: str) -> None:
        # After the backup has looked at what is there, and before its snapshot is stored.
        if operation == "put" and name.startswith("snapshots/") and not pruned:
            with ready.open() as repository:
                pruned.append(prune(repository, PruneRequest(grace_seconds=0), ready.context))

    report = ready.backup(one, storage=FaultInjecting(LocalStorage(ready.location), before=before))
    assert pruned[0].packs_deleted >= 1
    assert any("storing them again" in message for message in ready.warnings)
    assert ready.verify().sound
    assert ready.restore(report.snapshot_id, ready.base / "target", verify=True).problems == ()
    assert (below(ready.base / "target", one) / "shared").read_bytes() == shared


def test_dying_at_every_single_step_of_a_prune_loses_nothing(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"keep": os.urandom(300_000)})
    for number in range(3):
        fill(source, {f"gone {number}": os.urandom(700_000)})
        ready.backup(source)
        (source / f"gone {number}").unlink()
    ready.backup(source)
    forgotten_all_but(ready, 1)
    step = 0
    while True:
        count = 0

        def before(operation: str, name: str, step: int = step) -> None:
            nonlocal count
            if operation in ("put", "delete"):
                count += 1
                if count > step:
                    raise Died(name)

        storage = FaultInjecting(LocalStorage(ready.location), before=before)
        try:
            with ready.open(storage=storage) as repository:
                prune(repository, PruneRequest(grace_seconds=0), ready.context)
        except Died:
            report = ready.verify()
            assert report.sound, (step, report.findings)
            step += 1
            continue
        break
    assert step > 3
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target", verify=True).problems == ()
    assert ready.backup(source).complete


def test_a_thin_pack_is_rewritten_by_the_next_backup_and_then_goes(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{number}": os.urandom(500_000) for number in range(10)})
    ready.backup(source)
    for number in range(1, 10):
        (source / f"{number}").unlink()
    ready.backup(source)
    forgotten_all_but(ready, 1)
    with ready.open() as repository:
        assert prune(repository, PruneRequest(), ready.context).packs_thin == 1
    assert ready.restore("latest", ready.base / "still there", verify=True).problems == ()
    assert ready.backup(source).data_added >= 500_000
    forgotten_all_but(ready, 1)
    with ready.open() as repository:
        assert prune(repository, PruneRequest(), ready.context).bytes_freed > 4_000_000
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target", verify=True).problems == ()


def test_a_repository_pruned_under_our_feet_all_the_time_is_a_conflict(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": os.urandom(5000)})

    class Greedy(FaultInjecting):
        """Deletes every pack as soon as a snapshot lists it."""

        def put(self, name: str, data: object, **options: object) -> None:  # type: ignore[override]
            super().put(name, data, **options)  # type: ignore[arg-type]
            if name.startswith("snapshots/"):
                for info in list(self.inner.list("packs/")):
                    self.inner.delete(info.name)

    with pytest.raises(ConflictError) as caught:
        ready.backup(source, storage=Greedy(LocalStorage(ready.location)))
    assert caught.value.exit_code == 11
