"""Who may write, and who may forget and prune: writers' and operators' credentials."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from keyark.crypto import hpke
from keyark.crypto.signing import SigningKey
from keyark.errors import NotFoundError, UsageError
from keyark.operation import Context
from keyark.repository.create import new_compartment_keys, new_writer
from keyark.repository.credentials import OPERATOR, WRITER, Credential, save_credential
from keyark.repository.keyring import Compartment, Operator, Writer
from keyark.repository.labels import seal_label
from keyark.repository.marks import TOMBSTONE, encode_marks
from keyark.repository.repository import Repository
from keyark.repository.wraps import compartment_place
from keyark.upkeep.forget import bury
from keyark.upkeep.keychanges import KeyChange
from keyark.upkeep.model import CredentialReport, WriterInfo

_NO_SNAPSHOT = bytes(32)


def list_writers(repository: Repository) -> list[WriterInfo]:
    """All writers and operators, revoked ones included."""
    keyring, keys = repository.keyring, repository.keys
    heads = repository.judge_history().heads()
    found = [
        WriterInfo(
            id=name.hex(),
            role=WRITER,
            label=keys.label(item.label),
            compartment=_compartment_label(repository, item.compartment),
            revoked=item.revoked is not None,
            created_ns=item.created_ns,
            post_quantum_signature=item.verify.mldsa65 is not None,
            last_sequence=(heads.get((item.compartment, name)) or (None,))[0],
        )
        for name, item in keyring.writers.items()
    ]
    found += [
        WriterInfo(
            id=name.hex(),
            role=OPERATOR,
            label=keys.label(item.label),
            compartment=None,
            revoked=item.revoked,
            created_ns=item.created_ns,
            post_quantum_signature=item.verify.mldsa65 is not None,
            last_sequence=None,
        )
        for name, item in keyring.operators.items()
    ]
    return sorted(found, key=lambda item: (item.role, item.created_ns, item.id))


def _compartment_label(repository: Repository, compartment: bytes) -> str:
    label = repository.keys.label(repository.keyring.compartments[compartment].label)
    return label or compartment.hex()[:12]


def add_writer(
    repository: Repository,
    name: str,
    output_path: str,
    *,
    operator: bool = False,
    compartment: str | None = None,
    post_quantum: bool = False,
    context: Context,
) -> CredentialReport:
    """Make a credential and write it to ``output_path`` (mode 600).

    A writer gets a compartment of its own, unless one is named: writers that share one trust each other for availability.
    """
    context.recorder.before("writer add", {"operator": operator})
    if not name.strip():
        raise UsageError("the name is empty")
    if any(item.label == name and not item.revoked for item in list_writers(repository)):
        raise UsageError(f"there is a writer or operator {name!r} already; choose another name or revoke it first")
    change = KeyChange.begin(repository, "add a writer")
    if operator:
        credential = _new_operator(change, name, post_quantum=post_quantum)
    else:
        credential = _new_writer(change, name, compartment, post_quantum=post_quantum)
    save_credential(credential, output_path)
    change.publish()
    context.recorder.after("writer add", {"id": credential.id.hex()}, None)
    return CredentialReport(
        credential.id.hex(),
        credential.role,
        name,
        None if credential.compartment is None else _compartment_label(repository, credential.compartment),
        output_path,
    )


def _new_operator(change: KeyChange, name: str, *, post_quantum: bool) -> Credential:
    keyring = change.repository.keyring
    signing, box = SigningKey.generate(post_quantum=post_quantum), hpke.generate(keyring.kem)
    credential = Credential(OPERATOR, keyring.repository, secrets.token_bytes(16), name, None, signing, box)
    label = seal_label(name, keyring.repository, (keyring.listing_number, keyring.listing[-1]))
    record = Operator(signing.public(), box.public(), change.draft.created_ns, label)
    change.give_listing((credential.id, record.box))
    change.draft = replace(change.draft, operators={**keyring.operators, credential.id: record})
    return credential


def _new_writer(change: KeyChange, name: str, wanted: str | None, *, post_quantum: bool) -> Credential:
    keyring = change.repository.keyring
    listing = (keyring.listing_number, keyring.listing[-1])
    compartment = secrets.token_bytes(16) if wanted is None else find_compartment(change.repository, wanted)
    credential, record = new_writer(
        (keyring.repository, keyring.kem, listing),
        name,
        compartment,
        change.draft.created_ns,
        post_quantum=post_quantum,
    )
    recipient = (credential.id, record.box)
    if wanted is None:
        keys = new_compartment_keys()
        label = seal_label(name, keyring.repository, listing)
        change.draft = replace(change.draft, compartments={**keyring.compartments, compartment: Compartment(1, label)})
        for holder in [recipient, *((key, slot.public) for key, slot in keyring.slots_of(compartment).items())]:
            change.wrap(compartment_place(compartment, 1), holder, keys)
    else:
        change.give_compartment(recipient, compartment)
    change.draft = replace(change.draft, writers={**keyring.writers, credential.id: record})
    return credential


def find_compartment(repository: Repository, text: str) -> bytes:
    """The compartment that a label or id prefix means."""
    compartments = repository.keyring.compartments
    found = [name for name, item in compartments.items() if repository.keys.label(item.label) == text]
    if not found and text:
        found = [name for name in compartments if name.hex().startswith(text.lower())]
    if len(found) != 1:
        raise NotFoundError(f"no single compartment {text!r}; `keyark writer list` shows them")
    return found[0]


def revoke_writer(repository: Repository, text: str, context: Context) -> WriterInfo:
    """Revoke a writer or operator. Its later snapshots or marks do not count; keys that it knew change for what comes."""
    context.recorder.before("writer revoke", {})
    found = [item for item in list_writers(repository) if item.label == text and not item.revoked]
    found = found or [item for item in list_writers(repository) if text and item.id.startswith(text.lower())]
    if not found:
        raise NotFoundError(f"no writer or operator {text!r}; `keyark writer list` shows them")
    if len(found) > 1:
        raise UsageError(f"{text!r} fits {len(found)} writers; give more of the id")
    info = found[0]
    if info.revoked:
        raise UsageError(f"{text!r} is revoked already")
    name = bytes.fromhex(info.id)
    change = KeyChange.begin(repository, "revoke a writer")
    if info.role == OPERATOR:
        _revoke_operator(change, name)
    else:
        _revoke_writer(change, name)
    change.publish()
    context.recorder.after("writer revoke", {"id": info.id}, None)
    return replace(info, revoked=True)


def _revoke_writer(change: KeyChange, name: bytes) -> None:
    """Accept the chain up to where it is beyond doubt; what lies behind is buried, so that it stops being an alarm."""
    repository, keyring = change.repository, change.repository.keyring
    item: Writer = keyring.writers[name]
    history = repository.judge_history()
    own = [snapshot for snapshot in (*history.live, *history.forgotten) if snapshot.head.writer == name]
    own.sort(key=lambda snapshot: snapshot.head.sequence)
    claims = Counter(snapshot.head.sequence for snapshot in own)
    forked = min((number for number, count in claims.items() if count > 1), default=None)
    reach = history.plausible_ends().get((item.compartment, name), 0)
    own = [
        snapshot for snapshot in own if snapshot.head.sequence <= reach
    ]  # behind an impossible jump nothing is accepted
    last = history.heads().get((item.compartment, name)) or (0, _NO_SNAPSHOT)
    if forked is not None:
        before = [snapshot for snapshot in own if snapshot.head.sequence < forked]
        last = (before[-1].head.sequence, before[-1].id) if before else (0, _NO_SNAPSHOT)
        bury(repository, [snapshot for snapshot in own if snapshot.head.sequence >= forked], change.draft.created_ns)
    change.draft = replace(change.draft, writers={**keyring.writers, name: replace(item, revoked=last)})
    change.renew_compartment(item.compartment)


def _revoke_operator(change: KeyChange, name: bytes) -> None:
    """The root signs the operator's marks so far, since they will not count under its own signature any more."""
    repository, keyring = change.repository, change.repository.keyring
    reach = repository.judge_history().plausible_ends()
    for mark in repository.marks().objects:
        if mark.signer != name:
            continue
        rows: Sequence[Sequence[object]] = mark.rows
        if mark.kind == TOMBSTONE:  # of snapshots that there may have been
            rows = [row for row in mark.rows if row[2] <= reach.get((row[0], row[1]), 0)]
        encoded = encode_marks(mark.kind, rows, repository.id, mark.time_ns, keyring.generation, (None, change.root))
        for object_name, parts in encoded:
            repository.storage.put(object_name, parts, create_only=False)
    item = keyring.operators[name]
    change.draft = replace(change.draft, operators={**keyring.operators, name: replace(item, revoked=True)})
    change.renew_listing()
