"""Alarms: what a hostile storage, a stolen writer's credential or a withheld object sets off."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keyark.crypto.age import AgeIdentity, parse_identities
from keyark.crypto.slots import AgeSlot
from keyark.errors import HistoryError, IntegrityError, NoKeyError, NotAllowedError, UsageError
from keyark.repository.create import NewSlot
from keyark.repository.credentials import Credentials, load_credential
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.slots import rotate
from keyark.upkeep.writers import add_writer, revoke_writer
from support import FakeClock, Sandbox, fill

AGE = Path(__file__).parent.parent / "vectors/age"


def three_snapshots(sandbox: Sandbox, source: Path) -> None:
    for number in range(3):
        sandbox.backup(fill(source, {f"file {number}": b"x" * 1000}))


def test_a_keyring_that_went_back_is_refused_and_needs_an_explicit_word(ready: Sandbox, tmp_path: Path) -> None:
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    with ready.open() as repository:
        rotate(repository, ready.context)
    for name in ready.objects("keys"):
        if name.startswith("keys/00000002"):
            (Path(ready.location) / name).unlink()
    with pytest.raises(HistoryError, match="went back to generation 1"):
        ready.open()
    with ready.open(accept_rollback=True) as repository:
        assert repository.keyring.generation == 1


def test_a_snapshot_chain_that_went_back_is_an_alarm(ready: Sandbox, tmp_path: Path) -> None:
    three_snapshots(ready, tmp_path / "source")
    name = next(name for name in ready.objects("snapshots") if "/00000003-" in name)
    (Path(ready.location) / name).unlink()
    with pytest.raises(HistoryError, match="gone without a tombstone"):
        ready.restore("latest", ready.base / "target")
    with pytest.raises(HistoryError):
        ready.backup(tmp_path / "source")
    assert ready.restore("latest", ready.base / "target", accept_rollback=True).problems == ()
    report = ready.verify()
    assert not report.sound


def test_a_gap_is_an_alarm_that_stops_prune_until_an_administrator_accepts_the_loss(
    ready: Sandbox, tmp_path: Path
) -> None:
    three_snapshots(ready, tmp_path / "source")
    name = next(name for name in ready.objects("snapshots") if "/00000002-" in name)
    (Path(ready.location) / name).unlink()
    packs = ready.objects("packs")
    with ready.open() as repository:
        for attempt in (
            lambda: prune(repository, PruneRequest(grace_seconds=0), ready.context),
            lambda: forget(repository, ForgetRequest(keep_last=1), ready.context),
        ):
            with pytest.raises(HistoryError):
                attempt()
        assert ready.objects("packs") == packs
        assert forget(repository, ForgetRequest(acknowledge_loss=True), ready.context).removed == 1
        prune(repository, PruneRequest(), ready.context)
    assert ready.verify().sound
    ready.backup(tmp_path / "source")


def test_a_cloned_credential_is_an_alarm_and_revoking_it_ends_the_alarm(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    with ready.open() as repository:
        add_writer(repository, "web", str(ready.base / "web.credential"), context=ready.context)
    web = load_credential(str(ready.base / "web.credential"))
    ready.backup(source, credentials=web, machine="web")
    shutil.copytree(ready.base / "web", ready.base / "thief")
    repository_then = ready.base / "repository then"
    shutil.copytree(ready.location, repository_then)
    ready.backup(source, credentials=web, machine="web")
    # The thief saw the repository as it was, and his snapshot is put beside the honest one.
    thief = Sandbox(ready.base / "thief place", line=ready.line)
    shutil.copytree(repository_then, thief.location)
    thief.backup(fill(tmp_path / "evil", {"b": b"2"}), credentials=web, machine="thief")
    for name in set(thief.objects()) - set(ready.objects()):
        ready.storage().put(name, thief.storage().get(name))
    with pytest.raises(HistoryError, match="cloned"):
        ready.restore("latest", ready.base / "target")
    assert not ready.verify().sound
    with ready.open() as repository:
        revoke_writer(repository, "web", ready.context)
    assert ready.verify().sound, "what lies before the fork stays valid"
    assert ready.restore("latest", ready.base / "target").problems == ()
    with pytest.raises(NotAllowedError, match="revoked"):
        ready.backup(source, credentials=web, machine="web")


def test_snapshots_of_a_revoked_writer_do_not_count(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    with ready.open() as repository:
        add_writer(repository, "web", str(ready.base / "web.credential"), context=ready.context)
    web = load_credential(str(ready.base / "web.credential"))
    ready.backup(source, credentials=web, machine="web")
    old = Sandbox(ready.base / "old place", line=ready.line)
    shutil.copytree(ready.location, old.location)
    with ready.open() as repository:
        revoke_writer(repository, "web", ready.context)
    old.backup(fill(tmp_path / "evil", {"b": b"2"}), credentials=web, machine="old")
    for name in set(old.objects()) - set(ready.objects()):
        ready.storage().put(name, old.storage().get(name))
    with pytest.raises(HistoryError, match="revoked"):
        ready.restore("latest", ready.base / "target")


def test_a_withheld_snapshot_is_missed_by_the_other_writers(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    with ready.open() as repository:
        add_writer(repository, "web", str(ready.base / "web.credential"), context=ready.context)
    web = load_credential(str(ready.base / "web.credential"))
    ready.backup(source, credentials=web, machine="web")
    (name,) = [name for name in ready.objects("snapshots") if web.id.hex() not in name]
    (Path(ready.location) / name).unlink()
    with (
        pytest.raises(HistoryError, match="without a tombstone"),
        ready.open(machine="never seen anything") as repository,
    ):
        repository.history("look")


def test_an_identity_alone_cannot_be_lured_into_another_repository(sandbox: Sandbox, tmp_path: Path) -> None:
    identity: AgeIdentity = parse_identities((AGE / "pq.identity").read_text())[0]
    report = sandbox.init(NewSlot(AgeSlot(identity.recipient()), "age"))
    with pytest.raises(UsageError, match="--repository-id"):
        sandbox.open(Credentials(identities=(identity,)), machine="elsewhere")
    known = Credentials(identities=(identity,), repository_id=bytes.fromhex(report.repository_id))
    sandbox.open(known, machine="elsewhere").close()
    # The attacker seals a repository of his own to the same public key and puts it in its place.
    lure = Sandbox(tmp_path / "lure")
    lure.init(NewSlot(AgeSlot(identity.recipient()), "age"))
    shutil.rmtree(sandbox.location)
    shutil.copytree(lure.location, sandbox.location)
    with pytest.raises(IntegrityError, match="another repository"):
        sandbox.open(known, machine="elsewhere")
    with pytest.raises(IntegrityError):
        sandbox.open(Credentials(identities=(identity,)), machine="elsewhere")


def test_another_repository_with_another_key_does_not_open(ready: Sandbox, tmp_path: Path) -> None:
    other = Sandbox(tmp_path / "other")
    other.init()
    shutil.rmtree(ready.location)
    shutil.copytree(other.location, ready.location)
    with pytest.raises(NoKeyError):
        ready.open()


def test_an_operator_can_plant_no_key_and_a_forged_wrap_is_refused(ready: Sandbox, tmp_path: Path) -> None:
    """Whoever may write to the storage replaces an epoch's wrap by one of his own making."""
    from keyark.crypto import hpke
    from keyark.crypto.signing import SigningKey
    from keyark.repository.wraps import epoch_place, write_wrap

    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    with ready.open() as repository:
        (snapshot,) = repository.history("test").live
        slot = next(iter(repository.keyring.slots.items()))
        evil = hpke.generate(repository.keyring.kem)
        place = epoch_place(snapshot.head.compartment, snapshot.head.epoch)
        mallory = (snapshot.head.writer, SigningKey.generate(post_quantum=False))
        write_wrap(ready.storage(), repository.id, place, (slot[0], slot[1].public), evil.data, mallory, evil.public())
    with pytest.raises(IntegrityError, match="signature"):
        ready.restore("latest", ready.base / "target")


