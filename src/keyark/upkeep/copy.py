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
    repository is there; DamagedError names an object that is not what its name or the keyring says.
    """
    context.recorder.before("copy", {})
    source = repository.storage
    present = {info.name for info in destination.list()}
    ours = {info.name for info in source.list("keys/")}
    if any(name.startswith("keys/") and name not in ours for name in present):
        raise ConflictError(
            f"{destination.location} holds another repository, or a newer keyring of this one; nothing was copied"
        )
    everything = [info for info in source.list() if info.name not in _PLAIN]
    todo = sorted((info for info in everything if info.name not in present), key=_rank)
    skipped = len(everything) - len(todo)
    total = sum(info.size for info in todo)
    copied = done = 0
    for info in todo:
        context.cancel.check()
        try:
            data = source.get(info.name)
        except ObjectNotFound:
            continue  # pruned meanwhile
        _check(info, data)
        try:
            destination.put(info.name, data)
        except ObjectExists:
            skipped += 1
            continue
        copied, done = copied + len(data), done + 1
        context.progress(Progress("copy", done, len(todo), copied, total, info.name))
    for name in _PLAIN:
        length = _copy_plain(repository, destination, name)
        copied, done, skipped = copied + length, done + (length > 0), skipped + (length == 0)
    context.recorder.after("copy", {"objects": done}, None)
    return CopyReport(done, copied, skipped)


def _copy_plain(repository: Repository, destination: Storage, name: str) -> int:
    """Copy README.txt or recover.py, unless it is there already; the number of bytes copied."""
    judged = readme.judge(repository.storage, repository.generations.chain)
    wrong = {item: what for item, what, fatal in judged if fatal}
    if name in wrong:
        raise DamagedError(f"{wrong[name]}; it was not copied, everything else was")
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
