"""A storage that misbehaves on purpose: for tests, drills and `keyark.storage.conformance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from keyark.errors import StorageError
from keyark.storage.decorators import Forwarding
from keyark.storage.protocol import Parts, RetainUntil, Storage

# Called with the operation (put, get, list, stat, delete) and the name before each call; raises to make it fail.
BeforeCall = Callable[[str, str], None]
# Called with the name and the bytes read; what it returns is handed out instead.
OnRead = Callable[[str, bytes], bytes]


class FaultInjecting(Forwarding):
    """Fails, corrupts or loses answers as told.

    ``lose_answer`` names puts that are carried out and then reported as failed, as a broken connection does.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        before: BeforeCall | None = None,
        on_read: OnRead | None = None,
        lose_answer: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(inner)
        self._before = before
        self._on_read = on_read
        self._lose_answer = lose_answer

    def _check(self, operation: str, name: str) -> None:
        if self._before is not None:
            self._before(operation, name)

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
        if self._lose_answer is not None and self._lose_answer(name):
            raise StorageError(f"{name}: the connection broke before the answer")

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        self._check("get", name)
        data = super().get(name, start, length)
        return data if self._on_read is None else self._on_read(name, data)

    def delete(self, name: str) -> None:
        self._check("delete", name)
        super().delete(name)
