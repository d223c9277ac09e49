"""Labels of slots, writers, operators and compartments: names of people, sealed to the listing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyark.crypto.hpke import PublicKey, hpke_info, open_sealed, seal_to
from keyark.errors import UsageError

if TYPE_CHECKING:
    from keyark.repository.unlocked import Unlocked

_LENGTH = 128  # bytes every label is padded to, so that its length tells nothing


def seal_label(text: str, repository: bytes, listing: tuple[int, PublicKey]) -> bytes:
    """Seal a label: number of the listing key (u32), then HPKE of the padded text."""
    encoded = text.encode()
    if len(encoded) >= _LENGTH or "\0" in text:
        raise UsageError(f"the name {text!r} is too long; {_LENGTH - 1} bytes are the limit")
    number, key = listing
    padded = encoded + bytes(_LENGTH - len(encoded))
    return number.to_bytes(4, "big") + seal_to(key, padded, _info(repository, number, int(key.kem)))


def open_label(keys: Unlocked, sealed: bytes) -> str:
    """Open a label with the listing key of the run."""
    number = int.from_bytes(sealed[:4], "big")
    key = keys.listing(number)
    plain = open_sealed(key, sealed[4:], _info(keys.repository, number, int(key.kem)))
    return plain.rstrip(b"\0").decode("utf-8", "replace")


def _info(repository: bytes, number: int, kem: int) -> bytes:
    return hpke_info(repository, b"", number.to_bytes(4, "big"), 0, kem, "label")
