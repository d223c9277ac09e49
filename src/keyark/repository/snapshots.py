"""Snapshots: the commits, signed by their writer (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyark.crypto.hpke import PrivateKey, PublicKey, hpke_info, open_sealed, seal_to
from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.names import snapshot_name
from keyark.repository.wire import (
    ObjectType,
    is_bytes,
    is_count,
    is_key_number,
    is_list,
    is_map,
    is_row,
    is_text,
    optional,
)


@dataclass(frozen=True, slots=True)
class SnapshotHead:
    """The public part: who, where in history, and what it rests on."""

    repository: bytes
    compartment: bytes
    writer: bytes
    generation: int  # of the compartment's keys: those that made the tree's chunk ids
    keyring: tuple[int, bytes]
    sequence: int
    previous: bytes | None
    others: tuple[tuple[bytes, bytes, int, bytes], ...]  # compartment, writer, sequence, snapshot: heads it saw
    replaces: (
        bytes | None
    )  # an earlier one of its writer that was never reported done: packs of it went away, or its run died
    listing: int  # number of the listing key
    epoch: bytes
    pack_lists: tuple[bytes, ...]
    listed_length: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What an operator may see."""

    time_ns: int
    files: int
    dirs: int
    bytes: int
    data_added: int
    data_added_packed: int
    problems: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class SnapshotContent:
    """What only a reader may see."""

    name: str
    hostname: str
    username: str
    paths: tuple[bytes, ...]
    tags: tuple[str, ...]
    tree: tuple[bytes, ...]  # segment ids of the root folder
    users: Mapping[int, str]
    groups: Mapping[int, str]
    problems: tuple[tuple[bytes, str], ...] = ()
    excludes: tuple[bytes, ...] = ()
    program: str = ""
    inventory: Any = None  # reserved: kinds of keys found
    parent: bytes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose form has been checked. ``sealed_*`` are opened with the matching keys."""

    id: bytes
    head: SnapshotHead
    sealed_listed: bytes = field(repr=False)
    sealed_content: bytes = field(repr=False)
    size: int = 0

    @property
    def name(self) -> str:
        return snapshot_name(self.head.compartment, self.head.writer, self.head.sequence, self.id)


_HEAD = {
    "r": is_bytes(32),
    "c": is_bytes(16),
    "w": is_bytes(16),
    "g": is_key_number,
    "n": is_row(is_count, is_bytes(32)),
    "q": is_count,
    "p": optional(is_bytes(32)),
    "o": is_list(is_row(is_bytes(16), is_bytes(16), is_count, is_bytes(32))),
    "R": optional(is_bytes(32)),
    "l": is_key_number,
    "e": is_bytes(16),
    "L": is_list(is_bytes(32)),
    "ll": is_count,
}
_LISTED = {
    "time": is_count,
    "files": is_count,
    "dirs": is_count,
    "bytes": is_count,
    "added": is_count,
    "packed": is_count,
    "problems": is_count,
    "duration": is_count,
}
_CONTENT = {
    "name": is_text,
    "host": is_text,
    "user": is_text,
    "paths": is_list(wire.is_data),
    "tags": is_list(is_text),
    "tree": is_list(is_bytes(32)),
    "users": is_list(is_row(is_count, is_text)),
    "groups": is_list(is_row(is_count, is_text)),
    "problems": is_list(is_row(wire.is_data, is_text)),
    "excludes": is_list(wire.is_data),
    "program": is_text,
    "inventory": optional(is_map),
    "parent": optional(is_bytes(32)),
}


def _info(head_fields: Mapping[str, Any], kem: int, part: str) -> bytes:
    """HPKE info: the whole public position of the snapshot is bound into both sealed parts."""
    context = wire.pack([head_fields["e"], head_fields["w"], head_fields["q"], head_fields["l"]])
    return hpke_info(head_fields["r"], head_fields["c"], context, 0, kem, f"snapshot {part}")


def encode_snapshot(
    head: SnapshotHead,
    listed: Listed,
    content: SnapshotContent,
    listing_key: PublicKey,
    epoch_key: PublicKey,
    signer: SigningKey,
) -> tuple[Sequence[wire.Buffer], bytes]:
    """Seal and sign; returns the object's parts and the snapshot's id. ``head.listed_length`` is filled in here."""
    fields: dict[str, Any] = {
        "r": head.repository,
        "c": head.compartment,
        "w": head.writer,
        "g": head.generation,
        "n": list(head.keyring),
        "q": head.sequence,
        "p": head.previous,
        "o": [list(row) for row in head.others],
        "R": head.replaces,
        "l": head.listing,
        "e": head.epoch,
        "L": list(head.pack_lists),
    }
    listed_plain = wire.pack(
        {
            "time": listed.time_ns,
            "files": listed.files,
            "dirs": listed.dirs,
            "bytes": listed.bytes,
            "added": listed.data_added,
            "packed": listed.data_added_packed,
            "problems": listed.problems,
            "duration": listed.duration_ns,
        }
    )
    content_plain = wire.pack(
        {
            "name": content.name,
            "host": content.hostname,
            "user": content.username,
            "paths": list(content.paths),
            "tags": list(content.tags),
            "tree": list(content.tree),
            "users": [[key, value] for key, value in sorted(content.users.items())],
            "groups": [[key, value] for key, value in sorted(content.groups.items())],
            "problems": [list(row) for row in content.problems],
            "excludes": list(content.excludes),
            "program": content.program,
            "inventory": content.inventory,
            "parent": content.parent,
        }
    )
    sealed_listed = seal_to(listing_key, listed_plain, _info(fields, int(listing_key.kem), "listed"))
    sealed_content = seal_to(epoch_key, content_plain, _info(fields, int(epoch_key.kem), "content"))
    fields["ll"] = len(sealed_listed)
    return wire.sign_object(ObjectType.SNAPSHOT, 0, fields, [sealed_listed, sealed_content], signer, head.repository)


def decode_snapshot(data: bytes, name: str, repository: bytes, signer: VerifyKey) -> Snapshot:
    """Read and verify a snapshot: form, signature, binding to this repository. Name and standing are the caller's."""
    parsed = wire.parse(data, ObjectType.SNAPSHOT, name)
    fields = wire.expect(parsed.header, _HEAD, name)
    if fields["r"] != repository:
        raise ForgedError(f"{name}: belongs to another repository")
    wire.verify(parsed, signer, repository, name)
    if len(set(fields["L"])) != len(fields["L"]):
        raise DamagedError(f"{name}: names a pack list twice")
    if fields["ll"] > len(parsed.body):
        raise DamagedError(f"{name}: its listed part is longer than the snapshot")
    head = SnapshotHead(
        fields["r"],
        fields["c"],
        fields["w"],
        fields["g"],
        (fields["n"][0], fields["n"][1]),
        fields["q"],
        fields["p"],
        tuple((row[0], row[1], row[2], row[3]) for row in fields["o"]),
        fields["R"],
        fields["l"],
        fields["e"],
        tuple(fields["L"]),
        fields["ll"],
    )
    if snapshot_name(head.compartment, head.writer, head.sequence, parsed.sha256) != name:
        raise ForgedError(f"{name}: its name is not what its bytes say")
    return Snapshot(parsed.sha256, head, parsed.body[: fields["ll"]], parsed.body[fields["ll"] :], len(data))


