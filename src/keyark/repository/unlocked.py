"""The keys that the credentials at hand open, opened one by one when they are first needed.

Three capabilities, three credentials: a slot reads (and, if it is an administrator's, signs as the root), an operator
lists and marks, a writer adds. Asking for more than the credential gives is NotAllowedError; having none is NoKeyError.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyark.crypto.hpke import Kem, PrivateKey
from keyark.crypto.signing import SigningKey
from keyark.errors import DamagedError, ForgedError, IntegrityError, NoKeyError, NotAllowedError
from keyark.repository.credentials import Credential
from keyark.repository.epochs import epoch_id
from keyark.repository.keyring import FIPS_KEMS, Keyring
from keyark.repository.wraps import (
    SignerLookup,
    Wrap,
    WrapPlace,
    compartment_place,
    epoch_place,
    listing_place,
    open_wrap,
    root_place,
)
from keyark.secret import Secret
from keyark.storage.protocol import Storage


@dataclass(frozen=True, slots=True)
class CompartmentKeys:
    """What deduplication in one compartment needs."""

    generation: int
    id_key: Secret
    index_key: Secret

    def pair(self) -> Secret:
        """Both keys as they are wrapped: id key, then index key."""
        return Secret(self.id_key.reveal() + self.index_key.reveal())


class Unlocked:
    """The keys of one run."""

    def __init__(
        self,
        storage: Storage,
        keyring: Keyring,
        slot: tuple[bytes, PrivateKey] | None,
        writer: Credential | None,
        operator: Credential | None,
    ) -> None:
        self._storage = storage
        self.keyring = keyring
        self.repository = keyring.repository
        self.slot = slot
        self.writer = writer
        self.operator = operator
        self._root: SigningKey | None = None
        self._listing: dict[int, PrivateKey] = {}
        self._compartments: dict[tuple[bytes, int], CompartmentKeys] = {}
        self._epochs: dict[tuple[bytes, bytes], tuple[PrivateKey, bytes | None]] = {}

    # -- what may be done ------------------------------------------------------------------------------------------

    @property
    def can_read(self) -> bool:
        return self.slot is not None

    @property
    def can_list(self) -> bool:
        return self.slot is not None or self.operator is not None

    @property
    def can_mark(self) -> bool:
        return self.is_admin or self.operator is not None

    @property
    def is_admin(self) -> bool:
        return self.slot is not None and self.keyring.slots[self.slot[0]].admin

    def refuse(self, what: str, needs: str) -> NoKeyError | NotAllowedError:
        """The error for asking too much: names what was asked and what it needs."""
        if self.slot is not None:
            return NotAllowedError(f"this key may read, but not {what}; that needs {needs}")
        if self.operator is not None:
            return NotAllowedError(f"an operator's credential may not {what}; that needs {needs}")
        if self.writer is not None:
            return NotAllowedError(f"a writer's credential may not {what}; that needs {needs}")
        return NoKeyError(f"no key was given to {what}; give --key-file, --password-file or --identity")

    # -- opening ---------------------------------------------------------------------------------------------------

    def signers(self) -> SignerLookup:
        """Who may sign key wraps under this keyring."""
        return SignerLookup(
            self.keyring.root, {name: (item.verify, item.compartment) for name, item in self.keyring.writers.items()}
        )

    def _open(self, place: WrapPlace, recipient: tuple[bytes, PrivateKey]) -> tuple[Secret, Wrap] | None:
        return open_wrap(self._storage, self.repository, place, recipient, self.signers())

    def root(self, what: str = "administer the repository") -> SigningKey:
        """The root signing key; only an administrator's slot opens it."""
        if not self.is_admin or self.slot is None:
            raise self.refuse(what, "an administrator's key")
        if self._root is None:
            place = root_place()
            opened = self._open(place, self.slot)
            if opened is None:
                raise DamagedError(f"{place.name(self.slot[0])} is missing: this slot cannot open the root key")
            key = SigningKey.from_seed(opened[0])
            if key.public() != self.keyring.root:
                raise ForgedError(f"{place.name(self.slot[0])}: holds another root key")
            self._root = key
        return self._root

    def marker(self, what: str) -> tuple[bytes | None, SigningKey]:
        """Who signs marks: the operator at hand, or the root (signer id None)."""
        if self.operator is not None:
            return self.operator.id, self.operator.signing
        if self.is_admin:
            return None, self.root(what)
        raise self.refuse(what, "an operator's credential or an administrator's key")

    def listing(self, number: int, what: str = "list snapshots") -> PrivateKey:
        """The private listing key of one generation."""
        if number not in self._listing:
            recipient = self.slot or (None if self.operator is None else (self.operator.id, self.operator.box))
            if recipient is None:
                raise self.refuse(what, "an operator's credential or a key that reads")
            if not 1 <= number <= len(self.keyring.listing):
                raise ForgedError(f"listing key {number} is not in the keyring")
            place = listing_place(number)
            opened = self._open(place, recipient)
            if opened is None:
                raise NoKeyError(
                    f"the key at hand was never given listing key {number}; `key rotate` by an administrator"
                )
            key = PrivateKey(self.keyring.listing[number - 1].kem, opened[0])
            if key.public() != self.keyring.listing[number - 1]:
                raise ForgedError(f"{place.name(recipient[0])}: holds another listing key")
            self._listing[number] = key
        return self._listing[number]

    def compartment(self, compartment: bytes, generation: int) -> CompartmentKeys:
        """Id key and index key of one compartment."""
        key = (compartment, generation)
        if key not in self._compartments:
            recipients = [] if self.slot is None else [self.slot]
            if self.writer is not None and self.writer.compartment == compartment:
                recipients.append((self.writer.id, self.writer.box))
            if not recipients:
                raise self.refuse("open the index", "a writer's credential of that compartment or a key that reads")
            self._compartments[key] = self._open_compartment(compartment, generation, recipients)
        return self._compartments[key]

    def _open_compartment(
        self, compartment: bytes, generation: int, recipients: list[tuple[bytes, PrivateKey]]
    ) -> CompartmentKeys:
        place = compartment_place(compartment, generation)
        for recipient in recipients:
            opened = self._open(place, recipient)
            if opened is None:
                continue
            secret = opened[0].reveal()
            if len(secret) != 64:
                raise DamagedError(f"{place.name(recipient[0])}: holds no pair of keys")
            return CompartmentKeys(generation, Secret(secret[:32]), Secret(secret[32:]))
        raise NoKeyError(f"the key at hand does not open compartment {compartment.hex()[:12]}, keys {generation}")

    def epoch(self, compartment: bytes, epoch: bytes, writer: bytes | None) -> PrivateKey:
        """The private key of an epoch; only a slot opens it.

        ForgedError unless the epoch was made by ``writer`` (None: the root), or sealed anew by the root.
        """
        private, signer = self._epoch(compartment, epoch)
        if signer not in (None, writer):
            raise ForgedError(f"epoch {epoch.hex()[:12]}: was not made by the writer that uses it")
        return private

    def any_epoch(self, compartment: bytes, epoch: bytes) -> PrivateKey:
        """The private key of an epoch, whoever of the compartment's writers made it; for sealing it to further slots."""
        return self._epoch(compartment, epoch)[0]

    def _epoch(self, compartment: bytes, epoch: bytes) -> tuple[PrivateKey, bytes | None]:
        key = (compartment, epoch)
        if key not in self._epochs:
            if self.slot is None:
                raise self.refuse("read content", "a key that reads: --key-file, --password-file or --identity")
            place = epoch_place(compartment, epoch)
            opened = self._open(place, self.slot)
            if opened is None:
                own = self.keyring.slots.get(self.slot[0])
                if own is not None and own.opens(compartment):  # every epoch of its compartments is sealed to it
                    raise DamagedError(f"{place.name(self.slot[0])} is missing: this key cannot open what it seals")
                raise NoKeyError(
                    f"this key does not open epoch {epoch.hex()[:12]} of compartment {compartment.hex()[:12]}"
                )
            secret, wrap = opened
            if wrap.public is None:
                raise ForgedError(f"{place.name(self.slot[0])}: names no public key")
            if self.keyring.fips and wrap.public.kem not in FIPS_KEMS:
                raise ForgedError(f"{place.name(self.slot[0])}: its method is not approved, and the profile is fips")
            private = PrivateKey(Kem(wrap.public.kem), secret)
            if private.public() != wrap.public or epoch_id(wrap.public) != epoch:
                raise ForgedError(f"{place.name(self.slot[0])}: holds another key than its epoch says")
            self._epochs[key] = (private, wrap.signer)
        return self._epochs[key]

    def label(self, sealed: bytes) -> str | None:
        """A sealed label, or None when the listing key is not at hand or does not open it."""
        from keyark.repository.labels import open_label

        if not self.can_list:
            return None
        try:
            return open_label(self, sealed)
        except (IntegrityError, NoKeyError):
            return None
