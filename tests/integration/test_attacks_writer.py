"""What a thief of a writer's credential tries: lies about packs, lists that fill memory, floods."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostile import Thief, new_writer, path_of
from keyark.errors import HistoryError
from keyark.repository.chunkids import DATA, chunk_id_function
from keyark.repository.index import IndexedPack
from keyark.repository.packlists import PackUse
from keyark.repository.packs import BlockPlace
from keyark.secret import Secret
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from support import FakeClock, Sandbox, below, fill, picture


def keys_of(sandbox: Sandbox, compartment: bytes) -> tuple[Secret, Secret]:
    """Id key and index key, as every writer of the compartment has them."""
    with sandbox.open() as repository:
        keys = repository.keys.compartment(compartment, repository.keyring.compartments[compartment].generation)
    return keys.id_key, keys.index_key


def packs_of(sandbox: Sandbox) -> list[tuple[bytes, int]]:
    return [(bytes.fromhex(name[-64:]), len(sandbox.storage().get(name))) for name in sandbox.objects("packs")]


def lie(pack: tuple[bytes, int], ids: bytes, first: int = 1500) -> IndexedPack:
    """An index entry that claims ``ids`` for one block of a pack."""
    return IndexedPack(pack[0], DATA, pack[1], 1000, (BlockPlace(first, 500, len(ids) // 32, ids),))


def test_a_thief_of_another_compartment_cannot_spoil_restores_by_lying_about_packs(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {f"{number}": os.urandom(3000) for number in range(5)})
    ready.backup(source)
    thief = Thief(ready, new_writer(ready, "web"))
    ready.backup(source, credentials=thief.stolen, machine="web")
    _, index_key = keys_of(ready, thief.compartment)
    evil = thief.index([lie(pack, os.urandom(64)) for pack in packs_of(ready)], (1, index_key))
    with ready.open() as repository:
        order = sorted(repository.history("test").live, key=lambda item: item.head.writer != thief.stolen.id)
    for snapshot in order[::-1]:
        target = ready.base / snapshot.id.hex()
        assert ready.restore(snapshot.id.hex(), target, machine="custodian").problems == ()
    for snapshot in order:  # the thief's first: what it says must not stick in the custodian's cache
        target = ready.base / f"{snapshot.id.hex()} again"
        report = ready.restore(snapshot.id.hex(), target, machine="another custodian")
        if snapshot.head.writer != thief.stolen.id:
            assert report.problems == ()
            assert picture(below(target, source)) == picture(source)
    findings = {item.object: item for item in ready.verify().findings if item.fatal}
    assert set(findings) == {evil}


def test_a_colleague_cannot_announce_chunks_in_packs_that_do_not_hold_them(ready: Sandbox, tmp_path: Path) -> None:
    """The next backup of the victim would otherwise store nothing, and be reported as done."""
    source = fill(tmp_path / "source", {"first": os.urandom(3000)})
    ready.backup(source)
    thief = Thief(ready, new_writer(ready, "colleague", compartment="default"))
    coming = os.urandom(4000)
    id_key, index_key = keys_of(ready, thief.compartment)
    chunk = chunk_id_function("blake3", id_key, thief.stolen.repository, thief.compartment, DATA)(coming)
    thief.index([lie(pack, chunk) for pack in packs_of(ready)], (1, index_key))
    fill(source, {"coming": coming})
    for machine in ("machine", "fresh"):
        if machine == "fresh":
            credential = new_writer(ready, "fresh", compartment="default")
            report = ready.backup(source, credentials=credential, machine=machine)
        else:
            report = ready.backup(source)
            assert report.data_added >= len(coming)
        target = ready.base / f"target {machine}"
        assert ready.restore(report.snapshot_id, target).problems == ()
        assert (below(target, source) / "coming").read_bytes() == coming


def test_a_lie_that_nothing_contradicts_is_found_by_verify_and_ended_by_a_repair(
    ready: Sandbox, tmp_path: Path
) -> None:
    """A colleague's pack that only the colleague indexed: writers of one compartment trust each other, but verify does not."""
    source = fill(tmp_path / "source", {"first": os.urandom(3000)})
    thief = Thief(ready, new_writer(ready, "colleague", compartment="default"))
    ready.backup(fill(tmp_path / "theirs", {"x": os.urandom(5000)}), credentials=thief.stolen, machine="colleague")
    for name in ready.objects("index"):
        path_of(ready, name).unlink()
    coming = os.urandom(4000)
    id_key, index_key = keys_of(ready, thief.compartment)
    chunk = chunk_id_function("blake3", id_key, thief.stolen.repository, thief.compartment, DATA)(coming)
    evil = thief.index([lie(pack, chunk) for pack in packs_of(ready)], (1, index_key))
    fill(source, {"coming": coming})
    poisoned = ready.backup(source)
    assert poisoned.data_added < len(coming) + 3000, (
        "within one compartment trust for availability is the documented deal"
    )
    report = ready.verify()
    assert evil in [item.object for item in report.findings if item.fatal]
    ready.verify(repair_index=True)
    assert evil not in ready.objects("index")
    healed = ready.backup(source, force=True)
    assert healed.data_added >= len(coming)
    target = ready.base / "target"
    assert ready.restore(healed.snapshot_id, target).problems == ()
    assert picture(below(target, source)) == picture(source)


