"""A storage that misbehaves on purpose: for tests, drills and `keyark.storage.conformance`.

`FaultInjecting` takes hooks; the functions below make the usual ones: failing the n-th call or at random, truncated and
flipped reads, delays, listings in another order, writes that are reported as failed although they happened.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from keyark.errors import StorageError
from keyark.storage.decorators import Forwarding
from keyark.storage.protocol import ObjectInfo, Parts, RetainUntil, Storage

# Called with the operation (put, get, list, stat, delete) and the name before each call; raises to make it fail.
BeforeCall = Callable[[str, str], None]
# The same after a call that was carried out; raises to make it look failed.
AfterCall = Callable[[str, str], None]
# Called with the name and the bytes read; what it returns is handed out instead.
OnRead = Callable[[str, bytes], bytes]
# Called with a whole listing; what it returns is handed out instead.
OnList = Callable[[Sequence[ObjectInfo]], Sequence[ObjectInfo]]

EVERYTHING = frozenset({"put", "get", "list", "stat", "delete"})
CHANGES = frozenset({"put", "delete"})


class FaultInjecting(Forwarding):
    """Fails, corrupts, delays or loses answers as told.

    ``lose_answer`` names puts that are carried out and then reported as failed, as a broken connection does.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        before: BeforeCall | None = None,
        after: AfterCall | None = None,
        on_read: OnRead | None = None,
        on_list: OnList | None = None,
        lose_answer: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(inner)
        self._before = before
        self._after = after
        self._on_read = on_read
        self._on_list = on_list
        self._lose_answer = lose_answer

    def _check(self, operation: str, name: str) -> None:
        if self._before is not None:
            self._before(operation, name)

    def _done(self, operation: str, name: str) -> None:
        if self._after is not None:
            self._after(operation, name)

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
        self._check("put", name)
        super().put(
            name, data, create_only=create_only, retention=retention, storage_class=storage_class, metadata=metadata
        )
        self._done("put", name)
        if self._lose_answer is not None and self._lose_answer(name):
            raise StorageError(f"{name}: the connection broke before the answer")

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._check("get", name)
        data = super().get(name, start, length)
        self._done("get", name)
        return data if self._on_read is None else self._on_read(name, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._check("list", prefix)
        found: Sequence[ObjectInfo] = list(super().list(prefix))
        self._done("list", prefix)
        return iter(found if self._on_list is None else self._on_list(found))

    def stat(self, name: str) -> ObjectInfo:
        self._check("stat", name)
        info = super().stat(name)
        self._done("stat", name)
        return info

    def delete(self, name: str) -> None:
        self._check("delete", name)
        super().delete(name)
        self._done("delete", name)


class NthCall:
    """Does something at the n-th call of the operations given, counted over all threads; n is 1 for the first."""

    def __init__(self, n: int, operations: Container[str], action: Callable[[str, str], None]) -> None:
        self._n = n
        self._operations = operations
        self._action = action
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, operation: str, name: str) -> None:
        if operation not in self._operations:
            return
        with self._lock:
            self._count += 1
            hit = self._count == self._n
        if hit:
            self._action(operation, name)


def fail(operation: str, name: str) -> None:
    """An action: the storage is unreachable."""
    raise StorageError(f"{name or 'listing'}: {operation} failed, as it was told to")


def fail_nth(n: int, operations: Container[str] = EVERYTHING) -> BeforeCall:
    """Fail the n-th call, and no other."""
    return NthCall(n, operations, fail)


def fail_randomly(seed: int, share: float, operations: Container[str] = EVERYTHING) -> BeforeCall:
    """Fail this share of the calls."""
    rng, lock = random.Random(seed), threading.Lock()  # noqa: S311 - repeatable, not secret

    def before(operation: str, name: str) -> None:
        with lock:
            hit = operation in operations and rng.random() < share
        if hit:
            fail(operation, name)

    return before


def delay(seconds: float, operations: Container[str] = EVERYTHING) -> BeforeCall:
    """Wait before each call."""

    def before(operation: str, name: str) -> None:
        if operation in operations:
            time.sleep(seconds)

    return before


def truncate_reads(chosen: Callable[[str], bool]) -> OnRead:
    """Hand out only the first half of what is read from the objects chosen."""
    return lambda name, data: data[: len(data) // 2] if chosen(name) else data


def flip_reads(chosen: Callable[[str], bool], *, times: int | None = None) -> OnRead:
    """Flip one bit in the middle of what is read from the objects chosen, ``times`` times or always."""
    counter = itertools.count(1)

    def on_read(name: str, data: bytes) -> bytes:
        if not data or not chosen(name) or (times is not None and next(counter) > times):
            return data
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        return bytes(changed)

    return on_read


def shuffle_listings(seed: int) -> OnList:
    """Hand out listings in another order each time."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def on_list(found: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
        return rng.sample(list(found), len(found))

    return on_list
