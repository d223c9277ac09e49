"""Rebuilding the index from the packs' own directories."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from keyark.backup.commit import present_packs
from keyark.errors import ForgedError, IntegrityError, NoKeyError, NotAllowedError, ObjectNotFound, StorageDenied
from keyark.operation import Context
from keyark.repository.enrol import ensure_writer
from keyark.repository.index import MAX_CHUNKS, IndexedPack, encode_index
from keyark.repository.names import index_name, pack_name
from keyark.repository.repository import Repository


def repair_index(repository: Repository, context: Context) -> bool:
    """Remove index objects that are damaged, or say of a pack what it does not hold, and index every pack that no sound one
    names; True when anything was changed.

    Only packs of this machine's own compartment can be indexed: an index is signed by a writer of its compartment.
    """
    writer = ensure_writer(repository, socket.gethostname())
    compartment = writer.compartment
    if compartment is None:
        raise repository.keys.refuse("repair the index", "a writer's credential or an administrator's key")
    covered, damaged = _survey(repository)
    missing: dict[int, list[IndexedPack]] = {}
    for sha256 in present_packs(repository):
        if sha256 in covered:
            continue
        context.cancel.check()
        name = pack_name(sha256)
        try:
            head = repository.lookup.reader.head(name)
            if head.compartment != compartment:
                context.warn(f"{name}: of another compartment; repair the index there with its writer's credential")
                continue
            head, blocks, size = repository.lookup.reader.directory(name)
        except (IntegrityError, ObjectNotFound, NoKeyError) as e:
            context.warn(str(e))
            continue
        missing.setdefault(head.generation, []).append(IndexedPack(sha256, head.kind, size, size, blocks))
    for generation, packs in missing.items():
        keys = repository.keys.compartment(compartment, generation)
        for batch in _batches(packs):
            parts, sha256 = encode_index(
                batch, repository.id, compartment, writer.id, (generation, keys.index_key), writer.signing
            )
            repository.storage.put(index_name(compartment, writer.id, sha256), parts, create_only=False)
    for name in damaged:
        with contextlib.suppress(ObjectNotFound, StorageDenied):
            repository.storage.delete(name)
    return bool(missing or damaged)


def _survey(repository: Repository) -> tuple[set[bytes], list[str]]:
    covered: set[bytes] = set()
    damaged = []
    digests: dict[bytes, bytes | None] = {}
    for info in list(repository.storage.list("index/")):
        try:
            loaded = repository.lookup.load_index(info.name)
            keys = repository.keys.compartment(loaded.compartment, loaded.generation)
            _check_claims(repository, info.name, loaded.open(keys.index_key), digests)
        except ObjectNotFound:
            continue
        except (NoKeyError, NotAllowedError):
            covered.update(loaded.packs)  # of another compartment: its signature held, and that is all we can tell
        except IntegrityError:
            damaged.append(info.name)
        else:
            covered.update(loaded.packs)
    return covered, damaged


def _check_claims(
    repository: Repository, name: str, entries: Sequence[IndexedPack], digests: dict[bytes, bytes | None]
) -> None:
    """ForgedError when an index object says of a pack what the pack itself does not."""
    for entry in entries:
        if entry.sha256 not in digests:
            try:
                head, blocks, size = repository.lookup.reader.directory(pack_name(entry.sha256))
                digests[entry.sha256] = IndexedPack(entry.sha256, head.kind, size, 0, blocks).digest()
            except (IntegrityError, ObjectNotFound, NoKeyError):
                digests[entry.sha256] = None  # gone or damaged: found by itself
        own = digests[entry.sha256]
        if own is not None and own != entry.digest():
            raise ForgedError(f"{name}: says of {pack_name(entry.sha256)} what that pack does not hold")


def _batches(packs: list[IndexedPack]) -> list[list[IndexedPack]]:
    result: list[list[IndexedPack]] = [[]]
    chunks = 0
    for pack in packs:
        if chunks >= MAX_CHUNKS:
            result.append([])
            chunks = 0
        result[-1].append(pack)
        chunks += pack.chunk_count
    return result
