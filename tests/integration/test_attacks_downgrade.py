"""Downgrades: weaker signatures, unapproved algorithms under `fips`, classical keys, credentials that were revoked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hostile import Thief, new_writer
from keyark.crypto import hpke
from keyark.crypto.age import AgeRecipient, parse_recipient
from keyark.crypto.hpke import Kem
from keyark.crypto.kdf import argon2id, pbkdf2
from keyark.crypto.signing import SigningKey
from keyark.crypto.slots import AgeSlot, KeyFileSlot, PassphraseSlot, generate_key_line
from keyark.crypto.suites import Suite
from keyark.errors import DamagedError, ForgedError, IntegrityError, NotAllowedError
from keyark.repository import keyring as keyrings
from keyark.repository import wire
from keyark.repository.create import NewSlot
from keyark.repository.credentials import Credentials, load_credential, save_credential
from keyark.repository.generations import publish
from keyark.repository.slotwraps import encode_slot_wrap
from keyark.secret import Secret
from keyark.upkeep.slots import add_slot, remove_slot
from keyark.upkeep.writers import add_writer, revoke_writer
from support import Sandbox, fill

CLASSICAL: AgeRecipient = parse_recipient("age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj")


def test_a_writer_with_a_post_quantum_key_cannot_be_spoken_for_with_ed25519_alone(
    ready: Sandbox, tmp_path: Path
) -> None:
    path = str(ready.base / "pq.credential")
    with ready.open() as repository:
        add_writer(repository, "pq", path, post_quantum=True, context=ready.context)
    credential = load_credential(path)
    ready.backup(fill(tmp_path / "source", {"a": b"1"}), credentials=credential, machine="pq")
    half = SigningKey.from_seed(Secret(credential.signing.seed().reveal()[:32]))  # who breaks ML-DSA has this much
    with ready.open() as repository:
        (head,) = repository.history("test").live
    name = Thief(ready, replace(credential, signing=half)).snapshot(2, head.id)
    found = {item.object: item.what for item in ready.verify().findings if item.fatal}
    assert "signed with scheme 1" in found[name]


def test_the_signatures_scheme_is_covered_by_the_signature() -> None:
    key = SigningKey.generate(post_quantum=False)
    parts, _ = wire.sign_object(wire.ObjectType.MARK, 0, {"a": 1}, [b"body"], key, b"r" * 32)
    data = bytearray(b"".join(parts))
    for position in (7, 8, 9, 10, 11):  # type, suite, scheme, reserved
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(IntegrityError):
            wire.verify(wire.parse(bytes(changed), wire.ObjectType.MARK, "x"), key.public(), b"r" * 32, "x")


@pytest.mark.parametrize("what", ["ids", "kem", "suite", "listing", "slot kind", "box"])
def test_a_fips_keyring_that_records_anything_not_approved_is_refused(sandbox: Sandbox, what: str) -> None:
    sandbox.init(profile="fips")
    with sandbox.open() as repository:
        good, root = repository.keyring, repository.keys.root()
    weak = hpke.generate(Kem.MLKEM768_X25519).public()
    (slot_id, slot), (writer_id, writer) = next(iter(good.slots.items())), next(iter(good.writers.items()))
    bad = {
        "ids": replace(good, id_algorithm="blake3"),
        "kem": replace(good, kem=Kem.MLKEM768_X25519),
        "suite": replace(good, suite=2),
        "listing": replace(good, listing=(weak,)),
        "slot kind": replace(good, slots={slot_id: replace(slot, kind="age-x25519")}),
        "box": replace(good, writers={writer_id: replace(writer, box=weak)}),
    }[what]
    parts, _ = keyrings.encode(bad, root)
    with pytest.raises(DamagedError, match="fips"):
        keyrings.decode(b"".join(parts), "keys/x")


def test_a_fips_repository_refuses_to_read_what_is_not_approved(sandbox: Sandbox, tmp_path: Path) -> None:
    """A writer that ignores the profile stores ChaCha20 packs: they are refused, not opened."""
    from keyark.backup import run

    sandbox.init(profile="fips")
    source = fill(tmp_path / "source", {"a": b"1" * 5000})
    patch = pytest.MonkeyPatch()
    with patch.context() as altered:
        altered.setattr(run, "_suite", lambda *_: Suite.CHACHA20_POLY1305)
        sandbox.backup(source)
    report = sandbox.verify()
    assert any("not approved" in item.what for item in report.findings if item.fatal)


def test_a_fips_repository_opens_no_slot_under_argon2id(sandbox: Sandbox) -> None:
    """An administrator's older tool may have rewrapped a slot; the wrap's hash in the keyring fits."""
    password = Secret(b"correct horse battery staple")
    sandbox.init(
        NewSlot(KeyFileSlot(sandbox.line), "master"),
        NewSlot(PassphraseSlot(password, pbkdf2(1000)), "phrase"),
        profile="fips",
    )
    with sandbox.open() as repository:
        name, slot = next(item for item in repository.keyring.slots.items() if item[1].kind == "passphrase")
        private = hpke.generate(Kem.MLKEM1024_P384)
        method = PassphraseSlot(password, argon2id())
        wrap, sha256 = encode_slot_wrap(method, private, private.public(), repository.id, name)
        sandbox.storage().put(f"wraps/slots/{name.hex()}", wrap, create_only=False)
        changed = replace(slot, public=private.public(), wrap_sha256=sha256)
        draft = repository.keyring.next(1, slots={**repository.keyring.slots, name: changed})
        publish(sandbox.storage(), draft, repository.keys.root())
    with pytest.raises(IntegrityError, match="not approved"):
        sandbox.open(Credentials(passwords=(password,)))


def test_a_classical_key_is_not_added_where_post_quantum_is_the_policy(ready: Sandbox) -> None:
    """It would lock everybody out: opening refuses while such a slot is there."""
    with ready.open() as repository:
        keyring = repository.keyring
        draft = keyring.next(1, policies={"require_pq": True})
        repository.adopt_keyring(publish(ready.storage(), draft, repository.keys.root()))
        with pytest.raises(NotAllowedError, match="classical"):
            add_slot(repository, NewSlot(AgeSlot(CLASSICAL), "weak"), admin=False, context=ready.context)
    ready.open().close()


def test_removing_an_administrators_key_says_that_the_root_key_stays_known(ready: Sandbox) -> None:
    second = generate_key_line()
    with ready.open() as repository:
        add_slot(repository, NewSlot(KeyFileSlot(second), "second"), admin=True, context=ready.context)
        add_slot(repository, NewSlot(KeyFileSlot(generate_key_line()), "third"), admin=False, context=ready.context)
        assert "root key" in remove_slot(repository, "second", ready.context)
        assert "root key" not in remove_slot(repository, "third", ready.context)


def test_revocation_changes_keys_that_the_revoked_credential_does_not_open(ready: Sandbox, tmp_path: Path) -> None:
    """Old id and index keys it has; the new ones, and new listings for an operator, are sealed to others only."""
    from keyark.repository.unlocked import Unlocked
    from keyark.repository.wraps import compartment_place, listing_place, open_wrap

    source = fill(tmp_path / "source", {"a": os.urandom(3000)})
    writer = new_writer(ready, "colleague", compartment="default")
    operator = new_writer(ready, "op", operator=True)
    ready.backup(source)
    assert writer.compartment is not None
    with ready.open() as repository:
        old = repository.keys.compartment(writer.compartment, 1)
        revoke_writer(repository, "colleague", ready.context)
        revoke_writer(repository, "op", ready.context)
        new = repository.keys.compartment(writer.compartment, 2)
        assert old.id_key != new.id_key
        assert old.index_key != new.index_key
        assert len(repository.keyring.listing) == 2
        signers = Unlocked(ready.storage(), repository.keyring, None, writer, None).signers()
        for place, holder in (
            (compartment_place(writer.compartment, 2), writer),
            (listing_place(2), operator),
        ):
            assert open_wrap(ready.storage(), repository.id, place, (holder.id, holder.box), signers) is None
            for name in ready.objects("wraps"):  # nor does any other wrap open with the revoked key
                if name.startswith(place.name(b"\0" * 16).rpartition("/")[0]):
                    data = ready.storage().get(name)
                    body = wire.parse(data, wire.ObjectType.KEY_WRAP, name).body
                    with pytest.raises(DamagedError):
                        hpke.open_sealed(holder.box, body, place.info(repository.id, int(holder.box.kem)))
    assert ready.backup(source).data_added >= 3000, (
        "nothing is deduplicated against what the revoked writer could confirm"
    )


def test_a_credential_whose_keys_are_not_the_keyrings_is_refused(ready: Sandbox) -> None:
    writer = new_writer(ready, "web")
    path = str(ready.base / "forged.credential")
    save_credential(replace(writer, box=hpke.generate(writer.box.kem)), path)
    with pytest.raises(ForgedError, match="other keys"):
        ready.open(load_credential(path))
