"""Replicating a repository to another place, object by object, without opening anything."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from keyark.errors import ConflictError, DamagedError, ObjectExists, ObjectNotFound
from keyark.operation import Context, Progress
from keyark.repository import names, readme
from keyark.repository.names import parse_name
from keyark.repository.repository import Repository
from keyark.storage.protocol import ObjectInfo, Storage

# What is referred to comes before what refers to it, so that an interrupted copy is sound; keyrings make it a repository.
_ORDER = ("wraps", "packs", "packlists", "index", "marks", "keys", "snapshots")
_PLAIN = (names.README, names.READER)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was replicated."""

    objects: int
    bytes: int
    skipped: int  # there already


def copy(repository: Repository, destination: Storage, context: Context) -> CopyReport:
    """Copy every object that the destination lacks. Names that carry a hash are checked on the way.

    README.txt and recover.py come last, over older ones, and only as the keyring records them. ConflictError when another
    repository is there. DamagedError, once everything else was copied, when an object is not what its name or the keyring
    says, here or there.
    """
    context.recorder.before("copy", {})
    source = repository.storage
    present = {info.name: info.size for info in destination.list()}
    shown = _list(source)
    ours = {info.name for info in shown}
    if any(name.startswith("keys/") and name not in ours for name in present):
        raise ConflictError(
            f"{destination.location} holds another repository, or a newer keyring of this one; nothing was copied"
        )
    todo = sorted((info for info in shown if info.name not in present), key=_rank)
    skipped = len(shown) - len(todo)
    total = sum(info.size for info in todo)
    copied = done = 0
    damaged = [
        f"{info.name}: has {present[info.name]} bytes at {destination.location} instead of {info.size}"
        for info in shown
        if _has_hash(info.name) and present.get(info.name, info.size) != info.size
    ]
    for info in todo:
        context.cancel.check()
        try:
            data = source.get(info.name)
            _check(info, data)
            destination.put(info.name, data)
        except ObjectNotFound:
            continue  # pruned meanwhile
        except ObjectExists:
            skipped += 1
            continue
        except DamagedError as e:
            damaged.append(str(e))
            context.warn(str(e))
            continue
        copied, done = copied + len(data), done + 1
        context.progress(Progress("copy", done, len(todo), copied, total, info.name))
    for name in _PLAIN:
        try:
            length = _copy_plain(repository, destination, name)
        except DamagedError as e:
            damaged.append(str(e))
            context.warn(str(e))
            continue
        copied, done, skipped = copied + length, done + (length > 0), skipped + (length == 0)
    context.recorder.after("copy", {"objects": done, "damaged": len(damaged)}, None)
    if damaged:
        raise DamagedError(
            f"{damaged[0]}. {len(damaged)} objects are damaged, all others were copied; see `keyark verify`"
        )
    return CopyReport(done, copied, skipped)


def _list(source: Storage) -> list[ObjectInfo]:
    """Everything to copy. Snapshots and keyrings first: what they rest on was stored before, so a later listing shows it.

    A snapshot that is stored between the two listings is left for the next copy.
    """
    referring = [info for prefix in ("snapshots/", "keys/") for info in source.list(prefix)]
    others = [info for info in source.list() if not info.name.startswith(("snapshots/", "keys/"))]
    return referring + [info for info in others if info.name not in _PLAIN]


def _has_hash(name: str) -> bool:
    """Whether the name says what the bytes are, so that two copies of it cannot differ."""
    parsed = parse_name(name)
    return parsed is not None and parsed.sha256 is not None


def _copy_plain(repository: Repository, destination: Storage, name: str) -> int:
    """Copy README.txt or recover.py, unless it is there already; the number of bytes copied."""
    judged = readme.judge(repository.storage, repository.generations.chain)
    wrong = {item: what for item, what, fatal in judged if fatal}
    if name in wrong:
        raise DamagedError(f"{wrong[name]}; it was not copied")
    try:
        data = repository.storage.get(name)
    except ObjectNotFound:
        return 0  # an old repository that has none
    try:
        if destination.get(name) == data:
            return 0
    except ObjectNotFound:
        pass
    destination.put(name, data, create_only=False)
    return len(data)


def _rank(info: ObjectInfo) -> tuple[int, str]:
    top = info.name.partition("/")[0]
    return (_ORDER.index(top) if top in _ORDER else len(_ORDER), info.name)


def _check(info: ObjectInfo, data: bytes) -> None:
    name = parse_name(info.name)
    if name is not None and name.sha256 is not None and hashlib.sha256(data).digest() != name.sha256:
        raise DamagedError(f"{info.name}: its bytes are not what its name says; it was not copied")
