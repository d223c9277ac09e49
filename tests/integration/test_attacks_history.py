"""Attacks on the chains of snapshots: forged in forgotten places, lies about others, junk, transplants."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from hostile import Thief, new_writer, path_of
from keyark.errors import HistoryError
from keyark.repository.marks import TOMBSTONE, encode_marks
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.writers import revoke_writer
from support import Sandbox, fill


def chain_with_forgotten_middle(ready: Sandbox, source: Path) -> list[str]:
    """Snapshots 1 to 5 of one writer, of which 2 to 4 are forgotten and pruned; the ids of all."""
    ids = []
    for number in range(5):
        ids.append(ready.backup(fill(source, {f"file {number}": os.urandom(2000)})).snapshot_id or "")
    with ready.open() as repository:
        forget(repository, ForgetRequest(snapshots=tuple(ids[1:4])), ready.context)
        prune(repository, PruneRequest(grace_seconds=0), ready.context)
    assert len(ready.objects("snapshots")) == 2
    return ids


@pytest.mark.parametrize("revoked", [False, True], ids=["standing", "revoked"])
def test_a_snapshot_forged_in_the_place_of_a_forgotten_one_does_not_count(
    ready: Sandbox, tmp_path: Path, revoked: bool
) -> None:
    """Its object is gone, so no second claim to its number shows; its id stands in the tombstone for all to read."""
    source = tmp_path / "source"
    ids = chain_with_forgotten_middle(ready, source)
    with ready.open() as repository:
        thief = Thief(ready, repository.keys.writer or pytest.fail("no writer"))
        if revoked:
            revoke_writer(repository, thief.stolen.id.hex(), ready.context)
    second = thief.snapshot(2, bytes.fromhex(ids[0]))
    third = thief.snapshot(3, bytes.fromhex(second.rpartition("-")[2]))
    with pytest.raises(HistoryError, match="forgotten"):
        ready.restore("latest", ready.base / "target")
    report = ready.verify()
    assert {third, second} <= {item.object for item in report.findings if item.fatal}
    with ready.open(accept_rollback=True) as repository:
        live = repository.judge_history().live
        assert not {third, second} & {item.name for item in live}
        assert [item.id.hex() for item in live if item.head.sequence in (1, 5)] == [ids[0], ids[4]]
    with ready.open() as repository:
        forget(repository, ForgetRequest(acknowledge_loss=True), ready.context)
        assert [item.id.hex() for item in repository.history("test").live] == [ids[0], ids[4]]
    assert ready.verify().sound


def test_a_lie_about_another_writers_head_does_not_stop_that_writers_backups(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    thief = Thief(ready, new_writer(ready, "web"))
    with ready.open() as repository:
        (honest,) = repository.history("test").live
    lie = (honest.head.compartment, honest.head.writer, 99, os.urandom(32))
    thief.snapshot(1, None, others=[lie])
    assert ready.backup(source).snapshot_id, "a stolen credential must not be a switch that turns backups off"
    assert any("alarm" in text for text in ready.warnings)
    with pytest.raises(HistoryError, match=thief.stolen.id.hex()[:8]):
        ready.restore("latest", ready.base / "target")
    with ready.open() as repository:
        with pytest.raises(HistoryError):
            prune(repository, PruneRequest(), ready.context)
        revoke_writer(repository, "web", ready.context)
        assert repository.history("test").alarms == (), "revoking the liar ends the alarm"
        prune(repository, PruneRequest(), ready.context)


def test_a_machine_that_remembers_nothing_is_stopped_by_a_witness(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    web = new_writer(ready, "web")
    ready.backup(source, credentials=web, machine="web")
    for name in ready.objects("snapshots"):
        if web.id.hex() not in name:
            path_of(ready, name).unlink()
    (Path(ready.places.state(web.repository).folder) / "pins.json").unlink()
    with pytest.raises(HistoryError, match="gone without a tombstone"):
        ready.backup(source)


@pytest.mark.parametrize("junk", ["nothing", "00000002-" + "ab" * 32])
def test_junk_in_a_writers_folder_does_not_stop_its_backups_but_stops_a_prune(
    ready: Sandbox, tmp_path: Path, junk: str
) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    (own,) = ready.objects("snapshots")
    ready.storage().put(f"{own.rpartition('/')[0]}/{junk}", b"junk")
    assert ready.backup(source).snapshot_id
    with ready.open() as repository, pytest.raises(HistoryError):
        prune(repository, PruneRequest(), ready.context)


def test_reordered_transplanted_and_foreign_snapshots_are_refused_by_name(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    web = new_writer(ready, "web", compartment="default")
    for _ in range(2):
        ready.backup(source)
    ready.backup(source, credentials=web, machine="web")
    other = Sandbox(tmp_path / "other")
    other.init()
    other.backup(source)
    first = next(name for name in ready.objects("snapshots") if web.id.hex() not in name)
    (theirs,) = [name for name in ready.objects("snapshots") if web.id.hex() in name]
    (foreign,) = other.objects("snapshots")
    moved = {
        first.replace("/00000001-", "/00000007-").replace("/00000002-", "/00000007-"): first,  # another number
        first.rpartition("/")[0] + "/" + theirs.rpartition("/")[2]: theirs,  # another writer of the same compartment
    }
    for name, original in moved.items():
        ready.storage().put(name, ready.storage().get(original))
    ready.storage().put(foreign, other.storage().get(foreign))
    report = ready.verify()
    assert {*moved, foreign} <= {item.object for item in report.findings if item.fatal}
    with ready.open(accept_rollback=True) as repository:
        assert len(repository.judge_history().live) == 3


def test_a_storage_rolled_back_as_a_whole_is_noticed_by_every_machine_that_saw_it(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    shutil.copytree(ready.location, tmp_path / "then")
    ready.backup(source)
    shutil.rmtree(ready.location)
    shutil.copytree(tmp_path / "then", ready.location)
    for attempt in (
        lambda: ready.backup(source),
        lambda: ready.restore("latest", ready.base / "target"),
    ):
        with pytest.raises(HistoryError, match="went back"):
            attempt()


def test_a_truncated_listing_during_a_sweep_deletes_nothing_that_a_snapshot_needs(
    ready: Sandbox, tmp_path: Path
) -> None:
    from keyark.storage.faults import FaultInjecting
    from keyark.storage.local import LocalStorage

    class Truncating(FaultInjecting):
        """Shows only the first snapshots of each chain, as a paged listing that was cut short does."""

        def list(self, prefix: str = ""):  # type: ignore[no-untyped-def]
            shown = sorted(super().list(prefix), key=lambda info: info.name)
            return iter(shown[:1] if prefix == "snapshots/" else shown)

    source = tmp_path / "source"
    for number in range(3):
        ready.backup(fill(source, {f"file {number}": os.urandom(3000)}))
    operator = new_writer(ready, "op", operator=True)
    with ready.open(operator, machine="op") as repository:  # once it saw everything
        prune(repository, PruneRequest(), ready.context)
    packs = ready.objects("packs")
    with (
        ready.open(operator, machine="op", storage=Truncating(LocalStorage(ready.location))) as repository,
        pytest.raises(HistoryError),
    ):
        prune(repository, PruneRequest(grace_seconds=0), ready.context)
    assert ready.objects("packs") == packs


def test_a_number_far_ahead_fills_no_memory_and_stops_nobody_else(ready: Sandbox, tmp_path: Path) -> None:
    """A gap of a hundred million numbers is one alarm; revoking the thief accepts nothing behind it."""
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    thief = Thief(ready, new_writer(ready, "web"))
    ready.backup(source, credentials=thief.stolen, machine="web")
    far = thief.snapshot(99_999_999, os.urandom(32))
    begun = time.monotonic()
    assert ready.backup(source).snapshot_id
    with ready.open() as repository:
        alarms = repository.judge_history().alarms
        assert ["snapshots 2 to 99999998 are missing" in alarm.what for alarm in alarms].count(True) == 1
        revoke_writer(repository, "web", ready.context)
        forget(repository, ForgetRequest(acknowledge_loss=True), ready.context)
        assert far not in ready.objects("snapshots")
        assert len(repository.history("test").live) == 3
    assert time.monotonic() - begun < 30
    assert ready.verify().sound


def test_an_operators_tombstone_far_ahead_ends_with_the_operator(ready: Sandbox, tmp_path: Path) -> None:
    """An operator may forget, but not push a writer's chain where nobody can follow."""
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    operator = new_writer(ready, "op", operator=True)
    with ready.open() as repository:
        (honest,) = repository.history("test").live
        generation = repository.keyring.generation
    row = (honest.head.compartment, honest.head.writer, 1 << 62, os.urandom(32))
    signer = (operator.id, operator.signing)
    for name, parts in encode_marks(TOMBSTONE, [row], operator.repository, 1, generation, signer):
        ready.storage().put(name, parts)
    with ready.open() as repository:
        assert repository.judge_history().alarms
        revoke_writer(repository, "op", ready.context)
        assert repository.history("test").heads()[row[:2]] == (1, honest.id)
    assert ready.backup(source).snapshot_id
    assert ready.verify().sound


