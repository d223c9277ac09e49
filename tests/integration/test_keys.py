"""Who may read changes without rewriting data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from keyark.crypto.age import parse_identities
from keyark.crypto.kdf import argon2id, pbkdf2, scrypt
from keyark.crypto.slots import AgeSlot, KeyFileSlot, PassphraseSlot, generate_key_line
from keyark.errors import NoKeyError, NotAllowedError, UsageError
from keyark.repository.create import NewSlot
from keyark.repository.credentials import Credentials, load_credential
from keyark.secret import Secret
from keyark.upkeep.slots import add_slot, list_slots, remove_slot, rotate
from keyark.upkeep.writers import add_writer, list_writers
from support import FakeClock, Sandbox, below, fill, picture, run

AGE = Path(__file__).parent.parent / "vectors/age"
PASSWORD = Secret(b"correct horse battery staple")


def packs_of(sandbox: Sandbox) -> dict[str, str]:
    return {name: hashlib.sha256(sandbox.storage().get(name)).hexdigest() for name in sandbox.objects("packs")}


@pytest.mark.parametrize("kdf", [argon2id(), scrypt(), pbkdf2(100_000)], ids=lambda kdf: kdf.name)
def test_every_passphrase_kdf_opens_and_a_wrong_passphrase_does_not(
    sandbox: Sandbox, tmp_path: Path, kdf: object
) -> None:
    sandbox.init(NewSlot(PassphraseSlot(PASSWORD, kdf), "phrase"))  # type: ignore[arg-type]
    source = fill(tmp_path / "source", {"a": b"1"})
    sandbox.backup(source)
    with sandbox.open(Credentials(passwords=(Secret(b"wrong"), PASSWORD))) as repository:
        assert repository.is_admin
    with pytest.raises(NoKeyError) as caught:
        sandbox.open(Credentials(passwords=(Secret(b"wrong"),)), machine="elsewhere")
    assert caught.value.exit_code == 12


@pytest.mark.program("age-keygen")
def test_keys_made_by_age_keygen_open(sandbox: Sandbox, tmp_path: Path) -> None:
    text = run(["age-keygen"]).stdout
    identity = parse_identities(text)[0]
    report = sandbox.init(NewSlot(AgeSlot(identity.recipient()), "age"))
    assert any("quantum" in (slot.warning or "") for slot in report.slots)
    source = fill(tmp_path / "source", {"a": b"1"})
    sandbox.backup(source)
    known = Credentials(identities=(identity,), repository_id=bytes.fromhex(report.repository_id))
    with sandbox.open(known, machine="elsewhere") as repository:
        assert repository.can_read
    with pytest.raises(NotAllowedError, match="post-quantum"):
        sandbox.open(known, machine="elsewhere", require_pq=True)


def test_an_added_key_opens_what_was_there_before_and_nothing_is_rewritten(ready: Sandbox, tmp_path: Path) -> None:
    clock = ready.clock
    assert isinstance(clock, FakeClock)
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    ready.backup(source)
    clock.pass_days(40)  # another epoch
    fill(source, {"b": b"2" * 5000})
    ready.backup(source)
    packs = packs_of(ready)
    identity = parse_identities((AGE / "pq.identity").read_text())[0]
    with ready.open() as repository:
        info = add_slot(
            repository, NewSlot(AgeSlot(identity.recipient()), "second"), admin=False, context=ready.context
        )
        assert [slot.label for slot in list_slots(repository)] == ["master", "second"]
        known = Credentials(identities=(identity,), repository_id=repository.id)
    assert packs_of(ready) == packs
    assert info.post_quantum
    with ready.open(known, machine="elsewhere") as repository:
        assert len(repository.history("test").live) == 2
        for snapshot in repository.history("test").live:
            repository.open_content(snapshot)
        with pytest.raises(NotAllowedError):
            rotate(repository, ready.context)
    ready.backup(source)
    report = ready.verify()
    assert report.sound, report.findings


def test_a_removed_key_opens_nothing_new_and_the_last_one_stays(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    ready.backup(source)
    second = generate_key_line()
    with ready.open() as repository:
        add_slot(repository, NewSlot(KeyFileSlot(second), "second"), admin=True, context=ready.context)
        packs = packs_of(ready)
        message = remove_slot(repository, "master", ready.context)
        assert "opened before" in message
    assert packs_of(ready) == packs
    with pytest.raises(NoKeyError):
        ready.open(machine="elsewhere")
    report = ready.backup(source)
    assert report.data_added > 0, "the id key changed with the removal"
    ready.line = second
    assert ready.restore("latest", ready.base / "target").problems == ()
    assert ready.verify().sound
    with ready.open() as repository, pytest.raises(UsageError, match="only key"):
        remove_slot(repository, "second", ready.context)


def test_rotation_rewrites_nothing_and_old_and_new_snapshots_restore(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    first = ready.backup(source)
    packs = packs_of(ready)
    with ready.open() as repository:
        assert rotate(repository, ready.context).compartments == 1
    assert packs_of(ready) == packs
    second = ready.backup(source)
    assert second.data_added > 0
    assert ready.backup(source).data_added < 1000  # the time of a folder above, at most
    for number, report in enumerate((first, second)):
        target = ready.base / f"target {number}"
        assert ready.restore(report.snapshot_id, target, verify=True).problems == ()
        assert picture(below(target, source)) == picture(source)
    assert ready.verify().sound


def test_writers_get_compartments_of_their_own_unless_told_otherwise(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    ready.backup(source)
    with ready.open() as repository:
        add_writer(repository, "alone", str(ready.base / "alone.credential"), context=ready.context)
        add_writer(
            repository, "beside", str(ready.base / "beside.credential"), compartment="default", context=ready.context
        )
        add_writer(repository, "pq", str(ready.base / "pq.credential"), post_quantum=True, context=ready.context)
        with pytest.raises(UsageError, match="already"):
            add_writer(repository, "alone", str(ready.base / "other"), context=ready.context)
        with pytest.raises(UsageError, match="exists"):
            add_writer(repository, "third", str(ready.base / "alone.credential"), context=ready.context)
    added = {
        name: ready.backup(
            source, credentials=load_credential(str(ready.base / f"{name}.credential")), machine=name
        ).data_added
        for name in ("alone", "beside", "pq")
    }
    assert added["alone"] > 5000
    assert added["beside"] < 1000, "it shares the first writer's chunks"
    assert added["pq"] > 5000
    with ready.open() as repository:
        writers = {item.label: item for item in list_writers(repository)}
        assert writers["pq"].post_quantum_signature
        assert len(repository.history("test").live) == 4
    assert (ready.base / "alone.credential").stat().st_mode & 0o777 == 0o600
    assert ready.verify().sound


def test_the_fips_profile_uses_approved_algorithms_only(sandbox: Sandbox, tmp_path: Path) -> None:
    identity = parse_identities((AGE / "pq.identity").read_text())[0]
    for slot, options in (
        (AgeSlot(identity.recipient()), {}),
        (PassphraseSlot(PASSWORD, argon2id()), {}),
        (KeyFileSlot(sandbox.line), {"suite": "ChaCha20-Poly1305"}),
    ):
        with pytest.raises(UsageError, match="fips"):
            sandbox.init(NewSlot(slot, "slot"), profile="fips", **options)
    sandbox.init(profile="fips")
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    sandbox.backup(source)
    with sandbox.open() as repository:
        assert (repository.keyring.id_algorithm, repository.keyring.kem.name) == ("hmac-sha256", "MLKEM1024_P384")
    with pytest.raises(UsageError, match="fips"):
        sandbox.backup(source, suite="multi-layer")
    assert sandbox.restore("latest", sandbox.base / "target").problems == ()
    assert sandbox.verify().sound
