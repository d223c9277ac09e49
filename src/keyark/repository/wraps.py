"""Key wraps: private keys sealed to the public keys of slots, writers and operators (docs/format.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

from keyark.crypto.hpke import Kem, PrivateKey, PublicKey, hpke_info, open_sealed, seal_to
from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.errors import ForgedError, ObjectNotFound
from keyark.repository import wire
from keyark.repository.names import compartment_wrap_name, epoch_wrap_name, listing_wrap_name, root_wrap_name
from keyark.repository.wire import ObjectType, is_bytes, optional
from keyark.secret import Secret
from keyark.storage.protocol import Storage

ROOT = "root"
LISTING = "listing"
COMPARTMENT = "compartment"
EPOCH = "epoch"

_FIELDS = {
    "r": is_bytes(32),
    "w": lambda value: value in (ROOT, LISTING, COMPARTMENT, EPOCH),
    "c": optional(is_bytes(16)),
    "i": wire.is_data,
    "k": is_bytes(16),
    "s": optional(is_bytes(16)),
    "p": optional(wire.is_row(lambda kem: kem in (1, 2), wire.is_data)),
}


@dataclass(frozen=True, slots=True)
class WrapPlace:
    """What is wrapped: its kind, compartment (or None) and item id, and hence where its wraps lie."""

    what: str
    compartment: bytes | None
    item: bytes  # root: empty; listing: number u32; compartment: generation u32; epoch: its id

    def name(self, recipient: bytes) -> str:
        if self.what == ROOT:
            return root_wrap_name(recipient)
        if self.what == LISTING:
            return listing_wrap_name(int.from_bytes(self.item, "big"), recipient)
        if self.compartment is None:
            raise ValueError("a compartment's wrap needs the compartment")
        if self.what == COMPARTMENT:
            return compartment_wrap_name(self.compartment, int.from_bytes(self.item, "big"), recipient)
        return epoch_wrap_name(self.compartment, self.item, recipient)

    def info(self, repository: bytes, kem: int) -> bytes:
        return hpke_info(repository, self.compartment or b"", self.item, 0, kem, f"key wrap {self.what}")


def root_place() -> WrapPlace:
    return WrapPlace(ROOT, None, b"")


def listing_place(number: int) -> WrapPlace:
    return WrapPlace(LISTING, None, number.to_bytes(4, "big"))


def compartment_place(compartment: bytes, generation: int) -> WrapPlace:
    return WrapPlace(COMPARTMENT, compartment, generation.to_bytes(4, "big"))


def epoch_place(compartment: bytes, epoch: bytes) -> WrapPlace:
    return WrapPlace(EPOCH, compartment, epoch)


def write_wrap(
    storage: Storage,
    repository: bytes,
    place: WrapPlace,
    recipient: tuple[bytes, PublicKey],
    secret: Secret,
    signer: tuple[bytes | None, SigningKey],
    public: PublicKey | None = None,
    *,
    create_only: bool = False,
) -> bytes:
    """Seal ``secret`` to the recipient, sign (by the root when the signer's id is None) and store; returns the object."""
    name, key = recipient
    header = {
        "r": repository,
        "w": place.what,
        "c": place.compartment,
        "i": place.item,
        "k": name,
        "s": signer[0],
        "p": None if public is None else [int(public.kem), public.data],
    }
    sealed = seal_to(key, secret.reveal(), place.info(repository, int(key.kem)))
    parts, _ = wire.sign_object(ObjectType.KEY_WRAP, 0, header, [sealed], signer[1], repository)
    storage.put(place.name(name), parts, create_only=create_only)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Wrap:
    """A wrap whose signature has verified."""

    signer: bytes | None  # None: the root
    public: PublicKey | None
    sealed: bytes


def check_wrap(data: bytes, place: WrapPlace, recipient: bytes, repository: bytes, signers: SignerLookup) -> Wrap:
    """Verify that a wrap is what its place says and that somebody who may has signed it."""
    name = place.name(recipient)
    parsed = wire.parse(data, ObjectType.KEY_WRAP, name)
    header = wire.expect(parsed.header, _FIELDS, name)
    bound = (header["r"], header["w"], header["c"], header["i"], header["k"])
    if bound != (repository, place.what, place.compartment, place.item, recipient):
        raise ForgedError(f"{name}: was made for another place or recipient")
    key = signers(header["s"], place)
    if key is None:
        raise ForgedError(f"{name}: signed by somebody who may not")
    wire.verify(parsed, key, repository, name)
    public = header["p"]
    return Wrap(header["s"], None if public is None else PublicKey(Kem(public[0]), public[1]), parsed.body)


class SignerLookup:
    """Who may sign wraps: the root everything, a writer the epochs of its own compartment."""

    def __init__(self, root: VerifyKey, writers: dict[bytes, tuple[VerifyKey, bytes]]) -> None:
        self._root = root
        self._writers = writers

    def __call__(self, signer: bytes | None, place: WrapPlace) -> VerifyKey | None:
        if signer is None:
            return self._root
        if place.what != EPOCH or signer not in self._writers:
            return None
        key, compartment = self._writers[signer]
        return key if compartment == place.compartment else None


def open_wrap(
    storage: Storage,
    repository: bytes,
    place: WrapPlace,
    recipient: tuple[bytes, PrivateKey],
    signers: SignerLookup,
) -> tuple[Secret, Wrap] | None:
    """Fetch, verify and open a wrap; None when there is none for this recipient."""
    name, key = recipient
    try:
        data = storage.get(place.name(name))
    except ObjectNotFound:
        return None
    wrap = check_wrap(data, place, name, repository, signers)
    return Secret(open_sealed(key, wrap.sealed, place.info(repository, int(key.kem)))), wrap