def test_a_lie_about_how_little_of_foreign_packs_is_used_marks_none_of_them(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": os.urandom(3000)})
    ready.backup(source)
    for number in range(4):  # whatever the order of compartments
        thief = Thief(ready, new_writer(ready, f"web {number}"))
        sha256 = thief.pack_list([PackUse(pack, size, 1 << 60, 0) for pack, size in packs_of(ready)])
        thief.snapshot(1, None, pack_lists=[sha256])
    with ready.open() as repository:
        assert prune(repository, PruneRequest(grace_seconds=0), ready.context).packs_thin == 0
        assert not repository.marks().packs
    assert ready.backup(source, force=True).data_added < 3000


def test_a_flood_in_drops_cannot_push_good_snapshots_out_either(ready: Sandbox, tmp_path: Path) -> None:
    """Ten a day stay below what one look finds abnormal; three days of it would have replaced thirty good ones."""
    clock = ready.clock
    assert isinstance(clock, FakeClock)
    source = fill(tmp_path / "source", {"a": b"1"})
    good = []
    for _ in range(20):
        good.append(ready.backup(source).snapshot_id)
        with ready.open() as repository:
            forget(repository, ForgetRequest(keep_last=20), ready.context)
        clock.pass_days(1)

    def flood() -> None:
        for _ in range(3):
            for _ in range(9):
                ready.backup(source)
            with ready.open() as repository:
                forget(repository, ForgetRequest(keep_last=20), ready.context)
            clock.pass_days(1)

    with pytest.raises(HistoryError, match="stolen"):
        flood()
    with ready.open() as repository:
        live = {item.id.hex() for item in repository.history("test").live}
    assert len(live.intersection(map(str, good))) >= 10


def test_lists_that_would_fill_an_operators_memory_are_refused(ready: Sandbox, tmp_path: Path) -> None:
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    thief = Thief(ready, new_writer(ready, "web"))
    many = thief.pack_list([PackUse(os.urandom(32), 1, 1, 1) for _ in range(1024)])
    repeated = thief.snapshot(1, None, pack_lists=[many] * 25_000)
    long = thief.pack_list([PackUse(os.urandom(32), 1, 1, 1) for _ in range(1025)])
    other = Thief(ready, new_writer(ready, "web 2"))
    endless = other.pack_list([PackUse(os.urandom(32), 1, 1, 1) for _ in range(1025)])
    other.snapshot(1, None, pack_lists=[endless])
    text = " ".join(item.what for item in ready.verify().findings if item.fatal)
    assert f"{repeated}: names a pack list twice" in text
    assert "more than 1024" in text
    assert long


def test_a_snapshot_cannot_reach_into_the_packs_of_another_compartment(ready: Sandbox, tmp_path: Path) -> None:
    """Even a thief who learnt an id of a folder there: its chunks resolve only through packs of its own compartment."""
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    thief = Thief(ready, new_writer(ready, "web"))
    with ready.open() as repository:
        (honest,) = repository.history("test").live
        tree = repository.open_content(honest).tree
    sha256 = thief.pack_list([PackUse(pack, size, 1000, 1000) for pack, size in packs_of(ready)])
    name = thief.snapshot(1, None, pack_lists=[sha256], tree=tree)
    report = ready.restore(name.rpartition("-")[2], ready.base / "target")
    assert report.problems
    assert report.files_restored == 0


@pytest.mark.parametrize("machine", ["machine", "elsewhere"])
def test_a_pack_of_a_revoked_writer_is_not_adopted(ready: Sandbox, tmp_path: Path, machine: str) -> None:
    from keyark.upkeep.writers import revoke_writer

    source = fill(tmp_path / "source", {"a": os.urandom(3000)})
    thief = Thief(ready, new_writer(ready, "colleague", compartment="default"))
    ready.backup(source, credentials=thief.stolen, machine="colleague")
    for name in [*ready.objects("index"), *ready.objects("snapshots")]:
        path_of(ready, name).unlink()
    with ready.open(machine="admin", accept_rollback=True) as repository:
        revoke_writer(repository, "colleague", ready.context)
    assert ready.backup(source, credentials=ready.key, machine=machine).data_added >= 3000


def test_a_time_in_the_future_does_not_make_a_thiefs_snapshot_the_latest(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"honest"})
    honest = ready.backup(source)
    thief = Thief(ready, new_writer(ready, "web"))
    name = thief.snapshot(1, None, time_ns=ready.clock.now_ns() + 365 * 24 * 3600 * 10**9)
    report = ready.restore("latest", ready.base / "target")
    assert report.snapshot_id == honest.snapshot_id
    assert any(name.rpartition("-")[2][:8] in text and "future" in text for text in ready.warnings)
