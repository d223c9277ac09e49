"""Marks: signed statements of an operator (docs/format.md, section 10).

A *mark* says that writers must treat objects as absent; an *intent* that a sweep is about to delete marked objects; a
*tombstone* that snapshots were forgotten; *seen* when an operator first saw snapshots. *Supersedes*, which only the root may
sign, says that a pack holds the same chunks as another under a new key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.names import mark_name
from keyark.repository.wire import ObjectType, is_bytes, is_count, is_list, is_row, optional

MARK = "mark"
INTENT = "intent"
TOMBSTONE = "tombstone"
SEEN = "seen"
SUPERSEDES = "supersedes"
_KINDS = (MARK, INTENT, TOMBSTONE, SEEN, SUPERSEDES)
PACK_TARGET = 0  # kinds of marked objects
PACK_LIST_TARGET = 1
_BATCH = 5000  # rows in one object

_HEAD = {
    "r": is_bytes(32),
    "s": optional(is_bytes(16)),
    "k": lambda value: value in _KINDS,
    "t": is_count,
    "n": is_count,
}
_ROWS = {
    MARK: is_row(lambda value: value in (PACK_TARGET, PACK_LIST_TARGET), is_bytes(32)),
    INTENT: is_row(lambda value: value in (PACK_TARGET, PACK_LIST_TARGET), is_bytes(32)),
    TOMBSTONE: is_row(is_bytes(16), is_bytes(16), is_count, is_bytes(32)),
    SEEN: is_row(is_bytes(32), optional(is_count)),
    SUPERSEDES: is_row(is_bytes(32), is_bytes(32), is_count),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark object, verified."""

    name: str
    kind: str
    time_ns: int
    signer: bytes | None  # None: the root
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A snapshot that was forgotten on purpose."""

    compartment: bytes
    writer: bytes
    sequence: int
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything the operators have stated, merged."""

    packs: frozenset[bytes] = frozenset()
    pack_lists: frozenset[bytes] = frozenset()
    intended: frozenset[bytes] = frozenset()  # packs and pack lists named by a sweep intent
    tombstones: Mapping[bytes, Tombstone] = field(default_factory=dict)  # by snapshot id
    seen: Mapping[bytes, tuple[int, int | None]] = field(default_factory=dict)  # snapshot -> first seen, previous look
    last_look_ns: int | None = None
    objects: tuple[Mark, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    superseded: Mapping[bytes, tuple[bytes, ...]] = field(
        default_factory=dict
    )  # pack -> those that hold the same, oldest first
    resealed: Mapping[bytes, int] = field(default_factory=dict)  # packs that supersede others, with their sizes
    retired: tuple[str, ...] = ()  # of revoked operators: the root has repeated what counts of them

    def names_of(self, pack: bytes) -> tuple[bytes, ...]:
        """All packs that hold what ``pack`` does: itself first, the one to be used last."""
        names = [pack]
        for name in names:
            names += [item for item in self.superseded.get(name, ()) if item not in names]
        return tuple(names)


def encode_marks(
    kind: str,
    rows: Iterable[Sequence[Any]],
    repository: bytes,
    time_ns: int,
    keyring_generation: int,
    signer: tuple[bytes | None, SigningKey],
) -> list[tuple[str, Sequence[wire.Buffer]]]:
    """Signed mark objects over ``rows``, as (name, parts)."""
    all_rows = [list(row) for row in rows]
    result: list[tuple[str, Sequence[wire.Buffer]]] = []
    for start in range(0, len(all_rows), _BATCH):
        header = {"r": repository, "s": signer[0], "k": kind, "t": time_ns, "n": keyring_generation}
        body = wire.pack(all_rows[start : start + _BATCH])
        parts, sha256 = wire.sign_object(ObjectType.MARK, 0, header, [body], signer[1], repository)
        result.append((mark_name(sha256), parts))
    return result


def decode_mark(
    data: bytes, name: str, repository: bytes, root: VerifyKey, operators: Mapping[bytes, VerifyKey]
) -> Mark:
    """Read and verify a mark: signed by the root or by one of ``operators``."""
    parsed = wire.parse(data, ObjectType.MARK, name)
    header = wire.expect(parsed.header, _HEAD, name)
    if header["r"] != repository:
        raise ForgedError(f"{name}: belongs to another repository")
    if mark_name(parsed.sha256) != name:
        raise DamagedError(f"{name}: its bytes are not what its name says")
    signer = header["s"]
    key = root if signer is None else operators.get(signer)
    if key is None:
        raise ForgedError(f"{name}: signed by somebody who is no operator of this repository")
    wire.verify(parsed, key, repository, name)
    rows = wire.unpack(parsed.body, name)
    kind = header["k"]
    if kind == SUPERSEDES and signer is not None:
        raise ForgedError(f"{name}: only the root may say that a pack supersedes another")
    if not is_list(_ROWS[kind])(rows):
        raise DamagedError(f"{name}: its rows are malformed")
    return Mark(name, kind, header["t"], signer, tuple(tuple(row) for row in rows))


def merge(marks: Iterable[Mark], rejected: Iterable[tuple[str, str]] = (), retired: Iterable[str] = ()) -> Marks:
    """One view over all mark objects."""
    objects = tuple(marks)
    packs: set[bytes] = set()
    lists: set[bytes] = set()
    intended: set[bytes] = set()
    tombstones: dict[bytes, Tombstone] = {}
    seen: dict[bytes, tuple[int, int | None]] = {}
    last_look: int | None = None
    superseded: dict[bytes, list[bytes]] = {}
    resealed: dict[bytes, int] = {}
    for mark in sorted(objects, key=lambda item: (item.time_ns, item.name)):
        if mark.kind == MARK:
            for target, sha256 in mark.rows:
                (packs if target == PACK_TARGET else lists).add(sha256)
        elif mark.kind == INTENT:
            intended.update(row[1] for row in mark.rows)
        elif mark.kind == TOMBSTONE:
            tombstones.update({row[3]: Tombstone(*row) for row in mark.rows})
        elif mark.kind == SUPERSEDES:
            for old, new, size in mark.rows:
                superseded.setdefault(old, []).append(new)
                resealed[new] = size
        else:
            last_look = mark.time_ns if last_look is None else max(last_look, mark.time_ns)
            for snapshot, before in mark.rows:
                if snapshot not in seen or seen[snapshot][0] > mark.time_ns:
                    seen[snapshot] = (mark.time_ns, before)
    return Marks(
        frozenset(packs),
        frozenset(lists),
        frozenset(intended),
        tombstones,
        seen,
        last_look,
        objects,
        tuple(rejected),
        {old: tuple(new) for old, new in superseded.items()},
        resealed,
        tuple(retired),
    )
