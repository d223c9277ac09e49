"""Attacks on the keyring and on what opens a repository: substitution, replay, forks, junk, lures, downgrades."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hostile import new_writer, path_of
from keyark.crypto import hpke
from keyark.crypto.age import parse_identities
from keyark.crypto.signing import SigningKey
from keyark.crypto.slots import AgeSlot, KeyFileSlot, generate_key_line
from keyark.errors import HistoryError, IntegrityError, NoKeyError
from keyark.repository import keyring as keyrings
from keyark.repository import wire
from keyark.repository.create import NewSlot
from keyark.repository.credentials import Credentials
from keyark.repository.names import keyring_name
from keyark.upkeep.slots import add_slot, rotate
from support import Sandbox, below, fill

AGE = Path(__file__).parent.parent / "vectors/age"


def test_junk_below_keys_neither_bricks_nor_floods_nor_fills_memory(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    folder = Path(ready.location) / "keys"
    for number in range(300):
        (folder / f"{number:08d}-{secrets.token_hex(32)}").write_bytes(os.urandom(200))
        (folder / f"junk {number}").write_bytes(b"x")
    (folder / f"00000001-{secrets.token_hex(32)}").symlink_to("/dev/zero")
    os.mkfifo(folder / f"00000002-{secrets.token_hex(32)}")
    os.mkdir(folder / f"00000003-{secrets.token_hex(32)}")
    deep = folder / "deep"
    for _ in range(60):  # far deeper than any name; a recursion without an end would be one more brick
        deep = deep / "d"
    os.makedirs(deep)
    with open(folder / f"99999999-{secrets.token_hex(32)}", "wb") as huge:
        huge.truncate(40 << 30)  # sparse: reading it whole would need 40 GB of memory
    begun = time.monotonic()
    ready.warnings.clear()
    assert ready.backup(source).snapshot_id
    assert ready.restore("latest", ready.base / "target").problems == ()
    assert time.monotonic() - begun < 20
    assert len(ready.warnings) < 12
    assert not ready.verify().sound


@pytest.mark.parametrize("top", ["snapshots", "index", "packlists", "packs", "wraps", "wraps/slots"])
def test_an_oversized_object_is_named_without_being_read_whole(ready: Sandbox, tmp_path: Path, top: str) -> None:
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    name = ready.objects(top)[0]
    with open(path_of(ready, name), "ab") as file:
        file.truncate(40 << 30)  # sparse: reading it whole would need 40 GB of memory
    try:
        text = " ".join(item.what for item in ready.verify().findings if item.fatal)
    except IntegrityError as e:
        text = str(e)
    assert name in text


def test_a_substituted_keyring_is_no_keyring_of_this_repository(ready: Sandbox, tmp_path: Path) -> None:
    """The storage puts a root of its own in, with the honest slots, so that everything looks as before."""
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    with ready.open() as repository:
        honest = repository.keyring
    evil_root = SigningKey.generate(post_quantum=True)
    evil = replace(honest, root=evil_root.public(), previous=None, generation=1)
    for name in ready.objects("keys"):
        path_of(ready, name).unlink()
    parts, sha256 = keyrings.encode(evil, evil_root)
    ready.storage().put(keyring_name(1, sha256), parts)
    for machine in ("machine", "never seen anything"):
        with pytest.raises((IntegrityError, NoKeyError)):  # its id is another one, so the key file's wrap does not open
            ready.open(machine=machine)


@pytest.mark.parametrize("what", ["box", "slot", "verify", "listing"])
def test_an_operator_or_storage_cannot_plant_a_key_in_the_keyring(ready: Sandbox, tmp_path: Path, what: str) -> None:
    """Substituted box, slot, signing or listing keys: the generation no longer has the root's signatures."""
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    new_writer(ready, "op", operator=True)
    with ready.open() as repository:
        honest = repository.keyring
    evil = hpke.generate(honest.kem).public()
    signing = SigningKey.generate(post_quantum=True)
    (writer_id, writer), (slot_id, slot) = next(iter(honest.writers.items())), next(iter(honest.slots.items()))
    forged = {
        "box": replace(honest, writers={writer_id: replace(writer, box=evil)}),
        "slot": replace(honest, slots={slot_id: replace(slot, public=evil)}),
        "verify": replace(honest, writers={writer_id: replace(writer, verify=signing.public())}),
        "listing": replace(honest, listing=(evil,)),
    }[what]
    forged = replace(forged, generation=honest.generation + 1, previous=honest.sha256)
    parts, sha256 = keyrings.encode(forged, signing)
    ready.storage().put(keyring_name(forged.generation, sha256), parts)
    with ready.open() as repository:
        assert repository.keyring.sha256 == honest.sha256, "it is ignored"
    assert any("signature" in text or "another repository" in text for text in ready.warnings)


