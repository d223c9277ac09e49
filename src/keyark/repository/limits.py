"""A storage seen through the limits of the format: nothing larger than its type allows is ever read at once.

The storage is an adversary: an object of a terabyte must be a finding about that object, not the end of this process.
"""

from __future__ import annotations

from keyark.errors import DamagedError
from keyark.repository.names import parse_name
from keyark.repository.wire import MAX_SIZE, MIB
from keyark.storage.decorators import Forwarding

_MAX_PLAIN = MIB  # README.txt and the reader, bytes


class Limited(Forwarding):
    """Reads objects, and ranges of them, only up to their type's largest size; DamagedError beyond it."""

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        parsed = parse_name(name)
        limit = _MAX_PLAIN if parsed is None else MAX_SIZE[parsed.type]
        data = super().get(name, start, limit + 1 if length is None else min(length, limit + 1))
        if len(data) > limit:
            raise DamagedError(f"{name}: is larger than the {limit} bytes that an object of its type may have")
        return data
