"""Slot wraps as objects, and opening a slot with what the user brought (docs/format.md, section 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from keyark.crypto.hpke import PrivateKey, PublicKey
from keyark.crypto.kdf import FIPS_KDF
from keyark.crypto.slots import AgeOpener, KeyFileOpener, PassphraseOpener, SlotBinding, SlotMethod, SlotOpener
from keyark.errors import DamagedError, ForgedError, NoKeyError, ObjectNotFound
from keyark.repository import wire
from keyark.repository.credentials import Credentials
from keyark.repository.keyring import Keyring, Slot
from keyark.repository.names import slot_wrap_name
from keyark.repository.wire import ObjectType, is_bytes, is_map, is_text
from keyark.secret import Secret
from keyark.storage.protocol import Storage

_FIELDS = {"r": is_bytes(32), "k": is_bytes(16), "kind": is_text, "m": is_map}


def encode_slot_wrap(
    method: SlotMethod, private: PrivateKey, public: PublicKey, repository: bytes, slot: bytes
) -> tuple[bytes, bytes]:
    """Wrap a slot's private key; returns the object and its SHA-256, which the keyring records."""
    parameters, wrapped = method.wrap(private.data, SlotBinding(repository, slot, public.data))
    header = {"r": repository, "k": slot, "kind": method.kind, "m": parameters}
    data = wire.encode_head(ObjectType.SLOT_WRAP, 0, 0, header) + wrapped
    return data, hashlib.sha256(data).digest()


def openers(credentials: Credentials) -> list[SlotOpener]:
    """What the user brought, the cheap ones first."""
    found: list[SlotOpener] = [KeyFileOpener(line) for line in credentials.key_lines]
    found += [AgeOpener(identity) for identity in credentials.identities]
    found += [PassphraseOpener(password) for password in credentials.passwords]
    return found


def open_slot(storage: Storage, keyring: Keyring, credentials: Credentials) -> tuple[bytes, PrivateKey]:
    """The first slot that the credentials open, administrators' first. NoKeyError when none does.

    The keyring has been verified to the root before any wrap is looked at.
    """
    brought = openers(credentials)
    damage: DamagedError | None = None
    for name, slot in sorted(keyring.slots.items(), key=lambda item: (not item[1].admin, item[1].created_ns, item[0])):
        fitting = [opener for opener in brought if slot.kind in opener.kinds]
        if not fitting:
            continue
        try:
            private = _open_one(storage, keyring, name, slot, fitting)
        except DamagedError as e:
            damage = e
            continue
        if private is not None:
            return name, private
    if damage is not None:
        raise damage
    kinds = ", ".join(sorted({slot.kind for slot in keyring.slots.values()}))
    raise NoKeyError(f"none of the given keys opens {storage.location}; its slots are of kind: {kinds}")


def _open_one(
    storage: Storage, keyring: Keyring, name: bytes, slot: Slot, fitting: Sequence[SlotOpener]
) -> PrivateKey | None:
    repository = keyring.repository
    where = slot_wrap_name(name)
    try:
        data = storage.get(where)
    except ObjectNotFound as e:
        raise DamagedError(f"{where} is missing: this slot cannot be opened; another slot may") from e
    parsed = wire.parse(data, ObjectType.SLOT_WRAP, where)
    if parsed.sha256 != slot.wrap_sha256:
        raise DamagedError(f"{where}: its bytes are not those that the keyring records")
    header = wire.expect(parsed.header, _FIELDS, where)
    if (header["r"], header["k"], header["kind"]) != (repository, name, slot.kind):
        raise ForgedError(f"{where}: was made for another slot or repository")
    if keyring.fips and header["m"].get("kdf", FIPS_KDF) != FIPS_KDF:
        raise ForgedError(f"{where}: its key derivation is not approved, and this repository's profile is fips")
    for opener in fitting:
        try:
            secret: Secret = opener.unwrap(
                slot.kind, header["m"], parsed.body, SlotBinding(repository, name, slot.public.data)
            )
        except NoKeyError:
            continue
        private = PrivateKey(slot.public.kem, secret)
        if private.public() != slot.public:
            raise ForgedError(f"{where}: holds another key than the keyring says")
        return private
    return None
