"""Who may read: listing, adding and removing slots, and rotating keys."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from keyark.errors import NotAllowedError, NotFoundError, ObjectNotFound, StorageDenied, UsageError
from keyark.operation import Context
from keyark.repository.create import NewSlot, make_slot
from keyark.repository.keyring import Slot
from keyark.repository.names import parse_name, slot_wrap_name
from keyark.repository.repository import Repository
from keyark.upkeep.keychanges import KeyChange
from keyark.upkeep.model import ResealReport, SlotInfo
from keyark.upkeep.reseal import reseal_packs, reseal_under_way

SHARED_FOREVER = (
    "what the removed key opened before stays readable to whoever has both it and a copy of the repository from before; "
    "new backups are sealed without it"
)
ROOT_SHARED_FOREVER = (
    "; it was an administrator's key: whoever kept it and a copy of its wraps also holds the root key, which cannot be changed. "
    "If it may be in wrong hands, make a new repository"
)


@dataclass(frozen=True, slots=True)
class RotateReport:
    """What `key rotate` did."""

    compartments: int
    epochs: int  # epochs that were sealed anew to slots that lacked them
    resealed: ResealReport | None = None


def list_slots(repository: Repository) -> list[SlotInfo]:
    """All slots, weakest first."""
    found = [_info(repository, name, slot) for name, slot in repository.keyring.slots.items()]
    return sorted(found, key=lambda item: (item.warning is None, item.created_ns, item.id))


def _info(repository: Repository, name: bytes, slot: Slot) -> SlotInfo:
    own = repository.keys.slot
    return SlotInfo(
        id=name.hex(),
        kind=slot.kind,
        label=repository.keys.label(slot.label),
        admin=slot.admin,
        post_quantum=slot.post_quantum,
        created_ns=slot.created_ns,
        strength=slot.strength,
        warning=slot_warning(slot),
        opened=own is not None and own[0] == name,
    )


def slot_warning(slot: Slot) -> str | None:
    """What is weak about a slot, from what the keyring records."""
    if not slot.post_quantum:
        return "does not withstand a quantum computer"
    if slot.strength.startswith("PBKDF2-SHA256, "):
        count = int(slot.strength.removeprefix("PBKDF2-SHA256, ").split(" ")[0].replace(",", ""))
        if count < 600_000:
            return "fewer iterations than the 600,000 of the OWASP Password Storage Cheat Sheet"
    return None


def add_slot(repository: Repository, slot: NewSlot, *, admin: bool, context: Context) -> SlotInfo:
    """Add a way of reading: everything that our own slot opens is sealed to the new one, old epochs included."""
    context.recorder.before("key add", {"kind": slot.method.kind})
    keyring = repository.keyring
    if keyring.policies.get("require_pq") and not slot.method.post_quantum:
        raise NotAllowedError(
            f"this repository requires post-quantum keys, and one of kind {slot.method.kind} is classical; it was not added"
        )
    if keyring.fips and not slot.method.approved:
        raise UsageError(f"this repository's profile is fips, which does not allow slots of kind {slot.method.kind}")
    change = KeyChange.begin(repository, "add a key")
    listing = (keyring.listing_number, keyring.listing[-1])
    now = context.clock.now_ns()
    made = make_slot(slot, repository.id, keyring.kem, listing, now, admin=admin)
    recipient = (made.id, made.record.public)
    repository.storage.put(slot_wrap_name(made.id), made.wrap)
    if admin:
        change.give_root(recipient)
    change.give_listing(recipient)
    for compartment in keyring.compartments:
        change.give_compartment(recipient, compartment)
        change.give_epochs(recipient, compartment)
    change.draft = replace(change.draft, slots={**keyring.slots, made.id: made.record})
    published = change.publish()
    for compartment in keyring.compartments:  # epochs that a writer made meanwhile, under the generation before
        change.give_epochs(recipient, compartment)
    context.recorder.after("key add", {"slot": made.id.hex()}, None)
    return _info(repository, made.id, published.slots[made.id])


def find_slot(repository: Repository, text: str) -> tuple[bytes, Slot]:
    """The slot that an id prefix or a label means."""
    slots = repository.keyring.slots
    found = [name for name in slots if name.hex().startswith(text.lower())] if text else []
    if not found:
        found = [name for name, slot in slots.items() if repository.keys.label(slot.label) == text]
    if not found:
        raise NotFoundError(f"no key {text!r}; `keyark key list` shows them")
    if len(found) > 1:
        raise UsageError(f"{text!r} fits {len(found)} keys; give more of the id")
    return found[0], slots[found[0]]


def remove_slot(repository: Repository, text: str, context: Context) -> str:
    """Remove a slot, and change listing, id and index keys for what comes; returns what removal does not undo."""
    context.recorder.before("key remove", {})
    name, slot = find_slot(repository, text)
    keyring = repository.keyring
    rest = {key: item for key, item in keyring.slots.items() if key != name}
    if not rest:
        raise UsageError("this is the only key; add another before removing it")
    if not any(item.admin for item in rest.values()):
        raise UsageError("this is the only administrator's key; add another with --admin before removing it")
    change = KeyChange.begin(repository, "remove a key")
    change.draft = replace(change.draft, slots=rest)
    change.renew_listing()
    for compartment in keyring.compartments:
        if slot.opens(compartment):
            change.renew_compartment(compartment)
    change.publish()
    _delete_wraps(repository, name)
    context.recorder.after("key remove", {"slot": name.hex()}, None)
    return SHARED_FOREVER + (ROOT_SHARED_FOREVER if slot.admin else "")


def _delete_wraps(repository: Repository, recipient: bytes) -> None:
    """Delete what was sealed to a removed slot. A storage that refuses keeps them; they are not trusted any more."""
    for info in list(repository.storage.list("wraps/")):
        parsed = parse_name(info.name)
        if parsed is not None and parsed.recipient == recipient:
            with contextlib.suppress(ObjectNotFound, StorageDenied):
                repository.storage.delete(info.name)


def rotate(repository: Repository, context: Context, *, reseal: bool = False) -> RotateReport:
    """New listing, id and index keys, and a new epoch at every writer's next backup. Nothing stored is rewritten.

    Chunk ids change with the id keys, so what the next backups store is stored once more. With ``reseal`` the packs that
    snapshots rest on are written again under new data keys; where an earlier re-sealing was interrupted it is only completed.
    """
    context.recorder.before("key rotate", {"reseal": reseal})
    if reseal and reseal_under_way(repository):
        context.warn("completing the re-sealing that was interrupted; the keys were changed then")
        done = reseal_packs(repository, context)
        context.recorder.after("key rotate", {"packs": done.packs}, None)
        return RotateReport(0, 0, done)
    keyring = repository.keyring
    change = KeyChange.begin(repository, "rotate keys")
    change.renew_listing()
    for compartment in keyring.compartments:
        change.renew_compartment(compartment)
    published = change.publish()
    epochs = 0
    for compartment in published.compartments:
        for name, slot in published.slots_of(compartment).items():
            epochs += change.give_epochs((name, slot.public), compartment)
    again = reseal_packs(repository, context) if reseal else None
    context.recorder.after("key rotate", {"compartments": len(published.compartments)}, None)
    return RotateReport(len(published.compartments), epochs, again)
