"""Making this machine a writer when an administrator's key is used on it for the first time."""

from __future__ import annotations

import os
import random

from keyark.errors import ConflictError, NotAllowedError
from keyark.repository.create import new_writer
from keyark.repository.credentials import Credential, load_credential, save_credential
from keyark.repository.generations import publish
from keyark.repository.repository import Repository
from keyark.repository.wraps import compartment_place, write_wrap

_ATTEMPTS = 8


def ensure_writer(repository: Repository, hostname: str) -> Credential:
    """The writer of this run. An administrator's machine without a credential gets one, in the first compartment.

    The credential then stays on the machine, so that later backups need no key that reads. NotAllowedError for an operator.
    """
    if repository.keys.writer is not None:
        return repository.keys.writer
    if repository.keys.operator is not None or not repository.keys.is_admin:
        raise repository.keys.refuse("add snapshots", "a writer's credential (`keyark writer add`)")
    state = repository.state
    with state.locked():
        if os.path.exists(state.credential_path):  # another process of this machine was first, or it was revoked
            credential = load_credential(state.credential_path)
            entry = repository.keyring.writers.get(credential.id)
            if entry is not None and entry.revoked is None:
                repository.keys.writer = credential
                return credential
            if entry is not None:
                raise NotAllowedError(
                    f"this machine's writer was revoked; `keyark writer add` makes another, or delete {state.credential_path}"
                )
        credential = _enrol_patiently(repository, hostname)
        save_credential(credential, state.credential_path, replace=True)
    repository.keys.writer = credential
    return credential


def _enrol_patiently(repository: Repository, hostname: str) -> Credential:
    """Machines that are enrolled at one instant meet in the keyring: the later one begins again."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return _enrol(repository, hostname)
        except ConflictError:
            if not left:
                raise
            repository.context.clock.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - so that they do not meet again
            repository.refresh_keyring()
    raise AssertionError


def _enrol(repository: Repository, hostname: str) -> Credential:
    keyring, keys = repository.keyring, repository.keys
    root = keys.root("make this machine a writer")
    compartment = next(iter(keyring.compartments))
    now = repository.context.clock.now_ns()
    facts = (keyring.repository, keyring.kem, (keyring.listing_number, keyring.listing[-1]))
    credential, record = new_writer(facts, hostname or "writer", compartment, now, post_quantum=False)
    generation = keyring.compartments[compartment].generation
    for number in range(1, generation + 1):
        opened = keys.compartment(compartment, number)
        secret = opened.pair()
        write_wrap(
            repository.storage,
            keyring.repository,
            compartment_place(compartment, number),
            (credential.id, record.box),
            secret,
            (None, root),
        )
    updated = keyring.next(now, writers={**keyring.writers, credential.id: record})
    repository.adopt_keyring(publish(repository.storage, updated, root))
    repository.context.warn(f"this machine is now a writer of the repository (credential in {repository.state.folder})")
    return credential
