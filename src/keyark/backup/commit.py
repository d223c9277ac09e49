"""The end of a backup: index, snapshot, and the look back before anything is reported as done (docs/format.md, section 12)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keyark.backup.packer import Packer, StoredPack
from keyark.backup.sink import ChunkSink
from keyark.backup.unchanged import Records
from keyark.errors import HistoryError, IntegrityError, ObjectExists, ObjectNotFound
from keyark.repository.credentials import Credential
from keyark.repository.epochs import Epoch
from keyark.repository.history import MAX_GAP, REPLACE_WINDOW, Chain, Head, History
from keyark.repository.index import MAX_CHUNKS, IndexedPack, encode_index
from keyark.repository.names import index_name, pack_list_name, parse_name, snapshot_name
from keyark.repository.packlists import PackUse, encode_pack_list, encode_rows, group
from keyark.repository.packs import iterate_ids
from keyark.repository.places import write_state
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Listed, SnapshotContent, SnapshotHead, decode_snapshot, encode_snapshot
from keyark.repository.wire import ObjectType

_SETTLE_CHUNKS = 100_000  # new chunks held in memory before their packs are indexed


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes, where, under which keys."""

    writer: Credential
    compartment: bytes
    generation: int
    epoch: Epoch


class NewPack(NamedTuple):
    """A pack that this run stored and indexed."""

    sha256: bytes
    size: int
    data_length: int
    stored_bytes: int


