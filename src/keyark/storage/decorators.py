"""Decorators of the Storage protocol: read-only, logging, retrying."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from keyark.clock import Clock
from keyark.errors import ObjectExists, ObjectNotFound, StorageDenied, StorageError, StorageFull
from keyark.storage.protocol import Capabilities, ColdState, ObjectInfo, Parts, RetainUntil, Storage, as_parts

T = TypeVar("T")
_PERMANENT = (ObjectExists, ObjectNotFound, StorageDenied, StorageFull)


class Forwarding:
    """Passes every call on. Base of the decorators."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner

    @property
    def location(self) -> str:
        return self.inner.location

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
        self.inner.put(
            name, data, create_only=create_only, retention=retention, storage_class=storage_class, metadata=metadata
        )

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self.inner.get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def stat(self, name: str) -> ObjectInfo:
        return self.inner.stat(name)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def remove_leftovers(self, before_ns: int) -> int:
        return self.inner.remove_leftovers(before_ns)

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def request_restore(self, name: str) -> ColdState:
        return self.inner.request_restore(name)

    def close(self) -> None:
        self.inner.close()


class ReadOnly(Forwarding):
    """Refuses every change."""

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
        raise StorageDenied(f"{name}: the storage was opened read-only")

    def delete(self, name: str) -> None:
        raise StorageDenied(f"{name}: the storage was opened read-only")

    def remove_leftovers(self, before_ns: int) -> int:
        raise StorageDenied(f"{self.location}: the storage was opened read-only")


class Logging(Forwarding):
    """Logs every call: name and size, never content."""

    def __init__(self, inner: Storage, logger: logging.Logger) -> None:
        super().__init__(inner)
        self._logger = logger

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
        self._logger.debug("put %s (%d bytes)", name, sum(len(part) for part in as_parts(data)))
        super().put(
            name, data, create_only=create_only, retention=retention, storage_class=storage_class, metadata=metadata
        )

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._logger.debug("get %s [%d:%s]", name, start, "" if length is None else start + length)
        return super().get(name, start, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._logger.debug("list %s", prefix or "(everything)")
        return super().list(prefix)

    def delete(self, name: str) -> None:
        self._logger.debug("delete %s", name)
        super().delete(name)


class Retrying(Forwarding):
    """Tries again, with doubling pauses, what failed for a reason that may pass.

    A create-only put whose answer was lost looks like "exists": the object is read back and compared before failing.
    """

    def __init__(self, inner: Storage, clock: Clock, *, attempts: int = 5, first_pause: float = 0.2) -> None:
        super().__init__(inner)
        self._clock = clock
        self._attempts = attempts
        self._first_pause = first_pause  # seconds

    def _again(self, call: Callable[[], T]) -> T:
        pause = self._first_pause
        for _ in range(self._attempts - 1):
            try:
                return call()
            except _PERMANENT:
                raise
            except StorageError:
                self._clock.sleep(pause)
                pause *= 2
        return call()

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
        failed_before = False

        def attempt() -> None:
            nonlocal failed_before
            try:
                self.inner.put(
                    name,
                    data,
                    create_only=create_only,
                    retention=retention,
                    storage_class=storage_class,
                    metadata=metadata,
                )
            except ObjectExists:
                if not failed_before or self.inner.get(name) != b"".join(as_parts(data)):
                    raise
            except StorageError:
                failed_before = True
                raise

        self._again(attempt)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self._again(lambda: self.inner.get(name, start, length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(self._again(lambda: list(self.inner.list(prefix))))

    def stat(self, name: str) -> ObjectInfo:
        return self._again(lambda: self.inner.stat(name))

    def delete(self, name: str) -> None:
        failed_before = False

        def attempt() -> None:
            nonlocal failed_before
            try:
                self.inner.delete(name)
            except ObjectNotFound:
                if not failed_before:  # otherwise it was done, and the answer lost
                    raise
            except StorageError:
                failed_before = True
                raise

        self._again(attempt)

    def remove_leftovers(self, before_ns: int) -> int:
        return self._again(lambda: self.inner.remove_leftovers(before_ns))
