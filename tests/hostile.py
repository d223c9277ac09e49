"""What an attacker can make: with a stolen writer's credential, and with write access to the storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keyark.crypto import hpke
from keyark.repository.credentials import Credential, load_credential
from keyark.repository.epochs import epoch_id
from keyark.repository.index import IndexedPack, encode_index
from keyark.repository.names import index_name, pack_list_name, snapshot_name
from keyark.repository.packlists import PackUse, encode_pack_list
from keyark.repository.snapshots import Listed, SnapshotContent, SnapshotHead, encode_snapshot
from keyark.repository.wraps import epoch_place, write_wrap
from keyark.secret import Secret
from keyark.upkeep.writers import add_writer
from support import Sandbox


def new_writer(sandbox: Sandbox, name: str, *, compartment: str | None = None, operator: bool = False) -> Credential:
    """A credential as an administrator makes it."""
    path = str(sandbox.base / f"{name}.credential")
    with sandbox.open() as repository:
        add_writer(repository, name, path, compartment=compartment, operator=operator, context=sandbox.context)
    return load_credential(path)


@dataclass
class Thief:
    """Holds a writer's credential and may write to the storage. Everything it makes is rightly signed."""

    sandbox: Sandbox
    stolen: Credential

    @property
    def compartment(self) -> bytes:
        assert self.stolen.compartment is not None
        return self.stolen.compartment

    def pack_list(self, uses: Sequence[PackUse]) -> bytes:
        with self.sandbox.open() as repository:  # only the public keyring is used
            keyring = repository.keyring
        listing = (keyring.listing_number, keyring.listing[-1])
        parts, sha256 = encode_pack_list(
            uses, keyring.repository, self.compartment, self.stolen.id, listing, self.stolen.signing
        )
        self.sandbox.storage().put(pack_list_name(self.compartment, self.stolen.id, sha256), parts)
        return sha256

    def snapshot(
        self,
        sequence: int,
        previous: bytes | None,
        *,
        others: Sequence[tuple[bytes, bytes, int, bytes]] = (),
        pack_lists: Sequence[bytes] = (),
        tree: Sequence[bytes] = (),
        replaces: bytes | None = None,
        time_ns: int | None = None,
    ) -> str:
        """Store a snapshot of the thief's choice; returns its name."""
        with self.sandbox.open(accept_rollback=True) as repository:  # only the public keyring is used
            keyring = repository.keyring
        private = hpke.generate(keyring.kem)
        epoch = epoch_id(private.public())
        for slot, record in keyring.slots.items():
            write_wrap(
                self.sandbox.storage(),
                keyring.repository,
                epoch_place(self.compartment, epoch),
                (slot, record.public),
                private.data,
                (self.stolen.id, self.stolen.signing),
                private.public(),
            )
        head = SnapshotHead(
            keyring.repository,
            self.compartment,
            self.stolen.id,
            1,
            (keyring.generation, keyring.sha256),
            sequence,
            previous,
            tuple(others),
            replaces,
            keyring.listing_number,
            epoch,
            tuple(pack_lists),
            0,
        )
        now = self.sandbox.clock.now_ns() if time_ns is None else time_ns
        listed = Listed(now, 1, 1, 1, 1, 1, 0, 1)
        content = SnapshotContent("evil", "evil", "evil", (b"/evil",), (), tuple(tree), {}, {})
        parts, sha256 = encode_snapshot(
            head, listed, content, keyring.listing[-1], private.public(), self.stolen.signing
        )
        name = snapshot_name(self.compartment, self.stolen.id, sequence, sha256)
        self.sandbox.storage().put(name, parts)
        return name

    def index(self, packs: Sequence[IndexedPack], keys: tuple[int, Secret]) -> str:
        """Store an index object that says what the thief likes about any pack."""
        parts, sha256 = encode_index(
            packs, self.stolen.repository, self.compartment, self.stolen.id, keys, self.stolen.signing
        )
        name = index_name(self.compartment, self.stolen.id, sha256)
        self.sandbox.storage().put(name, parts)
        return name


def path_of(sandbox: Sandbox, name: str) -> Path:
    """The file that holds an object."""
    return Path(sandbox.location) / name