class Indexer:
    """Writes index objects as packs come in: what an interrupted long run stored is found again, and memory stays bounded."""

    def __init__(
        self, repository: Repository, identity: Identity, packer: Packer, sink: ChunkSink, records: Records
    ) -> None:
        self._repository = repository
        self._identity = identity
        self._packer = packer
        self._sink = sink
        self._records = records
        self._waiting: list[StoredPack] = []
        self._chunks = 0  # in the packs that wait for an index object
        self._done: list[NewPack] = []

    def settle(self) -> None:
        """Take over packs that are stored by now; write an index object when there are enough of them."""
        self._take()
        if self._chunks >= _SETTLE_CHUNKS:
            self._write()

    def finish(self, adopted: Sequence[IndexedPack]) -> tuple[NewPack, ...]:
        """Wait for the last packs and index them, and ``adopted`` ones of a crashed run; returns all packs of this run."""
        self._packer.finish()
        self._take()
        self._records.flush()
        if adopted:
            _write_index_object(self._repository, self._identity, adopted)
        self._write()
        return tuple(self._done)

    def _take(self) -> None:
        stored = self._packer.take_stored()
        if not stored:
            return
        cache, compartment = self._repository.lookup.cache, self._identity.compartment
        numbers = cache.add_index(None, compartment, [item.pack for item in stored], trusted=True)
        for item, number in zip(stored, numbers, strict=True):
            self._sink.stored(number, (chunk for block in item.pack.blocks for chunk in iterate_ids(block)))
            if self._chunks + item.pack.chunk_count > MAX_CHUNKS:
                self._write()
            self._waiting.append(item)
            self._chunks += item.pack.chunk_count
        self._records.settle()

    def _write(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._chunks = self._waiting, [], 0
        _write_index_object(self._repository, self._identity, [item.pack for item in waiting])
        self._sink.settle()
        for pack, stored_bytes in waiting:
            self._done.append(NewPack(pack.sha256, pack.size, pack.data_length, stored_bytes))


def _write_index_object(repository: Repository, identity: Identity, packs: Sequence[IndexedPack]) -> None:
    keys = repository.keys.compartment(identity.compartment, identity.generation)
    parts, sha256 = encode_index(
        packs,
        repository.id,
        identity.compartment,
        identity.writer.id,
        (keys.generation, keys.index_key),
        identity.writer.signing,
    )
    name = index_name(identity.compartment, identity.writer.id, sha256)
    repository.storage.put(name, parts)
    repository.lookup.cache.add_index(name, identity.compartment, packs, trusted=True)


def write_pack_lists(
    repository: Repository, identity: Identity, uses: Sequence[PackUse], unusable: frozenset[bytes]
) -> tuple[bytes, ...]:
    """Store the pack lists that are not there yet; returns all of them, in order."""
    cache = repository.lookup.cache
    prefix = f"packlists/{identity.compartment.hex()}/"
    present = {name.sha256 for info in repository.storage.list(prefix) if (name := parse_name(info.name)) is not None}
    listing = (repository.keyring.listing_number, repository.keyring.listing[-1])
    result = []
    remembered: list[tuple[bytes, bytes]] = []
    for rows in group(uses):
        content = hashlib.sha256(identity.writer.id + bytes([listing[0] & 0xFF]) + encode_rows(rows)).digest()
        known = cache.pack_list(content)
        if known is not None and known in present and known not in unusable:
            result.append(known)
            continue
        parts, sha256 = encode_pack_list(
            rows, repository.id, identity.compartment, identity.writer.id, listing, identity.writer.signing
        )
        repository.storage.put(pack_list_name(identity.compartment, identity.writer.id, sha256), parts)
        remembered.append((content, sha256))
        result.append(sha256)
    cache.put_pack_lists(remembered)
    return tuple(result)


def write_snapshot(
    repository: Repository,
    identity: Identity,
    history: History,
    pack_lists: tuple[bytes, ...],
    facts: tuple[Listed, SnapshotContent],
    replaces: bytes | None,
) -> Head:
    """Sign and store the snapshot; returns its number and id. Short: held under this machine's lock."""
    chain: Chain = (identity.compartment, identity.writer.id)
    with repository.state.locked():
        previous = _newest_own(repository, identity.writer, chain, _own_head(repository, chain, history))
        sequence = 1 if previous is None else previous[0] + 1
        replaced = replaces or repository.state.oldest_unconfirmed(chain, sequence - REPLACE_WINDOW)
        listed, content = facts
        keyring = repository.keyring
        heads = history.heads()
        head = SnapshotHead(
            repository=repository.id,
            compartment=identity.compartment,
            writer=identity.writer.id,
            generation=identity.generation,
            keyring=(keyring.generation, keyring.sha256),
            sequence=sequence,
            previous=None if previous is None else previous[1],
            others=tuple((c, w, number, item) for (c, w), (number, item) in sorted(heads.items()) if (c, w) != chain),
            replaces=replaced,
            listing=keyring.listing_number,
            epoch=identity.epoch.id,
            pack_lists=pack_lists,
            listed_length=0,
        )
        parts, sha256 = encode_snapshot(
            head, listed, content, keyring.listing[-1], identity.epoch.public, identity.writer.signing
        )
        name = snapshot_name(head.compartment, head.writer, head.sequence, sha256)
        repository.state.note_unconfirmed(chain, (head.sequence, sha256))
        with contextlib.suppress(ObjectExists):  # an answer that was lost; the name is the content's hash
            repository.storage.put(name, parts)
        repository.state.advance_pins((keyring.generation, keyring.sha256), {chain: (head.sequence, sha256)})
        if replaced is not None:
            repository.state.confirm(chain, replaced)
        return head.sequence, sha256


def confirm(repository: Repository, identity: Identity, head: Head) -> None:
    """The look back found everything in place: the snapshot stands, and nothing will replace it."""
    repository.state.confirm((identity.compartment, identity.writer.id), head[1])


def _own_head(repository: Repository, chain: Chain, history: History) -> Head | None:
    """The snapshot that the next one follows: the furthest of what the storage showed and what this machine wrote."""
    shown = history.heads().get(chain)
    pinned = repository.state.read_pins().heads.get(chain)
    if pinned is None or (shown is not None and shown[0] > pinned[0]):
        return shown
    if shown is not None and shown[0] == pinned[0] and shown[1] != pinned[1] and not repository.accept_rollback:
        raise HistoryError(
            f"snapshot {shown[0]} of this writer is not the one this machine wrote; its credential is used elsewhere too"
        )
    return pinned


def _newest_own(repository: Repository, writer: Credential, chain: Chain, known: Head | None) -> Head | None:
    """``known``, or what another process of this machine stored since and was killed before it could say so."""
    newest = known
    for info in repository.storage.list(f"snapshots/{chain[0].hex()}/{chain[1].hex()}/"):
        name = parse_name(info.name)
        if name is None or name.number is None or name.number <= (0 if newest is None else newest[0]):
            continue
        if name.number > MAX_GAP + (0 if known is None else known[0]):
            continue  # whoever has the key may have put it there so that nobody can follow
        try:
            data = repository.storage.get(info.name)
            found = decode_snapshot(data, info.name, repository.id, writer.signing.public())
        except (IntegrityError, ObjectNotFound):
            continue  # not ours: whoever can write to the storage may have put it there
        newest = (found.head.sequence, found.id)
    return newest


def lost_objects(
    repository: Repository, compartment: bytes, uses: Sequence[PackUse], lists: Sequence[bytes]
) -> frozenset[bytes]:
    """Packs and pack lists of a snapshot just written that a prune marked or deleted meanwhile.

    The marks are read before the presence of objects: a sweep that began earlier shows in the marks, one that ended earlier
    in the presence.
    """
    marks = repository.marks()
    marked = marks.packs | marks.pack_lists
    packs = present_packs(repository)
    prefix = f"packlists/{compartment.hex()}/"
    found = {name.sha256 for info in repository.storage.list(prefix) if (name := parse_name(info.name)) is not None}

    def sound(name: bytes, size: int) -> bool:
        return name not in marked and packs.get(name) == size

    def superseded(name: bytes) -> bool:
        *_, last = marks.names_of(name)
        return last != name and sound(last, marks.resealed[last])

    lost = {use.sha256 for use in uses if not sound(use.sha256, use.size) and not superseded(use.sha256)}
    return frozenset(lost | {item for item in lists if item in marked or item not in found})


def present_packs(repository: Repository) -> dict[bytes, int]:
    """All packs that the storage lists, with their sizes."""
    result = {}
    for info in repository.storage.list("packs/"):
        name = parse_name(info.name)
        if name is not None and name.type is ObjectType.PACK and name.sha256 is not None:
            result[name.sha256] = info.size
    return result


def unique_name(repository: Repository, wanted: str | None, now_ns: int) -> str:
    """``keys_backup_<local time>``, with ``_2`` and so on for further ones of this machine in the same second."""
    if wanted is not None:
        return wanted
    base = time.strftime("keys_backup_%Y%m%d_%H%M%S", time.localtime(now_ns // 10**9))
    path = os.path.join(repository.state.folder, "last_name.json")
    with repository.state.locked():
        count = 1
        try:
            with open(path, "rb") as file:
                last = json.load(file)
            if last["base"] == base:
                count = int(last["count"]) + 1
        except (OSError, ValueError, KeyError, TypeError):
            count = 1  # only the look of a name rests on this file
        write_state(path, json.dumps({"base": base, "count": count}).encode())
    return base if count == 1 else f"{base}_{count}"
