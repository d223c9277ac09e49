"""Re-sealing: data under new keys, snapshots untouched, nothing lost whenever it is interrupted or a prune runs beside it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hostile import new_writer, path_of
from keyark.crypto.hpke import open_sealed
from keyark.crypto.slots import KeyFileSlot, generate_key_line
from keyark.errors import DamagedError, HistoryError, IntegrityError
from keyark.repository import marks as mark_objects
from keyark.repository.create import NewSlot
from keyark.repository.credentials import Credentials
from keyark.repository.marks import encode_marks
from keyark.repository.names import epoch_wrap_name
from keyark.repository.packs import _data_key_info, parse_pack_head
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage
from keyark.upkeep.model import PruneRequest, ResealReport
from keyark.upkeep.prune import prune
from keyark.upkeep.slots import add_slot, remove_slot, rotate
from support import Sandbox, below, fill, picture

GRACELESS = PruneRequest(grace_seconds=-1)  # everything unlisted counts as old


class Died(BaseException):
    """What a test raises where a process would have died."""


def stock(sandbox: Sandbox, source: Path) -> dict[str, dict[bytes, tuple[object, ...]]]:
    """Three snapshots with packs of their own, one of them of a second writer; what each holds."""
    pictures = {}
    for number in range(2):
        fill(source, {f"{number}/{item}": os.urandom(3000) for item in range(5)})
        (source / f"large {number}").write_bytes(os.urandom(1 << 20))
        pictures[str(sandbox.backup(source).snapshot_id)] = picture(source)
    web = new_writer(sandbox, "web")
    pictures[str(sandbox.backup(source, credentials=web, machine="web").snapshot_id)] = picture(source)
    return pictures


def epoch_wraps(sandbox: Sandbox) -> list[tuple[bytes, bytes, bytes]]:
    """Compartment, epoch and slot of every wrap of an epoch."""
    parts = [name.split("/") for name in sandbox.objects("wraps")]
    return [
        (bytes.fromhex(item[1]), bytes.fromhex(item[2]), bytes.fromhex(item[3]))
        for item in parts
        if len(item) == 4 and len(item[1]) == len(item[2]) == 32
    ]


def check(sandbox: Sandbox, source: Path, pictures: dict[str, dict[bytes, tuple[object, ...]]]) -> None:
    """Everything verifies, and every snapshot restores byte for byte on a machine that has no cache."""
    report = sandbox.verify()
    assert report.sound, report.findings
    place = sandbox.base / f"check {time.monotonic_ns()}"
    for snapshot, wanted in pictures.items():
        target = place / snapshot
        assert sandbox.restore(snapshot, target, machine=f"{place.name} machine").problems == ()
        assert picture(below(target, source)) == wanted


def reseal(sandbox: Sandbox, before: Callable[[str, str], None] | None = None) -> ResealReport:
    with sandbox.open(storage=FaultInjecting(LocalStorage(sandbox.location), before=before)) as repository:
        report = rotate(repository, sandbox.context, reseal=True).resealed
    assert report is not None
    return report


def test_everything_is_sealed_anew_and_the_old_packs_go_with_a_prune(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    old = set(ready.objects("packs"))
    snapshots = {name: ready.storage().get(name) for name in ready.objects("snapshots")}
    report = reseal(ready)
    assert (report.packs, report.superseded) == (len(old), len(old))
    check(ready, source, pictures)
    with ready.open() as repository:
        assert prune(repository, PruneRequest(), ready.context).packs_deleted == len(old), "no grace: nobody needs them"
    assert not old & set(ready.objects("packs"))
    assert {name: ready.storage().get(name) for name in ready.objects("snapshots")} == snapshots
    check(ready, source, pictures)
    assert reseal(ready).packs == len(old), "and once more: what superseded is superseded"
    with ready.open() as repository:
        prune(repository, PruneRequest(), ready.context)
    check(ready, source, pictures)


def test_writers_deduplicate_against_what_was_sealed_anew(ready: Sandbox, tmp_path: Path) -> None:
    """The id keys changed with the rotation, so the first backup stores once more; the re-sealed packs serve old snapshots."""
    source = tmp_path / "source"
    pictures = stock(ready, source)
    reseal(ready)
    with ready.open() as repository:
        prune(repository, PruneRequest(), ready.context)
    for _ in range(2):
        report = ready.backup(source)
        pictures[str(report.snapshot_id)] = picture(source)
    assert report.data_added < 1000, "folders above the source at most"
    check(ready, source, pictures)
    assert ready.verify(new_writer(ready, "op", operator=True), read_data=True).sound


def test_a_removed_keys_epochs_do_not_open_what_was_sealed_anew(ready: Sandbox, tmp_path: Path) -> None:
    """Mathematics, no code of ours in the way: every epoch key that the removed slot ever had, on every new pack."""
    source = tmp_path / "source"
    pictures = stock(ready, source)
    second = generate_key_line()
    with ready.open() as repository:
        add_slot(repository, NewSlot(KeyFileSlot(second), "second"), admin=False, context=ready.context)
    with ready.open(Credentials(key_lines=(second,)), machine="theirs") as repository:
        had = [
            repository.keys.any_epoch(compartment, epoch)
            for compartment, epoch, slot in epoch_wraps(ready)
            if repository.keys.slot is not None and slot == repository.keys.slot[0]
        ]
    assert had
    with ready.open() as repository:
        remove_slot(repository, "second", ready.context)
    reseal(ready)
    with ready.open() as repository:
        prune(repository, PruneRequest(), ready.context)
        identity = repository.id
    for name in ready.objects("packs"):
        head = parse_pack_head(ready.storage().get(name), name, identity)
        for private in had:
            info = _data_key_info(identity, head.compartment, head.epoch, head.head.suite, int(private.kem))
            with pytest.raises(DamagedError):
                open_sealed(private, head.sealed_key, info)
    check(ready, source, pictures)


def test_dying_at_every_single_put_of_a_re_sealing_loses_nothing(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    step = 0
    while True:
        count = 0

        def before(operation: str, name: str, step: int = step) -> None:
            nonlocal count
            if operation == "put":
                count += 1
                if count > step:
                    raise Died(name)

        try:
            reseal(ready, before)
        except Died:
            report = ready.verify()
            assert report.sound, (step, report.findings)
            if step % 7 == 0:
                check(ready, source, pictures)
                with ready.open() as repository:
                    prune(repository, GRACELESS, ready.context)
                check(ready, source, pictures)
            step += 3
            continue
        break
    assert step > 9
    with ready.open() as repository:
        prune(repository, GRACELESS, ready.context)
    check(ready, source, pictures)
    assert ready.backup(source).snapshot_id


def test_kill_9_in_the_middle_of_a_re_sealing_and_the_next_run_completes_it(ready: Sandbox, tmp_path: Path) -> None:
    from keyark.clock import SystemClock

    ready.clock = SystemClock()
    source = tmp_path / "source"
    pictures = stock(ready, source)
    for number in range(6):
        (source / f"more {number}").write_bytes(os.urandom(6 << 20))
        pictures[str(ready.backup(source).snapshot_id)] = picture(source)
    key = tmp_path / "master.key"
    key.write_bytes(ready.line.reveal() + b"\n")
    key.chmod(0o600)
    environment = {**os.environ, "KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    command = [sys.executable, "-m", "keyark.cli.main", "-r", ready.location, "--key-file", str(key)]
    command += ["key", "rotate", "--reseal"]
    rng = random.Random(5)
    killed = 0
    for _ in range(8):
        before = len(ready.objects("packs"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        deadline = time.monotonic() + 60
        enough = before + rng.randrange(1, 8)
        while process.poll() is None and len(ready.objects("packs")) < enough and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert ready.verify(read_data=False).sound
    assert killed
    check(ready, source, pictures)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert "re-sealed" in done.stdout
    with ready.open() as repository:
        prune(repository, GRACELESS, ready.context)
    check(ready, source, pictures)


def test_a_prune_that_takes_the_new_packs_for_garbage_makes_the_re_sealing_do_them_again(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    pruned = []

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("marks/") and not pruned:
            pruned.append(name)  # the record is about to be stored; the new packs look like a crashed backup's
            with ready.open(machine="pruner") as repository:
                assert prune(repository, GRACELESS, ready.context).packs_deleted > 0

    reseal(ready, before)
    assert pruned
    check(ready, source, pictures)
    with ready.open() as repository:
        prune(repository, GRACELESS, ready.context)
    check(ready, source, pictures)


def test_a_prune_suspended_over_a_whole_re_sealing_and_another_prune_deletes_nothing_that_is_needed(
    ready: Sandbox, tmp_path: Path
) -> None:
    """It marked the new packs before their record was there; when it wakes up the old ones are gone."""
    source = tmp_path / "source"
    pictures = stock(ready, source)
    stored, marked, recorded = threading.Event(), threading.Event(), threading.Event()
    failures: list[BaseException] = []
    marks = []

    def suspended(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("marks/"):
            marks.append(name)
            if len(marks) == 2:  # the marks are stored, the intent is next
                marked.set()
                assert recorded.wait(60)

    def slow_prune() -> None:
        try:
            assert stored.wait(60)
            storage = FaultInjecting(LocalStorage(ready.location), before=suspended)
            with ready.open(machine="slow", storage=storage) as repository:
                prune(repository, GRACELESS, ready.context)
        except BaseException as e:
            failures.append(e)
            marked.set()

    thread = threading.Thread(target=slow_prune)
    thread.start()

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("marks/") and not stored.is_set():
            stored.set()
            assert marked.wait(60)

    reseal(ready, before)
    with ready.open(machine="quick") as repository:
        prune(repository, GRACELESS, ready.context)
    recorded.set()
    thread.join()
    assert failures == []
    check(ready, source, pictures)


def test_a_backup_under_way_during_a_re_sealing_and_a_prune_is_whole(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    done = []

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("snapshots/") and not done:
            done.append(name)
            reseal(ready)
            with ready.open() as repository:
                prune(repository, GRACELESS, ready.context)

    fill(source, {"new": os.urandom(3000)})
    report = ready.backup(source, storage=FaultInjecting(LocalStorage(ready.location), before=before))
    assert done
    pictures[str(report.snapshot_id)] = picture(source)
    check(ready, source, pictures)


def test_a_superseded_pack_serves_while_the_new_one_is_missing(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    old = set(ready.objects("packs"))
    reseal(ready)
    for name in set(ready.objects("packs")) - old:
        path_of(ready, name).unlink()
    with ready.open() as repository:
        prune(repository, GRACELESS, ready.context)
    check(ready, source, pictures)


def test_nobody_but_the_root_may_say_that_a_pack_supersedes_another(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    operator = new_writer(ready, "op", operator=True)
    first, second, *_ = [bytes.fromhex(name[-64:]) for name in ready.objects("packs")]
    with ready.open() as repository:
        generation = repository.keyring.generation
    ((name, parts),) = encode_marks(
        mark_objects.SUPERSEDES,
        [(first, second, 1)],
        operator.repository,
        1,
        generation,
        (operator.id, operator.signing),
    )
    ready.storage().put(name, parts)
    with ready.open() as repository:
        assert not repository.marks().superseded
        assert name in [item[0] for item in repository.marks().rejected]
    path_of(ready, name).unlink()
    check(ready, source, pictures)


def test_nothing_damaged_is_signed_anew(ready: Sandbox, tmp_path: Path) -> None:
    from support import flip

    stock(ready, tmp_path / "source")
    name = ready.objects("packs")[0]
    size = path_of(ready, name).stat().st_size
    flip(path_of(ready, name), size // 2)
    with pytest.raises(IntegrityError, match=name):
        reseal(ready)
    flip(path_of(ready, name), size // 2)
    reseal(ready)
    assert ready.verify().sound
    for snapshot in ready.objects("snapshots")[:1]:
        path_of(ready, snapshot).unlink()
    with pytest.raises(HistoryError):
        reseal(ready)


def test_a_missing_wrap_of_an_epoch_that_only_packs_need_is_found(ready: Sandbox, tmp_path: Path) -> None:
    stock(ready, tmp_path / "source")
    before = set(epoch_wraps(ready))
    reseal(ready)
    compartment, epoch, slot = next(iter(set(epoch_wraps(ready)) - before))
    name = epoch_wrap_name(compartment, epoch, slot)
    path_of(ready, name).unlink()
    assert name in [item.object for item in ready.verify().findings if item.fatal]


@pytest.mark.parametrize("pruned", [False, True], ids=["both there", "pruned"])
def test_the_repositorys_own_reader_follows_too(ready: Sandbox, tmp_path: Path, pruned: bool) -> None:
    source = tmp_path / "source"
    pictures = stock(ready, source)
    old = ready.objects("packs")
    reseal(ready)
    reseal(ready)
    if pruned:
        with ready.open() as repository:
            prune(repository, PruneRequest(), ready.context)
    else:
        path_of(ready, next(name for name in ready.objects("packs") if name not in old)).unlink()
    key = tmp_path / "master.key"
    key.write_bytes(ready.line.reveal() + b"\n")
    for snapshot, wanted in pictures.items():
        target = tmp_path / "target" / snapshot
        command = [sys.executable, "-I", str(path_of(ready, "recover.py")), "--repository", ready.location]
        command += ["--key-file", str(key), "restore", snapshot, "--target", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        assert picture(below(target, source)) == wanted
