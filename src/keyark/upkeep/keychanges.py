"""Changing who may read and write: the pieces that slots, writers and rotation share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from keyark.crypto import hpke
from keyark.crypto.hpke import PublicKey
from keyark.crypto.signing import SigningKey
from keyark.errors import ConflictError, IntegrityError, NoKeyError, ObjectExists, ObjectNotFound, StorageError
from keyark.repository import readme
from keyark.repository.create import new_compartment_keys
from keyark.repository.generations import publish, refuse_rivals
from keyark.repository.keyring import Compartment, Keyring, Slot, Writer
from keyark.repository.names import parse_name
from keyark.repository.repository import Repository
from keyark.repository.wire import ObjectType
from keyark.repository.wraps import (
    WrapPlace,
    compartment_place,
    epoch_place,
    listing_place,
    root_place,
    write_wrap,
)
from keyark.secret import Secret

Recipient = tuple[bytes, PublicKey]


@dataclass(slots=True)
class KeyChange:
    """One change of the keyring under way: wraps are written first, the new generation last."""

    repository: Repository
    root: SigningKey
    draft: Keyring
    listing: dict[int, Secret] = field(default_factory=dict)  # new listing keys, not yet in the current keyring
    fresh: dict[str, bytes] = field(default_factory=dict)  # wraps of keys with new numbers: name -> what we stored

    @classmethod
    def begin(cls, repository: Repository, what: str) -> KeyChange:
        """Start a change; NotAllowedError without an administrator's key."""
        root = repository.keys.root(what)
        keyring = repository.keyring
        return cls(repository, root, keyring.next(repository.context.clock.now_ns()))

    def publish(self) -> Keyring:
        """Sign and store the generation; it becomes the one this process works under.

        It records this version's README and reader, so that old repositories get them; they are stored after it, so that a crash in
        between leaves files that an earlier generation records. A storage that refuses to overwrite them is only warned about.
        """
        storage, warn = self.repository.storage, self.repository.context.warn
        if self._overwritten():
            raise ConflictError("another administrator is changing keys at this instant; run the command again")
        keyring = publish(storage, readme.renewed(self.draft), self.root)
        if keyring.reader_sha256 is not None and keyring.reader_sha256 != self.draft.reader_sha256:
            warn(
                f"this version's recover.py goes into the repository; write its SHA-256 down: {keyring.reader_sha256.hex()}"
            )
        try:
            readme.store(storage, self.repository.id)
        except StorageError as e:
            warn(f"README.txt and recover.py could not be renewed: {e}")
        self.repository.adopt_keyring(keyring)
        for name in self._overwritten():  # by one who began before we published, and will be refused
            storage.put(name, self.fresh[name], create_only=False)
        return keyring

    def _overwritten(self) -> list[str]:
        """New wraps that are not what we stored."""
        found = []
        for name, data in self.fresh.items():
            try:
                same = self.repository.storage.get(name) == data
            except (ObjectNotFound, IntegrityError):
                same = False
            if not same:
                found.append(name)
        return found

    def _wrap_fresh(self, place: WrapPlace, recipient: Recipient, secret: Secret) -> None:
        """Wrap a key under a number that the keyring does not have yet.

        What lies there was left by a change that was interrupted, or is another administrator's, whose change may stand by now:
        then ours is too late, and nothing of his may be overwritten.
        """
        storage, repository, signer = self.repository.storage, self.repository.id, (None, self.root)
        try:
            data = write_wrap(storage, repository, place, recipient, secret, signer, create_only=True)
        except ObjectExists:
            refuse_rivals(storage, self.draft)
            data = write_wrap(storage, repository, place, recipient, secret, signer)
        self.fresh[place.name(recipient[0])] = data

    def wrap(self, place: WrapPlace, recipient: Recipient, secret: Secret, public: PublicKey | None = None) -> None:
        write_wrap(self.repository.storage, self.repository.id, place, recipient, secret, (None, self.root), public)

    # -- what one recipient may open -------------------------------------------------------------------------------

    def give_root(self, recipient: Recipient) -> None:
        self.wrap(root_place(), recipient, self.root.seed())

    def give_listing(self, recipient: Recipient) -> None:
        """Every listing key, so that old snapshots stay listable."""
        for number in range(1, len(self.draft.listing) + 1):
            secret = self.listing.get(number) or self.repository.keys.listing(number).data
            self.wrap(listing_place(number), recipient, secret)

    def give_compartment(self, recipient: Recipient, compartment: bytes) -> None:
        """Every generation of a compartment's id and index keys."""
        for number in range(1, self.repository.keyring.compartments[compartment].generation + 1):
            keys = self.repository.keys.compartment(compartment, number)
            self.wrap(compartment_place(compartment, number), recipient, keys.pair())

    def give_epochs(self, recipient: Recipient, compartment: bytes) -> int:
        """Every epoch that our own slot opens; returns how many were sealed anew."""
        own = self.repository.keys.slot
        if own is None:
            raise NoKeyError("re-wrapping epochs needs a key that reads")
        count = 0
        present: dict[bytes, set[bytes]] = {}
        for info in self.repository.storage.list(f"wraps/{compartment.hex()}/"):
            name = parse_name(info.name)
            if name is None or name.type is not ObjectType.KEY_WRAP or name.item is None or name.recipient is None:
                continue
            if not name.item.startswith("keys-"):
                present.setdefault(bytes.fromhex(name.item), set()).add(name.recipient)
        for epoch, recipients in present.items():
            if recipient[0] in recipients or own[0] not in recipients:
                continue
            try:
                private = self.repository.keys.any_epoch(compartment, epoch)
            except IntegrityError as e:  # whoever may write to the storage must not be able to stop key changes
                self.repository.context.warn(f"{e}; it was not sealed to {recipient[0].hex()[:8]}")
                continue
            self.wrap(epoch_place(compartment, epoch), recipient, private.data, private.public())
            count += 1
        return count

    # -- new keys --------------------------------------------------------------------------------------------------

    def renew_listing(self) -> None:
        """A new listing key for what comes; sealed to all slots and operators of the draft."""
        key = hpke.generate(self.draft.kem)
        number = len(self.draft.listing) + 1
        self.listing[number] = key.data
        self.draft = replace(self.draft, listing=(*self.draft.listing, key.public()))
        recipients: dict[bytes, PublicKey] = {name: slot.public for name, slot in self.draft.slots.items()}
        recipients |= {name: item.box for name, item in self.draft.operators.items() if not item.revoked}
        for recipient in recipients.items():
            self._wrap_fresh(listing_place(number), recipient, key.data)

    def renew_compartment(self, compartment: bytes) -> None:
        """New id and index keys for what comes; sealed to the compartment's slots and writers of the draft."""
        current = self.draft.compartments[compartment]
        number, keys = current.generation + 1, new_compartment_keys()
        for recipient in self.holders(compartment).items():
            self._wrap_fresh(compartment_place(compartment, number), recipient, keys)
        updated = Compartment(number, current.label, current.erasable)
        self.draft = replace(self.draft, compartments={**self.draft.compartments, compartment: updated})

    def holders(self, compartment: bytes) -> Mapping[bytes, PublicKey]:
        """Slots and standing writers of a compartment in the draft."""
        slots: dict[bytes, Slot] = self.draft.slots_of(compartment)
        writers: Mapping[bytes, Writer] = self.draft.writers
        found = {name: slot.public for name, slot in slots.items()}
        found |= {
            name: item.box for name, item in writers.items() if item.compartment == compartment and item.revoked is None
        }
        return found