def _info_of(head: SnapshotHead, kem: int, part: str) -> bytes:
    return _info(
        {
            "r": head.repository,
            "c": head.compartment,
            "e": head.epoch,
            "w": head.writer,
            "q": head.sequence,
            "l": head.listing,
        },
        kem,
        part,
    )


def open_listed(snapshot: Snapshot, key: PrivateKey) -> Listed:
    """Open the part that an operator may see."""
    plain = open_sealed(key, snapshot.sealed_listed, _info_of(snapshot.head, int(key.kem), "listed"))
    value = wire.expect(wire.unpack(plain, snapshot.name), _LISTED, snapshot.name)
    return Listed(
        value["time"],
        value["files"],
        value["dirs"],
        value["bytes"],
        value["added"],
        value["packed"],
        value["problems"],
        value["duration"],
    )


def open_content(snapshot: Snapshot, key: PrivateKey) -> SnapshotContent:
    """Open the part that only a reader may see."""
    plain = open_sealed(key, snapshot.sealed_content, _info_of(snapshot.head, int(key.kem), "content"))
    value = wire.expect(wire.unpack(plain, snapshot.name), _CONTENT, snapshot.name)
    return SnapshotContent(
        value["name"],
        value["host"],
        value["user"],
        tuple(value["paths"]),
        tuple(value["tags"]),
        tuple(value["tree"]),
        {row[0]: row[1] for row in value["users"]},
        {row[0]: row[1] for row in value["groups"]},
        tuple((row[0], row[1]) for row in value["problems"]),
        tuple(value["excludes"]),
        value["program"],
        value["inventory"],
        value["parent"],
    )
