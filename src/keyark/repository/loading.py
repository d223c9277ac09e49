"""Loading and verifying what operators and writers have signed: marks, snapshots, pack lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from keyark.errors import ForgedError, IntegrityError, ObjectNotFound
from keyark.repository.keyring import Keyring, Writer
from keyark.repository.marks import Mark, Marks, decode_mark, merge
from keyark.repository.names import ObjectName, parse_name
from keyark.repository.packlists import PackList, decode_pack_list
from keyark.repository.snapshots import Snapshot, decode_snapshot
from keyark.repository.wire import ObjectType
from keyark.storage.protocol import Storage

T = TypeVar("T")
R = TypeVar("R")
_PARALLEL = 8  # requests under way; they wait on the storage, not on the processor

Rejected = tuple[str, str]  # object name, what is wrong with it


def load_marks(storage: Storage, keyring: Keyring) -> Marks:
    """Every valid mark; those that fail are listed as rejected, those of revoked operators as retired. Neither counts."""
    operators = {name: item.verify for name, item in keyring.operators.items()}
    revoked = {name for name, item in keyring.operators.items() if item.revoked}

    def load(name: str) -> Mark | Rejected | None:
        try:
            return decode_mark(storage.get(name), name, keyring.repository, keyring.root, operators)
        except ObjectNotFound:
            return None
        except IntegrityError as e:
            return name, str(e)

    names = [info.name for info in storage.list("marks/")]
    rejected = [(name, f"{name}: not the name of a mark") for name in names if not _is(name, ObjectType.MARK)]
    found = _map(load, (name for name in names if _is(name, ObjectType.MARK)))
    signed = [item for item in found if isinstance(item, Mark)]
    return merge(
        [item for item in signed if item.signer not in revoked],
        rejected + [item for item in found if isinstance(item, tuple)],
        [item.name for item in signed if item.signer in revoked],
    )


def load_snapshots(storage: Storage, keyring: Keyring) -> tuple[list[Snapshot], list[Rejected]]:
    """Every snapshot whose form, name, signature and writer are right, and what was wrong with the others."""

    def load(item: tuple[str, ObjectName | None]) -> Snapshot | Rejected | None:
        text, name = item
        if name is None or name.type is not ObjectType.SNAPSHOT:
            return text, f"{text}: not the name of a snapshot"
        try:
            writer = writer_of(keyring, name, text)
            return decode_snapshot(storage.get(text), text, keyring.repository, writer.verify)
        except ObjectNotFound:
            return None
        except IntegrityError as e:
            return text, str(e)

    found = _map(load, ((info.name, parse_name(info.name)) for info in storage.list("snapshots/")))
    return [item for item in found if isinstance(item, Snapshot)], [item for item in found if isinstance(item, tuple)]


def load_pack_list(storage: Storage, keyring: Keyring, name: str) -> PackList:
    """One pack list, verified. ObjectNotFound when it is missing."""
    parsed = parse_name(name)
    if parsed is None or parsed.type is not ObjectType.PACK_LIST:
        raise ForgedError(f"{name}: not the name of a pack list")
    writer = writer_of(keyring, parsed, name)
    return decode_pack_list(storage.get(name), name, keyring.repository, writer.verify)


def writer_of(keyring: Keyring, name: ObjectName, text: str) -> Writer:
    """The writer that a name claims, checked against its compartment."""
    writer = keyring.writers.get(name.writer or b"")
    if writer is None:
        raise ForgedError(f"{text}: names a writer that the keyring does not know")
    if writer.compartment != name.compartment:
        raise ForgedError(f"{text}: its writer belongs to another compartment")
    return writer


def _is(name: str, kind: ObjectType) -> bool:
    parsed = parse_name(name)
    return parsed is not None and parsed.type is kind


def _map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    todo = list(items)
    if len(todo) <= 1:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(function, todo))
