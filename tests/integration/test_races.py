"""Races between processes, and what interrupted ones leave: each test is something that once went wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyark.clock import SystemClock
from keyark.errors import ConflictError, DamagedError, HistoryError, UsageError
from keyark.repository.credentials import load_credential
from keyark.repository.names import probe_name
from keyark.storage.decorators import Forwarding
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage
from keyark.storage.protocol import ObjectInfo
from keyark.upkeep.copy import copy
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.slots import rotate
from keyark.upkeep.writers import add_writer
from support import Sandbox, below, fill, flip, picture


class Died(BaseException):
    """What a test raises where a process would have died."""


def source_of(sandbox: Sandbox) -> Path:
    return fill(sandbox.base / "source", {"a": os.urandom(5000), "large": os.urandom(700_000)})


def hooked(sandbox: Sandbox, **hooks: object) -> FaultInjecting:
    return FaultInjecting(LocalStorage(sandbox.location), **hooks)  # type: ignore[arg-type]


# -- commit ------------------------------------------------------------------------------------------------------------


def test_a_run_killed_behind_its_snapshot_does_not_make_a_run_beside_it_look_like_a_clone(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)

    def die(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("snapshots/"):
            raise Died(name)

    def before(operation: str, name: str) -> None:
        # The other run has listed the history; now this one stores its snapshot and dies before it notes so.
        if operation == "put" and name.startswith("packlists/"):
            fill(source, {"b": os.urandom(100)})
            with pytest.raises(Died):
                ready.backup(source, storage=hooked(ready, after=die))

    fill(source, {"c": os.urandom(100)})
    ready.backup(source, storage=hooked(ready, before=before))
    with ready.open() as repository:
        history = repository.history("test")
    assert [item.head.sequence for item in history.live] == [1, 2, 3]
    assert ready.verify().sound


def test_a_run_that_died_before_its_look_back_is_replaced_by_the_next(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)
    other = fill(ready.base / "other", {"x": b"1"})
    ready.backup(other)
    with ready.open() as repository:
        forget(repository, ForgetRequest(keep_last=1), ready.context)

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("snapshots/"):
            with ready.open() as repository:
                assert prune(repository, PruneRequest(grace_seconds=0), ready.context).packs_deleted

    def after(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("snapshots/"):
            raise Died(name)

    with pytest.raises(Died):
        ready.backup(source, storage=hooked(ready, before=before, after=after))
    report = ready.backup(source)
    verified = ready.verify()
    assert verified.sound, verified.findings
    assert ready.restore(report.snapshot_id, ready.base / "target", verify=True).problems == ()
    with ready.open() as repository:
        prune(repository, PruneRequest(), ready.context)


def test_a_snapshot_replaces_none_that_lies_far_back(ready: Sandbox) -> None:
    from keyark.repository.history import REPLACE_WINDOW

    source = source_of(ready)
    old = ready.backup(source)
    assert old.snapshot_id is not None
    with ready.open() as repository:
        (snapshot,) = repository.history("test").live
        chain = (snapshot.head.compartment, snapshot.head.writer)
        repository.state.note_unconfirmed(chain, (snapshot.head.sequence, snapshot.id))
        assert repository.state.oldest_unconfirmed(chain, 2) is None
    for _ in range(REPLACE_WINDOW):
        ready.backup(source)
    with ready.open() as repository:
        replaced = repository.history("test").replaced
    assert {item.hex() for item in replaced} == {old.snapshot_id}, "the next run replaced it"
    with ready.open() as repository:
        repository.state.note_unconfirmed(chain, (1, snapshot.id))
    newest = ready.backup(source)
    with ready.open() as repository:
        (head,) = [item.head for item in repository.history("test").live if item.id.hex() == newest.snapshot_id]
    assert head.replaces is None


def test_a_pack_of_the_wrong_size_is_stored_again(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)
    largest = max(Path(ready.location, "packs").rglob("*/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    report = ready.backup(source)
    assert report.data_added >= 700_000
    assert ready.restore(report.snapshot_id, ready.base / "target", verify=True).problems == ()


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_beside_a_backup_that_ends_meanwhile_finds_nothing_wrong(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)
    done = []

    def before(operation: str, name: str) -> None:
        if operation == "list" and name == "snapshots/" and not done:
            done.append(name)
            ready.backup(fill(ready.base / "other", {"x": os.urandom(9000)}))

    with ready.open(storage=hooked(ready, before=before)) as repository:
        from keyark.upkeep.model import VerifyRequest
        from keyark.upkeep.verify import verify

        report = verify(repository, VerifyRequest(read_data=True), ready.context)
    assert done
    assert report.sound, report.findings
    assert report.snapshots == 2


def test_verify_beside_a_forget_and_a_prune_finds_nothing_wrong(ready: Sandbox) -> None:
    from keyark.upkeep.model import VerifyRequest
    from keyark.upkeep.verify import verify

    for number in range(3):
        ready.backup(fill(ready.base / f"source {number}", {"x": os.urandom(9000)}))
    done = []

    def before(operation: str, name: str) -> None:
        if operation == "list" and name == "index/" and not done:
            done.append(name)
            with ready.open() as repository:
                forget(repository, ForgetRequest(keep_last=1), ready.context)
                assert prune(repository, PruneRequest(grace_seconds=0), ready.context).packs_deleted

    with ready.open(storage=hooked(ready, before=before)) as repository:
        report = verify(repository, VerifyRequest(read_data=True), ready.context)
    assert done
    assert report.sound, report.findings


def test_a_reader_that_the_keyring_does_not_record_is_foreign(ready: Sandbox) -> None:
    (Path(ready.location) / "recover.py").unlink(missing_ok=True)
    with ready.open() as repository:
        recorded = repository.keyring.reader_sha256
    (Path(ready.location) / "recover.py").write_text("import os; os.system('evil')")
    report = ready.verify()
    assert [item.object for item in report.findings if item.fatal] == ["recover.py"]
    assert recorded is None or "not the one" in report.findings[0].what


def test_probes_that_an_append_only_storage_kept_are_a_notice(ready: Sandbox) -> None:
    ready.storage().put(probe_name(), b"1")
    report = ready.verify()
    assert report.sound, report.findings
    assert [item.object[:6] for item in report.findings] == ["probe-"]


def test_a_pack_list_that_does_not_open_is_never_passed_over(ready: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyark.repository.packlists import PackList

    ready.backup(source_of(ready))
    with ready.open() as repository:
        add_writer(repository, "op", str(ready.base / "op"), operator=True, context=ready.context)

    def refuse(self: PackList, key: object) -> None:
        raise DamagedError("cannot be opened")

    monkeypatch.setattr(PackList, "open", refuse)
    report = ready.verify(load_credential(str(ready.base / "op")))
    assert not report.sound
    assert any(item.object.startswith("snapshots/") for item in report.findings if item.fatal)


# -- prune and forget --------------------------------------------------------------------------------------------------


def test_a_listing_that_hides_the_newest_snapshot_stops_a_prune_that_saw_it_before(ready: Sandbox) -> None:
    with ready.open() as repository:
        operator = str(ready.base / "operator")
        add_writer(repository, "operator", operator, operator=True, context=ready.context)
    for number in range(3):
        ready.backup(fill(ready.base / f"source {number}", {"x": os.urandom(9000)}))

    def hide(found: list[ObjectInfo]) -> list[ObjectInfo]:
        return [info for info in found if "/00000003-" not in info.name]

    credential = load_credential(operator)
    with ready.open(credential, machine="operator's") as repository:
        prune(repository, PruneRequest(), ready.context)
    before = ready.objects()
    lying = hooked(ready, on_list=hide)
    with ready.open(credential, machine="operator's", storage=lying) as repository:
        ready.clock.pass_days(10)  # type: ignore[attr-defined]
        with pytest.raises(HistoryError, match="Nothing was deleted"):
            prune(repository, PruneRequest(grace_seconds=0), ready.context)
    assert ready.objects() == before


# -- init --------------------------------------------------------------------------------------------------------------


def test_what_an_interrupted_init_left_is_cleared_away_by_the_next(sandbox: Sandbox) -> None:
    from keyark.crypto.slots import KeyFileSlot
    from keyark.repository.create import InitRequest, NewSlot, init_repository

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith("keys/"):
            raise Died(name)

    request = InitRequest((NewSlot(KeyFileSlot(sandbox.line), "master"),), accept_single_key=True)
    storage = FaultInjecting(LocalStorage(sandbox.location, create=True), before=before)
    with pytest.raises(Died):
        init_repository(storage, request, sandbox.places, sandbox.context)
    assert sandbox.objects("wraps")
    sandbox.init()
    sandbox.backup(source_of(sandbox))
    report = sandbox.verify()
    assert report.findings == ()


def test_init_does_not_bury_a_repository_whose_keyring_is_missing(ready: Sandbox) -> None:
    ready.backup(source_of(ready))
    shutil.move(str(Path(ready.location) / "keys"), ready.base / "keys")
    with pytest.raises(UsageError, match="keyring is missing"):
        ready.init()
    shutil.move(str(ready.base / "keys"), Path(ready.location) / "keys")
    assert ready.verify().sound


# -- copy --------------------------------------------------------------------------------------------------------------


def test_a_copy_beside_a_backup_never_holds_a_snapshot_without_its_packs(ready: Sandbox) -> None:
    ready.backup(source_of(ready))
    count = 0

    class Slow(Forwarding):
        """Lists folder after folder, as all storages do, while a backup runs."""

        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            nonlocal count
            if not prefix:
                yield from (info for info in super().list() if "/" not in info.name)
            tops = [prefix] if prefix else ["packs/", "packlists/", "index/", "marks/", "wraps/", "keys/", "snapshots/"]
            for top in tops:
                yield from super().list(top)
                count += 1
                ready.backup(fill(ready.base / f"source {count}", {"x": os.urandom(9000)}))

    destination = LocalStorage(str(ready.base / "copy"), create=True)
    with ready.open() as repository:
        repository.storage = Slow(LocalStorage(ready.location))
        copy(repository, destination, ready.context)
    with ready.open(storage=destination, machine="elsewhere") as repository:
        from keyark.upkeep.model import VerifyRequest
        from keyark.upkeep.verify import verify

        report = verify(repository, VerifyRequest(read_data=True), ready.context)
    assert count
    assert not [item for item in report.findings if "is missing" in item.what], report.findings


def test_one_rotten_object_does_not_keep_the_others_from_being_copied(ready: Sandbox) -> None:
    source = source_of(ready)
    ready.backup(source)
    rotten = max(Path(ready.location, "packs").rglob("*/*"), key=lambda path: path.stat().st_size)
    flip(rotten, 5000)
    fill(source, {"b": os.urandom(900)})
    ready.backup(source)
    destination = LocalStorage(str(ready.base / "copy"), create=True)
    with ready.open() as repository, pytest.raises(DamagedError, match=rotten.name):
        copy(repository, destination, ready.context)
    names = {info.name for info in destination.list()}
    assert set(ready.objects()) - names == {str(rotten.relative_to(ready.location))}
    flip(rotten, 5000)
    with ready.open() as repository:
        copy(repository, destination, ready.context)
    (ready.base / "copy" / rotten.relative_to(ready.location)).write_bytes(b"cut")
    with ready.open() as repository, pytest.raises(DamagedError, match="has 3 bytes"):
        copy(repository, destination, ready.context)


def test_the_repository_is_not_backed_up_into_itself_whatever_wraps_its_storage(ready: Sandbox) -> None:
    fill(ready.base / "source", {"a": b"1"})
    report = ready.backup(ready.base, storage=hooked(ready))
    target = ready.base.parent / f"{ready.base.name} target"
    ready.restore(report.snapshot_id, target)
    assert not (below(target, ready.base) / "repository").exists()
    assert picture(below(target, ready.base) / "source") == picture(ready.base / "source")
    shutil.rmtree(target)


# -- two administrators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["wraps/listing/", "wraps/", "keys/"])
@pytest.mark.parametrize("attempt", range(3))
def test_two_administrators_who_rotate_at_one_instant_neither_fork_nor_lose_a_key(
    ready: Sandbox, moment: str, attempt: int
) -> None:
    source = source_of(ready)
    ready.backup(source)
    other: list[int] = []

    def before(operation: str, name: str) -> None:
        if operation == "put" and name.startswith(moment) and not other:
            other.append(1)
            with ready.open(machine="another") as repository:
                rotate(repository, ready.context)

    with ready.open(storage=hooked(ready, before=before)) as repository, pytest.raises(ConflictError):
        rotate(repository, ready.context)
    fill(source, {"b": os.urandom(3000)})
    report = ready.backup(source)
    verified = ready.verify()
    assert verified.sound, verified.findings
    assert ready.restore(report.snapshot_id, ready.base / "target", verify=True).problems == ()
    with ready.open() as repository:
        assert repository.keyring.generation == 2
        rotate(repository, ready.context)
    ready.backup(source)
    assert ready.verify().sound


def test_machines_that_become_writers_at_one_instant_all_succeed(ready: Sandbox) -> None:
    ready.clock = SystemClock()
    source = source_of(ready)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: ready.backup(source, credentials=ready.key, machine=f"machine {n}"), range(4)))
    assert len({report.snapshot_id for report in done}) == 4
    with ready.open() as repository:
        assert len(repository.keyring.writers) == 5
        assert len(repository.history("test").live) == 4
    assert ready.verify().sound


@pytest.mark.parametrize("moment", range(1, 12))
def test_what_a_backup_stores_while_a_prune_cleans_up_is_not_taken_for_dead(ready: Sandbox, moment: int) -> None:
    # The index object of a pack that was not there yet when packs were listed once looked like one whose packs are gone.
    source = source_of(ready)
    ready.backup(source)
    fill(source, {"new": os.urandom(5000)})
    lists = 0

    def between(operation: str, name: str) -> None:
        nonlocal lists
        if operation != "list":
            return
        lists += 1
        if lists == moment:
            ready.backup(source)

    with ready.open(storage=hooked(ready, before=between)) as repository:
        prune(repository, PruneRequest(grace_seconds=3600), ready.context)
    report = ready.verify()
    assert report.sound, report.findings