def test_a_lie_about_a_number_far_ahead_is_not_made_true_by_accepting_losses(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    thief = Thief(ready, new_writer(ready, "web"))
    with ready.open() as repository:
        (honest,) = repository.history("test").live
    thief.snapshot(1, None, others=[(honest.head.compartment, honest.head.writer, 1 << 62, os.urandom(32))])
    with ready.open() as repository:
        assert forget(repository, ForgetRequest(acknowledge_loss=True), ready.context).removed == 0
        revoke_writer(repository, "web", ready.context)
        assert repository.history("test").heads()[honest.head.compartment, honest.head.writer][0] == 1
    ready.backup(source)
    assert ready.verify().sound


def test_a_thief_who_goes_on_where_the_machine_left_off_is_noticed_by_the_machine(
    ready: Sandbox, tmp_path: Path
) -> None:
    """No number is claimed twice, so no alarm tells; the machine knows what it made."""
    source = fill(tmp_path / "source", {"a": b"1"})
    for _ in range(2):
        ready.backup(source)
    assert not any("not made by this machine" in text for text in ready.warnings)
    with ready.open() as repository:
        thief = Thief(ready, repository.keys.writer or pytest.fail("no writer"))
        newest = repository.history("test").live[-1]
        folder = repository.state.folder
    shutil.copy(Path(folder) / "pins.json", tmp_path / "pins.json")
    thief.snapshot(3, newest.id)
    shutil.copy(tmp_path / "pins.json", Path(folder) / "pins.json")  # making it looked at the history as this machine
    ready.backup(source)
    assert any("not made by this machine" in text for text in ready.warnings)
