"""Verifying what opens a repository: keyring generations, README and reader, slot wraps and key wraps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from keyark.errors import DamagedError, IntegrityError, ObjectNotFound
from keyark.repository import names, readme
from keyark.repository.names import ObjectName, parse_name
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot
from keyark.repository.wire import ObjectType
from keyark.repository.wraps import (
    WrapPlace,
    check_wrap,
    compartment_place,
    epoch_place,
    listing_place,
    root_place,
)
from keyark.upkeep.findings import Findings


def check_keyring(repository: Repository, findings: Findings) -> None:
    """Rejected generations, and the two plain files whose hashes the keyring records."""
    for name, what in repository.generations.rejected:
        findings.bad(name, what)
    for name, what, fatal in readme.judge(repository.storage, repository.generations.chain):
        (findings.bad if fatal else findings.note)(name, what)


def check_wraps(repository: Repository, snapshots: Iterable[Snapshot], findings: Findings) -> None:
    """Every wrap's binding and signature, and that none is missing that a current slot, writer or operator needs."""
    present: dict[str, ObjectName] = {}
    for info in repository.storage.list("wraps/"):
        parsed = parse_name(info.name)
        if parsed is not None:  # names that are none are found by the sweep over all names
            present[info.name] = parsed
    for parsed in present.values():
        if parsed.type is ObjectType.SLOT_WRAP:
            _check_slot_wrap(repository, parsed, findings)
        else:
            _check_key_wrap(repository, parsed, findings)
    for name, what in _needed(repository):
        if name not in present:
            findings.bad(name, f"{name} is missing: {what}")
    _check_epochs(repository, snapshots, present, findings)


def _check_slot_wrap(repository: Repository, name: ObjectName, findings: Findings) -> None:
    slot = repository.keyring.slots.get(name.recipient or b"")
    if slot is None:
        findings.note(name.text, f"{name.text}: of a slot that was removed, or whose making was interrupted")
        return
    try:
        data = repository.storage.get(name.text)
    except ObjectNotFound:
        return
    except DamagedError as e:
        findings.bad(name.text, str(e))
        return
    if hashlib.sha256(data).digest() != slot.wrap_sha256:
        findings.bad(name.text, f"{name.text}: its bytes are not those that the keyring records")


def place_of(name: ObjectName) -> WrapPlace:
    """The place that a key wrap's name stands for."""
    item = name.item or ""
    if name.group == "root":
        return root_place()
    if name.group == "listing":
        return listing_place(int(item))
    compartment = bytes.fromhex(name.group or "")
    if item.startswith("keys-"):
        return compartment_place(compartment, int(item.removeprefix("keys-")))
    return epoch_place(compartment, bytes.fromhex(item))


def _check_key_wrap(repository: Repository, name: ObjectName, findings: Findings) -> None:
    keyring = repository.keyring
    recipient = name.recipient or b""
    try:
        place = place_of(name)
    except ValueError:
        findings.bad(name.text, f"{name.text}: not the name of a key wrap")
        return
    if place.name(recipient) != name.text:
        findings.bad(name.text, f"{name.text}: not the name of a key wrap")
        return
    try:
        data = repository.storage.get(name.text)
        check_wrap(data, place, recipient, repository.id, repository.keys.signers())
    except ObjectNotFound:
        return
    except IntegrityError as e:
        findings.bad(name.text, str(e))
        return
    if recipient not in keyring.slots and recipient not in keyring.writers and recipient not in keyring.operators:
        findings.note(name.text, f"{name.text}: sealed to somebody who was removed, or whose making was interrupted")


def _needed(repository: Repository) -> Iterable[tuple[str, str]]:
    keyring = repository.keyring
    for slot, record in keyring.slots.items():
        yield names.slot_wrap_name(slot), f"slot {slot.hex()[:8]} cannot be opened"
        if record.admin:
            yield names.root_wrap_name(slot), f"slot {slot.hex()[:8]} cannot administer"
    operators = [name for name, item in keyring.operators.items() if not item.revoked]
    for recipient in [*keyring.slots, *operators]:
        for number in range(1, len(keyring.listing) + 1):
            yield names.listing_wrap_name(number, recipient), f"{recipient.hex()[:8]} cannot list all snapshots"
    for compartment, item in keyring.compartments.items():
        writers = [
            name
            for name, writer in keyring.writers.items()
            if writer.compartment == compartment and writer.revoked is None
        ]
        for slot in keyring.slots_of(compartment):
            for number in range(1, item.generation + 1):
                name = names.compartment_wrap_name(compartment, number, slot)
                yield name, f"slot {slot.hex()[:8]} cannot resolve all chunks"
        for writer in writers:
            name = names.compartment_wrap_name(compartment, item.generation, writer)
            yield name, f"writer {writer.hex()[:8]} cannot add snapshots"


def check_pack_epochs(
    repository: Repository, epochs: Mapping[tuple[bytes, bytes], Iterable[bytes]], findings: Findings
) -> None:
    """Each epoch that packs are sealed to must be sealed to every current slot: packs outlive the snapshots of their epoch."""
    for (compartment, epoch), packs in epochs.items():
        present = {info.name for info in repository.storage.list(f"wraps/{compartment.hex()}/{epoch.hex()}/")}
        for slot in repository.keyring.slots_of(compartment):
            name = names.epoch_wrap_name(compartment, epoch, slot)
            if name not in present:
                count = len(list(packs))
                findings.bad(
                    name, f"{name} is missing: slot {slot.hex()[:8]} cannot read {count} packs sealed under it"
                )


def _check_epochs(
    repository: Repository, snapshots: Iterable[Snapshot], present: dict[str, ObjectName], findings: Findings
) -> None:
    """Each snapshot's epoch must be sealed to every current slot of its compartment."""
    for snapshot in snapshots:
        compartment, epoch = snapshot.head.compartment, snapshot.head.epoch
        for slot in repository.keyring.slots_of(compartment):
            name = names.epoch_wrap_name(compartment, epoch, slot)
            if name not in present:
                findings.bad(name, f"{name} is missing: slot {slot.hex()[:8]} cannot read what was sealed under it")
            if name in findings.fatal:
                findings.touches(name, snapshot.id)
