"""Making a repository, and the facts that go into its first keyring (docs/format.md, sections 3 to 5)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from keyark.crypto import hpke
from keyark.crypto.hpke import Kem, PrivateKey
from keyark.crypto.signing import SigningKey
from keyark.crypto.slots import SlotMethod
from keyark.crypto.suites import FIPS_SUITES, Suite, suite_by_name
from keyark.errors import UsageError
from keyark.operation import Context
from keyark.repository import names, readme
from keyark.repository.credentials import WRITER, Credential, save_credential
from keyark.repository.generations import publish
from keyark.repository.keyring import ID_BLAKE3, ID_HMAC, Compartment, Keyring, Slot, Writer, repository_id
from keyark.repository.labels import seal_label
from keyark.repository.names import parse_name
from keyark.repository.places import Places
from keyark.repository.slotwraps import encode_slot_wrap
from keyark.repository.wraps import compartment_place, listing_place, root_place, write_wrap
from keyark.secret import Secret
from keyark.storage.protocol import Storage

DEFAULT_COMPARTMENT_LABEL = "default"


@dataclass(frozen=True, slots=True)
class NewSlot:
    """A slot to be made."""

    method: SlotMethod
    label: str


@dataclass(frozen=True, slots=True)
class InitRequest:
    """A repository to be made. ``profile`` is ``default`` or ``fips``; ``suite`` is a name as in the configuration."""

    slots: tuple[NewSlot, ...]
    accept_single_key: bool = False
    profile: str = "default"
    suite: str | None = None
    hostname: str = ""
    post_quantum_signatures: bool = False


@dataclass(frozen=True, slots=True)
class MadeSlot:
    """A slot that was made."""

    id: str
    kind: str
    label: str
    strength: str
    warning: str | None
    post_quantum: bool


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `init` made. The id and ``reader_sha256`` belong on the recovery sheet."""

    repository_id: str
    location: str
    slots: tuple[MadeSlot, ...]
    writer_id: str
    readme_sha256: str
    reader_sha256: str
    profile: str
    suite: str


@dataclass(frozen=True, slots=True)
class SlotKeys:
    """A slot under construction."""

    id: bytes
    private: PrivateKey
    record: Slot
    wrap: bytes


def make_slot(
    slot: NewSlot, repository: bytes, kem: Kem, listing: tuple[int, hpke.PublicKey], created_ns: int, *, admin: bool
) -> SlotKeys:
    """A new slot's key pair, its wrap and its keyring record."""
    identity, private = secrets.token_bytes(16), hpke.generate(kem)
    public = private.public()
    wrap, sha256 = encode_slot_wrap(slot.method, private, public, repository, identity)
    record = Slot(
        public=public,
        kind=slot.method.kind,
        wrap_sha256=sha256,
        admin=admin,
        post_quantum=slot.method.post_quantum,
        compartments=None,
        created_ns=created_ns,
        strength=slot.method.describe(),
        label=seal_label(slot.label, repository, listing),
    )
    return SlotKeys(identity, private, record, wrap)


def new_writer(
    keyring_facts: tuple[bytes, Kem, tuple[int, hpke.PublicKey]],
    name: str,
    compartment: bytes,
    created_ns: int,
    *,
    post_quantum: bool,
) -> tuple[Credential, Writer]:
    """A writer's credential and its keyring record. ``keyring_facts``: repository id, KEM, current listing key."""
    repository, kem, listing = keyring_facts
    signing = SigningKey.generate(post_quantum=post_quantum)
    credential = Credential(WRITER, repository, secrets.token_bytes(16), name, compartment, signing, hpke.generate(kem))
    label = seal_label(name, repository, listing)
    return credential, Writer(signing.public(), credential.box.public(), compartment, created_ns, label)


def new_compartment_keys() -> Secret:
    """Id key, then index key."""
    return Secret(secrets.token_bytes(64))