def test_half_a_root_signature_is_none(ready: Sandbox) -> None:
    """Both of the root's signatures must verify: a forger of Ed25519 alone, or of ML-DSA alone, gets nowhere."""
    (name,) = ready.objects("keys")
    data = ready.storage().get(name)
    for position in (len(data) - 3309 - 64, len(data) - 3309):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(IntegrityError, match="signature"):
            keyrings.decode(bytes(broken), name)
    parsed = wire.parse(data, wire.ObjectType.KEYRING, name)
    short = bytearray(data[: -len(parsed.signature) + 64])
    short[10] = 1  # scheme 1: Ed25519 alone
    with pytest.raises(IntegrityError, match="scheme"):
        keyrings.decode(bytes(short), name)


def test_a_forked_keyring_is_an_alarm(ready: Sandbox, tmp_path: Path) -> None:
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    shutil.copytree(ready.location, tmp_path / "fork")
    shutil.copytree(ready.base / "machine", tmp_path / "fork machine")
    with ready.open() as repository:
        rotate(repository, ready.context)
    fork = Sandbox(tmp_path / "elsewhere", line=ready.line)
    shutil.copytree(tmp_path / "fork", fork.location)
    shutil.copytree(tmp_path / "fork machine", fork.base / "machine")
    with fork.open() as repository:
        rotate(repository, fork.context)
    (other,) = set(fork.objects("keys")) - set(ready.objects("keys"))
    ready.storage().put(other, fork.storage().get(other))
    with pytest.raises(HistoryError, match="two valid keyrings"):
        ready.open()
    (mine,) = [name for name in ready.objects("keys") if name.startswith("keys/00000002") and name != other]
    path_of(ready, mine).unlink()
    with pytest.raises(HistoryError, match="not the one this machine has seen"):
        ready.open()


def test_an_identity_beside_a_passphrase_or_key_file_cannot_be_lured_either(sandbox: Sandbox, tmp_path: Path) -> None:
    """The lure is sealed to the user's public identity; the key file, which would prove the id, opens nothing in it."""
    identity = parse_identities((AGE / "pq.identity").read_text())[0]
    sandbox.init(NewSlot(KeyFileSlot(sandbox.line), "master"), NewSlot(AgeSlot(identity.recipient()), "age"))
    lure = Sandbox(tmp_path / "lure", line=generate_key_line())
    lure.init(NewSlot(AgeSlot(identity.recipient()), "age"))
    lure.backup(fill(tmp_path / "evil", {"evil": b"1"}))
    shutil.rmtree(sandbox.location)
    shutil.copytree(lure.location, sandbox.location)
    both = Credentials(key_lines=(sandbox.line,), identities=(identity,))
    for machine in ("machine", "never seen anything"):
        with pytest.raises((NoKeyError, IntegrityError)):
            sandbox.open(both, machine=machine)


def test_a_replaced_readme_is_found(ready: Sandbox) -> None:
    ready.storage().put("README.txt", b"send your key to me", create_only=False)
    report = ready.verify()
    assert [item.object for item in report.findings if item.fatal] == ["README.txt"]


def test_a_junk_wrap_does_not_stop_an_administrator_from_changing_keys(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    ready.backup(source)
    with ready.open() as repository:
        (slot,) = repository.keyring.slots
        (compartment,) = repository.keyring.compartments
    ready.storage().put(f"wraps/{compartment.hex()}/{secrets.token_hex(16)}/{slot.hex()}", b"junk")
    second = generate_key_line()
    with ready.open() as repository:
        add_slot(repository, NewSlot(KeyFileSlot(second), "second"), admin=True, context=ready.context)
        rotate(repository, ready.context)
    ready.line = second
    target = ready.base / "target"
    assert ready.restore("latest", target, machine="elsewhere").problems == ()
    assert (below(target, source) / "a").read_bytes() == b"1"
