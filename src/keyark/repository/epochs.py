"""Epochs: key pairs that a writer makes, seals to every slot of its compartment, and forgets (docs/format.md, section 5)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from keyark.clock import Clock
from keyark.crypto.hpke import Kem, PublicKey, generate
from keyark.errors import NotAllowedError
from keyark.repository.credentials import Credential
from keyark.repository.keyring import Keyring
from keyark.repository.names import parse_name
from keyark.repository.places import RepositoryState
from keyark.repository.wraps import epoch_place, write_wrap
from keyark.storage.protocol import Storage

_DAY_NS = 24 * 3600 * 10**9


def epoch_id(public: PublicKey) -> bytes:
    """An epoch's id: the first 16 bytes of SHA-256 over its KEM and public key."""
    return hashlib.sha256(bytes([int(public.kem)]) + public.data).digest()[:16]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The public half, all that a writer keeps."""

    id: bytes
    public: PublicKey


def current_epoch(
    storage: Storage, keyring: Keyring, writer: Credential, state: RepositoryState, clock: Clock
) -> Epoch:
    """The writer's epoch: the stored one while it is young and every slot of the compartment opens it, else a new one."""
    compartment = writer.compartment
    if compartment is None:
        raise NotAllowedError("an operator's credential cannot write")
    slots = keyring.slots_of(compartment)
    if not slots:
        raise NotAllowedError(f"compartment {compartment.hex()[:12]} has no slot: nobody could read this backup")
    stored = _stored(state, keyring, writer, clock)
    if stored is not None and _wrapped_for(storage, compartment, stored.id) >= set(slots):
        return stored
    private = generate(keyring.kem)
    public = private.public()
    epoch = Epoch(epoch_id(public), public)
    for name, slot in slots.items():
        write_wrap(
            storage,
            keyring.repository,
            epoch_place(compartment, epoch.id),
            (name, slot.public),
            private.data,
            (writer.id, writer.signing),
            public,
        )
    state.write_epoch(
        writer.id,
        {
            "kem": int(public.kem),
            "public": public.data.hex(),
            "created_ns": clock.now_ns(),
            "slots": sorted(name.hex() for name in slots),
            "generation": keyring.compartments[compartment].generation,
        },
    )
    return epoch


def _stored(state: RepositoryState, keyring: Keyring, writer: Credential, clock: Clock) -> Epoch | None:
    value = state.read_epoch(writer.id)
    if value is None or writer.compartment is None:
        return None
    slots = sorted(name.hex() for name in keyring.slots_of(writer.compartment))
    try:
        age = clock.now_ns() - int(value["created_ns"])
        if value["slots"] != slots or value["kem"] != int(keyring.kem):
            return None
        if value["generation"] != keyring.compartments[writer.compartment].generation:
            return None  # keys were rotated
        public = PublicKey(Kem(value["kem"]), bytes.fromhex(value["public"]))
    except (KeyError, TypeError, ValueError):
        return None
    if not 0 <= age < keyring.epoch_days * _DAY_NS:
        return None
    return Epoch(epoch_id(public), public)


def _wrapped_for(storage: Storage, compartment: bytes, epoch: bytes) -> set[bytes]:
    found = set()
    for info in storage.list(f"wraps/{compartment.hex()}/{epoch.hex()}/"):
        name = parse_name(info.name)
        if name is not None and name.recipient is not None:
            found.add(name.recipient)
    return found