def init_repository(storage: Storage, request: InitRequest, places: Places, context: Context) -> InitReport:
    """Make a repository. The keyring is written last: before it, there is none.

    UsageError when there is one already, or when there is only one way in and that was not accepted.
    """
    suite = _check(storage, request)
    fips = request.profile == "fips"
    kem = Kem.MLKEM1024_P384 if fips else Kem.MLKEM768_X25519
    root, listing = SigningKey.generate(post_quantum=True), hpke.generate(kem)
    repository = repository_id(root.public())
    now = context.clock.now_ns()
    listing_key = (1, listing.public())
    slots = [make_slot(slot, repository, kem, listing_key, now, admin=True) for slot in request.slots]
    compartment, keys = secrets.token_bytes(16), new_compartment_keys()
    writer, record = new_writer(
        (repository, kem, listing_key),
        request.hostname or "first writer",
        compartment,
        now,
        post_quantum=request.post_quantum_signatures,
    )
    signer = (None, root)
    for slot in slots:
        recipient = (slot.id, slot.record.public)
        storage.put(names.slot_wrap_name(slot.id), slot.wrap)
        write_wrap(storage, repository, root_place(), recipient, root.seed(), signer)
        write_wrap(storage, repository, listing_place(1), recipient, listing.data, signer)
        write_wrap(storage, repository, compartment_place(compartment, 1), recipient, keys, signer)
    write_wrap(storage, repository, compartment_place(compartment, 1), (writer.id, record.box), keys, signer)
    readme.store(storage, repository)
    state = places.state(repository)
    save_credential(writer, state.credential_path)
    keyring = publish(
        storage,
        Keyring(
            root=root.public(),
            generation=1,
            previous=None,
            created_ns=now,
            profile=request.profile,
            id_algorithm=ID_HMAC if fips else ID_BLAKE3,
            kem=kem,
            suite=int(suite),
            listing=(listing.public(),),
            compartments={compartment: Compartment(1, seal_label(DEFAULT_COMPARTMENT_LABEL, repository, listing_key))},
            slots={slot.id: slot.record for slot in slots},
            writers={writer.id: record},
            readme_sha256=hashlib.sha256(readme.readme(repository)).digest(),
            reader_sha256=hashlib.sha256(readme.reader()).digest(),
        ),
        root,
    )
    state.advance_pins((1, keyring.sha256), {})
    places.remember(storage.location, repository)
    made = tuple(
        MadeSlot(
            keys.id.hex(),
            keys.record.kind,
            slot.label,
            keys.record.strength,
            slot.method.warning(),
            keys.record.post_quantum,
        )
        for keys, slot in zip(slots, request.slots, strict=True)
    )
    return InitReport(
        repository.hex(),
        storage.location,
        made,
        writer.id.hex(),
        hashlib.sha256(readme.readme(repository)).hexdigest(),
        hashlib.sha256(readme.reader()).hexdigest(),
        request.profile,
        request.suite or "AES-256-GCM",
    )


def _check_place(storage: Storage) -> None:
    """Refuse a place where a repository is or was; clear away what an interrupted `init` left.

    Before its keyring there is no repository, so wraps without any other object are of no use to anybody.
    """
    left = []
    for info in storage.list():
        if info.name.startswith("keys/"):
            raise UsageError(f"there is a repository at {storage.location} already; nothing was changed")
        if parse_name(info.name) is not None or info.name == names.README:
            left.append(info.name)
    foreign = [name for name in left if not name.startswith("wraps/") and name != names.README]
    if foreign:
        raise UsageError(
            f"{storage.location} holds objects of a repository whose keyring is missing ({foreign[0]}); nothing was changed. "
            "Bring back its keys/ from a copy, or choose another place"
        )
    for name in left:
        storage.delete(name)


def _check(storage: Storage, request: InitRequest) -> Suite:
    _check_place(storage)
    if not request.slots:
        raise UsageError("a repository needs a key: --new-key-file, --new-password-file or --new-recipient")
    if len(request.slots) == 1 and not request.accept_single_key:
        raise UsageError(
            "there is only one way in, and it may get lost: add --recovery-recipient or --recovery-passphrase-file, "
            "or accept it with --i-accept-a-single-key"
        )
    if request.profile not in ("default", "fips"):
        raise UsageError(f"profile {request.profile!r} is unknown; use default or fips")
    suite = suite_by_name(request.suite) if request.suite else Suite.AES_256_GCM
    if request.profile == "fips":
        if suite not in FIPS_SUITES:
            raise UsageError("profile fips allows AES-256-GCM only")
        for slot in request.slots:
            if not slot.method.approved:
                raise UsageError(
                    f"profile fips does not allow slots of kind {slot.method.kind} as given ({slot.method.describe()})"
                )
    return suite
