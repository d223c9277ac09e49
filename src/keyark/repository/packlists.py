"""Pack lists: which packs a snapshot rests on, sealed to the listing key (docs/format.md, section 8).

They are objects of their own so that consecutive snapshots share them: a backup of nothing new adds none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyark.crypto.hpke import PrivateKey, PublicKey, hpke_info, open_sealed, seal_to
from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.names import pack_list_name
from keyark.repository.wire import ObjectType, is_bytes, is_key_number

LIST_ENTRIES = 1024  # packs in one list
_ROW = struct.Struct(">32sQQQ")
_FIELDS = {"r": is_bytes(32), "c": is_bytes(16), "w": is_bytes(16), "l": is_key_number}


@dataclass(frozen=True, slots=True, order=True)
class PackUse:
    """One pack in a list. ``used`` is an upper bound: bytes of the pack's chunks that the snapshot refers to."""

    sha256: bytes
    size: int  # stored bytes
    data_length: int  # bytes of all its chunks
    used: int
    earlier: tuple[bytes, ...] = ()  # packs that hold the same under older keys: the one that the list names, and so on

    @property
    def names(self) -> tuple[bytes, ...]:
        """Every pack that serves, the best first."""
        return (self.sha256, *reversed(self.earlier))


def group(uses: Sequence[PackUse]) -> Iterator[tuple[PackUse, ...]]:
    """Split into lists. The order given is kept: oldest packs first makes the early lists stable."""
    for start in range(0, len(uses), LIST_ENTRIES):
        yield tuple(uses[start : start + LIST_ENTRIES])


def encode_rows(uses: Sequence[PackUse]) -> bytes:
    return b"".join(_ROW.pack(use.sha256, use.size, use.data_length, use.used) for use in uses)


def encode_pack_list(
    uses: Sequence[PackUse],
    repository: bytes,
    compartment: bytes,
    writer: bytes,
    listing: tuple[int, PublicKey],
    signer: SigningKey,
) -> tuple[Sequence[wire.Buffer], bytes]:
    """Seal and sign one list."""
    number, key = listing
    header = {"r": repository, "c": compartment, "w": writer, "l": number}
    info = hpke_info(repository, compartment, number.to_bytes(4, "big"), 0, int(key.kem), "pack list")
    sealed = seal_to(key, encode_rows(uses), info)
    return wire.sign_object(ObjectType.PACK_LIST, 0, header, [sealed], signer, repository)


@dataclass(frozen=True, slots=True)
class PackList:
    """A pack list whose name and signature have verified."""

    name: str
    repository: bytes
    compartment: bytes
    listing: int
    sealed: bytes

    def open(self, key: PrivateKey) -> tuple[PackUse, ...]:
        """The packs, with the listing key."""
        info = hpke_info(
            self.repository, self.compartment, self.listing.to_bytes(4, "big"), 0, int(key.kem), "pack list"
        )
        plain = open_sealed(key, self.sealed, info)
        if len(plain) % _ROW.size or len(plain) > LIST_ENTRIES * _ROW.size:
            raise DamagedError(f"{self.name}: its rows are cut short, or more than {LIST_ENTRIES}")
        return tuple(PackUse(*row) for row in _ROW.iter_unpack(plain))


def decode_pack_list(data: bytes, name: str, repository: bytes, signer: VerifyKey) -> PackList:
    """Read and verify a pack list."""
    parsed = wire.parse(data, ObjectType.PACK_LIST, name)
    header = wire.expect(parsed.header, _FIELDS, name)
    if header["r"] != repository:
        raise ForgedError(f"{name}: belongs to another repository")
    if pack_list_name(header["c"], header["w"], parsed.sha256) != name:
        raise ForgedError(f"{name}: its name is not what its bytes say")
    wire.verify(parsed, signer, repository, name)
    return PackList(name, repository, header["c"], header["l"], parsed.body)
