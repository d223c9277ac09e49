"""Fetching an object, never more of it than its type may have: the storage may have put anything under a name."""

from __future__ import annotations

from keyark.repository.wire import MAX_SIZE, ObjectType
from keyark.storage.protocol import Storage


def fetch(storage: Storage, name: str, kind: ObjectType) -> bytes:
    """An object's bytes. One over its type's limit comes a byte too long, which its parser refuses; ObjectNotFound when absent."""
    return storage.get(name, 0, MAX_SIZE[kind] + 1)