def test_flooding_with_snapshots_stops_retention(ready: Sandbox, tmp_path: Path) -> None:
    clock = ready.clock
    assert isinstance(clock, FakeClock)
    source = fill(tmp_path / "source", {"a": b"1"})
    for _ in range(5):
        ready.backup(source)
        with ready.open() as repository:
            forget(repository, ForgetRequest(keep_last=30), ready.context)
        clock.pass_days(1)
    for _ in range(25):
        ready.backup(source)
    with ready.open() as repository:
        with pytest.raises(HistoryError, match="stolen"):
            forget(repository, ForgetRequest(keep_last=20), ready.context)
        assert forget(repository, ForgetRequest(keep_last=20, accept_rate=True), ready.context).removed == 10


def test_a_time_in_the_future_stops_retention_and_a_backdated_one_cannot_push_others_out(
    ready: Sandbox, tmp_path: Path
) -> None:
    clock = ready.clock
    assert isinstance(clock, FakeClock)
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    clock.pass_days(400)
    ready.backup(source)
    clock.pass_days(-400)
    with ready.open() as repository, pytest.raises(HistoryError, match="future"):
        forget(repository, ForgetRequest(keep_daily=5), ready.context)


def test_an_operator_revoked_loses_its_word_but_its_tombstones_stand(ready: Sandbox, tmp_path: Path) -> None:
    three_snapshots(ready, tmp_path / "source")
    with ready.open() as repository:
        add_writer(repository, "op", str(ready.base / "op.credential"), operator=True, context=ready.context)
    operator = load_credential(str(ready.base / "op.credential"))
    with ready.open(operator, machine="op") as repository:
        assert forget(repository, ForgetRequest(keep_last=2), ready.context).removed == 1
        prune(repository, PruneRequest(), ready.context)
    with ready.open() as repository:
        revoke_writer(repository, "op", ready.context)
        assert len(repository.history("test").live) == 2
    with pytest.raises(NotAllowedError, match="revoked"):
        ready.open(operator, machine="op")


def test_a_writer_of_one_compartment_cannot_write_into_another(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    with ready.open() as repository:
        add_writer(repository, "web", str(ready.base / "web.credential"), context=ready.context)
        first = next(iter(repository.keyring.compartments))
    web = load_credential(str(ready.base / "web.credential"))
    ready.backup(source, credentials=web, machine="web")
    (own,) = [name for name in ready.objects("snapshots") if web.id.hex() in name]
    moved = own.replace(replace(web).compartment.hex() if web.compartment else "", first.hex())
    ready.storage().put(moved, ready.storage().get(own))
    text = " ".join(item.what for item in ready.verify().findings if item.fatal)
    assert "another compartment" in text
