"""Opening a repository: find and judge its keyring, open what the credentials open (docs/format.md, section 3)."""

from __future__ import annotations

import os
from dataclasses import replace

from keyark.crypto.hpke import PrivateKey
from keyark.errors import ForgedError, NoKeyError, NotAllowedError, UsageError
from keyark.operation import Context
from keyark.repository.credentials import OPERATOR, WRITER, Credential, Credentials, load_credential
from keyark.repository.generations import Generations, load_generations
from keyark.repository.keyring import Keyring
from keyark.repository.limits import Limited
from keyark.repository.places import Places
from keyark.repository.repository import Repository
from keyark.repository.slotwraps import open_slot
from keyark.repository.unlocked import Unlocked
from keyark.storage.protocol import Storage

_SHOWN = 3  # objects below keys/ that are named when they do not count; anybody may have put many there


def open_repository(
    storage: Storage,
    credentials: Credentials,
    places: Places,
    context: Context,
    *,
    require_pq: bool = False,
    accept_rollback: bool = False,
) -> Repository:
    """Open a repository with whatever the user brought.

    1. know which repository it must be: from a credential, ``--repository-id``, or this machine's memory of the location;
    2. verify the keyring chain to the root, no lower than what this machine has seen;
    3. only then open a slot; a passphrase or key file proves the repository's id by itself, an identity does not: where no
       credential, ``--repository-id`` or memory names the repository, it is not tried.

    Raises RepositoryNotFound, NoKeyError, HistoryError, UsageError.
    """
    storage = Limited(storage)
    remembered = places.repository_at(storage.location)
    expected = _expected(credentials, remembered, storage)

    def pinned(repository: bytes) -> tuple[int, bytes] | None:
        return None if accept_rollback else places.state(repository).read_pins().keyring

    generations = load_generations(storage, expected, pinned, context.clock, remembered)
    for _, what in generations.rejected[:_SHOWN]:
        context.warn(f"ignored: {what}")
    if len(generations.rejected) > _SHOWN:
        context.warn(
            f"ignored: {len(generations.rejected) - _SHOWN} more objects below keys/; `keyark verify` names them"
        )
    keyring = generations.latest
    if require_pq or keyring.policies.get("require_pq"):
        _require_post_quantum(keyring)
    slot = _open_slot(storage, keyring, credentials, known=keyring.repository in (expected, remembered))
    writer, operator = _standing(credentials, keyring, places)
    if slot is None and writer is None and operator is None:
        raise NoKeyError(f"no key for {storage.location}: give --key-file, --password-file, --identity or --credential")
    if remembered is not None and remembered != keyring.repository:
        context.warn(f"{storage.location} is another repository than the one this machine knew there")
    keys = Unlocked(storage, keyring, slot, writer, operator)
    _pin(places, generations, storage, accept_rollback=accept_rollback)
    return Repository(storage, generations, keys, places, context, accept_rollback=accept_rollback)


def _expected(credentials: Credentials, remembered: bytes | None, storage: Storage) -> bytes | None:
    named = credentials.repository_id
    if credentials.credential is not None:
        if named not in (None, credentials.credential.repository):
            raise UsageError("--repository-id names another repository than the credential")
        named = credentials.credential.repository
    if named is not None:
        return named
    if credentials.passwords or credentials.key_lines:
        return None
    if remembered is None and credentials.identities:
        raise UsageError(
            f"an age identity alone cannot tell whether {storage.location} is really yours; "
            "give --repository-id with the id that `keyark init` printed"
        )
    return remembered


def _open_slot(
    storage: Storage, keyring: Keyring, credentials: Credentials, *, known: bool
) -> tuple[bytes, PrivateKey] | None:
    """Anybody can seal a repository of his own to a public key: an identity opens only a repository that is known to be right."""
    if not known:
        credentials = replace(credentials, identities=())
    return open_slot(storage, keyring, credentials) if credentials.has_slot_keys else None


def _require_post_quantum(keyring: Keyring) -> None:
    weak = [f"{name.hex()[:8]} ({slot.kind})" for name, slot in keyring.slots.items() if not slot.post_quantum]
    if weak:
        raise NotAllowedError(
            f"post-quantum slots are required, but these are not: {', '.join(weak)}; `keyark key remove` them"
        )


def _standing(
    credentials: Credentials, keyring: Keyring, places: Places
) -> tuple[Credential | None, Credential | None]:
    """The writer's and the operator's credential that count in this run."""
    brought = credentials.credential
    if brought is None:
        path = places.state(keyring.repository).credential_path
        if os.path.exists(path):
            own = load_credential(path)
            entry = keyring.writers.get(own.id)
            if own.repository == keyring.repository and entry is not None and entry.revoked is None:
                return _check(own, keyring), None
        return None, None
    checked = _check(brought, keyring)
    return (checked, None) if brought.role == WRITER else (None, checked)


def _check(credential: Credential, keyring: Keyring) -> Credential:
    entry = keyring.operators.get(credential.id) if credential.role == OPERATOR else keyring.writers.get(credential.id)
    if entry is None:
        raise NoKeyError(f"the {credential.role} {credential.name!r} is not in the repository's keyring")
    if entry.revoked not in (None, False):
        raise NotAllowedError(
            f"the {credential.role} {credential.name!r} was revoked; an administrator can add a new one"
        )
    if entry.verify != credential.signing.public() or entry.box != credential.box.public():
        raise ForgedError(f"the keyring holds other keys for the {credential.role} {credential.name!r}")
    if credential.role == WRITER:
        return replace(credential, compartment=keyring.writers[credential.id].compartment)
    return credential


def _pin(places: Places, generations: Generations, storage: Storage, *, accept_rollback: bool) -> None:
    keyring = generations.latest
    if accept_rollback:
        return
    places.state(keyring.repository).advance_pins((keyring.generation, keyring.sha256), {})
    places.remember(storage.location, keyring.repository)
