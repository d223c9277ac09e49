"""What every storage promises (docs/architecture.md): small, whole, durable objects under plain names.

A put is atomic (whole or absent) and durable when it returns; a read after it sees it. Every error is one of
`keyark.errors`: ObjectNotFound, ObjectExists, StorageDenied, StorageFull, StorageError (unreachable), and DamagedError when one
object cannot be read though the storage works. ObjectExists promises what a put does: that object is durable. Objects are
written once and never changed; README.txt is the only name that is not derived from content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from keyark.errors import StorageError

Data = bytes | bytearray | memoryview
Parts = Data | Sequence[Data]

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,200}(?:/(?!\.)[A-Za-z0-9._-]{1,200}){0,7}")


def check_name(name: str) -> str:
    """Return ``name``; StorageError when it is not a plain relative name (no dots in front, no empty parts)."""
    if not _NAME.fullmatch(name):
        raise StorageError(f"{name!r} is not an object name")
    return name


def as_parts(data: Parts) -> Sequence[Data]:
    """``data`` as a sequence of buffers."""
    return (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object. ``modified_ns`` is the storage's own time, or 0 when it has none."""

    name: str
    size: int
    modified_ns: int = 0


class Retention(Enum):
    """How strictly an object is held: administrators may lift GOVERNANCE, nobody COMPLIANCE."""

    GOVERNANCE = "governance"
    COMPLIANCE = "compliance"


@dataclass(frozen=True, slots=True)
class RetainUntil:
    """Keep an object at least until ``until_ns`` (Unix time)."""

    mode: Retention
    until_ns: int


class ColdState(Enum):
    """Whether an object can be read now."""

    AVAILABLE = "available"
    RESTORING = "restoring"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this storage can do, as probed or known."""

    create_only: bool  # two racing puts of one name: exactly one wins
    atomic_put: bool
    durable: bool
    ranges: bool
    delete: bool
    retention: bool
    forkable: bool = False  # a forked process may go on using it


class Storage(Protocol):
    """One place that holds objects. Safe to use from several threads."""

    @property
    def location(self) -> str:
        """Where it is, for people. Never holds credentials."""
        ...

    def put(
        self,
        name: str,
        data: Parts,
        *,
        create_only: bool = True,
        retention: RetainUntil | None = None,
        storage_class: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Store an object. With ``create_only``, ObjectExists when there is one of that name."""
        ...

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``start``, at most ``length``; fewer only at the end of the object. ObjectNotFound when there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix ("" or one that ends in a slash), in any order."""
        ...

    def stat(self, name: str) -> ObjectInfo:
        """Size and time of one object. ObjectNotFound when there is none."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object. ObjectNotFound when there is none."""
        ...

    def remove_leftovers(self, before_ns: int) -> int:
        """Remove what puts that were interrupted before ``before_ns`` (Unix time) left behind; returns how many."""
        ...

    def capabilities(self) -> Capabilities: ...

    def request_restore(self, name: str) -> ColdState:
        """Ask for an object of an archive tier."""
        ...

    def close(self) -> None: ...
