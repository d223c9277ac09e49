"""Packs: signed objects of sealed blocks and a sealed directory (docs/format.md, section 6)."""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyark.crypto.hpke import PrivateKey, PublicKey, hpke_info, open_sealed, seal_to
from keyark.crypto.signing import SigningKey, VerifyKey, signature_length
from keyark.crypto.suites import Aead, Suite, key_length, overhead, padme, seal, stream_nonce, unseal
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.blocks import MAX_CHUNKS, MAX_RAW, Block, split_block
from keyark.repository.names import pack_name
from keyark.repository.wire import Head, ObjectType, is_bytes, is_data, is_key_number, optional
from keyark.secret import Secret

PACK_TARGET = 16 << 20  # bytes after which a pack is closed
_DIRECTORY_LENGTH = struct.Struct(">I")
_ENTRY = struct.Struct(">II")  # sealed length of the block, number of chunks
_FIELDS = {
    "r": is_bytes(32),
    "c": is_bytes(16),
    "w": optional(is_bytes(16)),
    "e": is_bytes(16),
    "g": is_key_number,
    "t": lambda value: value in (0, 1),
    "k": is_data,
}
MAX_SEALED_BLOCK = 2 * MAX_RAW  # bytes; a block's padding is at most 12% of its pack
_SYMMETRIC_SEAL_COST = 32 + 16  # salt and tag; the directory is always sealed with AES-256-GCM


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where a block lies in its pack, how many chunks it holds, and (where known) their ids, in order, concatenated."""

    offset: int
    length: int
    count: int
    ids: bytes = b""


@dataclass(frozen=True, slots=True)
class PackFacts:
    """Everything that the packs of one writer, compartment and epoch have in common."""

    repository: bytes
    compartment: bytes
    writer: bytes | None  # None: re-sealed by the root
    epoch: bytes
    epoch_public: PublicKey
    generation: int  # of the compartment's id and index keys
    index_key: Secret
    suite: Suite
    signer: SigningKey


@dataclass(frozen=True, slots=True)
class SealedPack:
    """A finished pack, ready to be stored."""

    sha256: bytes
    parts: Sequence[wire.Buffer]
    size: int
    kind: int  # chunkids.DATA or chunkids.TREE
    data_length: int  # bytes of chunk data before compression
    blocks: tuple[BlockPlace, ...]

    @property
    def name(self) -> str:
        return pack_name(self.sha256)


def _data_key_info(repository: bytes, compartment: bytes, epoch: bytes, suite: int, kem: int) -> bytes:
    return hpke_info(repository, compartment, epoch, suite, kem, "pack")


class PackAssembler:
    """Seals blocks into packs. The last block of a pack is only known afterwards, so one block is held back."""

    def __init__(self, facts: PackFacts, kind: int, target: int = PACK_TARGET) -> None:
        self._facts = facts
        self._kind = kind
        self._target = target
        self._begin()

    def _begin(self) -> None:
        self._held: Block | None = None
        self._aead: Aead | None = None
        self._sealed: list[bytes] = []
        self._places: list[BlockPlace] = []
        self._size = 0
        self._data_length = 0

    def add(self, block: Block) -> SealedPack | None:
        """Add a block; returns the pack that it completed, if any."""
        self._seal_held(last=False)
        self._held = block
        return self.finish() if self._size + block.length >= self._target else None

    def finish(self) -> SealedPack | None:
        """Close the pack under way; None when there is nothing in it."""
        if self._held is None:
            return None
        facts = self._facts
        fixed = (
            self._size
            + _DIRECTORY_LENGTH.size
            + signature_length(facts.signer.scheme)
            + overhead(facts.suite)
            + self._held.length
        )
        entries = 4 + sum(_ENTRY.size + len(place.ids) for place in self._places)
        entries += _ENTRY.size + 32 * len(self._held.ids)
        fixed += padme(entries) + _SYMMETRIC_SEAL_COST
        self._seal_held(last=True, padding=padme(fixed) - fixed)
        directory = encode_directory(self._places)
        directory += bytes(padme(len(directory)) - len(directory))
        sealed = seal(
            Suite.AES_256_GCM,
            facts.index_key.reveal(),
            directory,
            repository=facts.repository,
            compartment=facts.compartment,
            kind="pack directory",
            aad=self._head_digest,
        )
        body = [self._head, *self._sealed, sealed, _DIRECTORY_LENGTH.pack(len(sealed))]
        parts, sha256 = wire.sign_parts(ObjectType.PACK, body, facts.signer, facts.repository)
        pack = SealedPack(sha256, parts, sum(map(len, parts)), self._kind, self._data_length, tuple(self._places))
        self._begin()
        return pack

    def _open_pack(self) -> Aead:
        facts = self._facts
        key = secrets.token_bytes(key_length(facts.suite))
        info = _data_key_info(
            facts.repository, facts.compartment, facts.epoch, facts.suite, int(facts.epoch_public.kem)
        )
        header = {
            "r": facts.repository,
            "c": facts.compartment,
            "w": facts.writer,
            "e": facts.epoch,
            "g": facts.generation,
            "t": self._kind,
            "k": seal_to(facts.epoch_public, key, info),
        }
        self._head = wire.encode_head(ObjectType.PACK, facts.suite, facts.signer.scheme, header)
        self._head_digest = hashlib.sha256(self._head).digest()
        self._size = len(self._head)
        return Aead(facts.suite, key)

    def _seal_held(self, *, last: bool, padding: int = 0) -> None:
        block, self._held = self._held, None
        if block is None:
            if self._aead is None:
                self._aead = self._open_pack()
            return
        if self._aead is None:
            self._aead = self._open_pack()
        plain = b"".join((block.head, block.payload, bytes(padding)))
        sealed = self._aead.encrypt(stream_nonce(len(self._places), last), plain, self._head_digest)
        self._places.append(BlockPlace(self._size, len(sealed), len(block.ids), b"".join(block.ids)))
        self._sealed.append(sealed)
        self._size += len(sealed)
        self._data_length += block.data_length


def encode_directory(places: Sequence[BlockPlace]) -> bytes:
    """Number of blocks, then for each its sealed length, its number of chunks and their ids."""
    out = [len(places).to_bytes(4, "big")]
    for place in places:
        out.append(_ENTRY.pack(place.length, place.count))
        out.append(place.ids)
    return b"".join(out)


def decode_directory(data: bytes, first_offset: int, what: str, *, padded: bool) -> tuple[BlockPlace, ...]:
    """Read a directory; blocks follow each other from ``first_offset``."""
    if len(data) < 4:
        raise DamagedError(f"{what}: its directory is too short")
    count = int.from_bytes(data[:4], "big")
    if count > len(data) // _ENTRY.size:
        raise DamagedError(f"{what}: its directory announces {count} blocks, more than it can hold")
    places = []
    position, offset = 4, first_offset
    for _ in range(count):
        if position + _ENTRY.size > len(data):
            raise DamagedError(f"{what}: its directory is cut short")
        length, chunks = _ENTRY.unpack_from(data, position)
        if length > MAX_SEALED_BLOCK or chunks > MAX_CHUNKS:
            raise DamagedError(f"{what}: its directory announces a block that is larger than any")
        position += _ENTRY.size
        end = position + 32 * chunks
        if end > len(data):
            raise DamagedError(f"{what}: its directory is cut short")
        places.append(BlockPlace(offset, length, chunks, data[position:end]))
        position, offset = end, offset + length
    if data.count(0, position) != len(data) - position or (not padded and position != len(data)):
        raise DamagedError(f"{what}: its directory has bytes too many")
    return tuple(places)


@dataclass(frozen=True, slots=True)
class PackHead:
    """A pack's header, checked for form only."""

    head: Head
    name: str
    compartment: bytes
    writer: bytes | None  # None: the root
    epoch: bytes
    generation: int
    kind: int
    sealed_key: bytes

    def open_key(self, repository: bytes, epoch_private: PrivateKey) -> Aead:
        """The AEAD of this pack's blocks, with the epoch's private key."""
        suite = Suite(self.head.suite)
        info = _data_key_info(repository, self.compartment, self.epoch, suite, int(epoch_private.kem))
        key = open_sealed(epoch_private, self.sealed_key, info)
        if len(key) != key_length(suite):
            raise DamagedError(f"{self.name}: its data key has the wrong length for its suite")
        return Aead(suite, key)


def parse_pack_head(data: bytes, name: str, repository: bytes) -> PackHead:
    """Parse the start of a pack."""
    head = wire.parse_head(data, ObjectType.PACK, name)
    header = wire.expect(head.header, _FIELDS, name)
    if header["r"] != repository:
        raise ForgedError(f"{name}: belongs to another repository")
    if head.suite == 0:
        raise DamagedError(f"{name}: names no cipher suite")
    return PackHead(head, name, header["c"], header["w"], header["e"], header["g"], header["t"], header["k"])


def read_directory(pack: PackHead, sealed: bytes, index_key: Secret, repository: bytes) -> tuple[BlockPlace, ...]:
    """Open a pack's sealed directory."""
    plain = unseal(
        Suite.AES_256_GCM,
        index_key.reveal(),
        sealed,
        repository=repository,
        compartment=pack.compartment,
        kind="pack directory",
        aad=pack.head.digest,
    )
    return decode_directory(plain, pack.head.length, pack.name, padded=True)


def directory_range(size: int, scheme: int, tail: bytes, name: str) -> tuple[int, int]:
    """Where the sealed directory lies: (start, length). ``tail`` ends with the object's last bytes."""
    end = len(tail) - signature_length(scheme)
    if end < _DIRECTORY_LENGTH.size:
        raise DamagedError(f"{name}: truncated, no room for its directory")
    (length,) = _DIRECTORY_LENGTH.unpack_from(tail, end - _DIRECTORY_LENGTH.size)
    start = size - signature_length(scheme) - _DIRECTORY_LENGTH.size - length
    if start < wire.PREAMBLE_LENGTH:
        raise DamagedError(f"{name}: its directory is longer than the pack")
    return start, length


def open_block(
    pack: PackHead, aead: Aead, number: int, place: BlockPlace, sealed: bytes, *, last: bool
) -> list[memoryview]:
    """Decrypt and split one block; DamagedError when it is not what was sealed there."""
    plain = decrypt_block(pack, aead, number, place, sealed, last=last)
    return split_block(plain, place.count, f"{pack.name}, block {number}")


def decrypt_block(pack: PackHead, aead: Aead, number: int, place: BlockPlace, sealed: bytes, *, last: bool) -> bytes:
    """Decrypt one block; DamagedError when it is not what was sealed there."""
    what = f"{pack.name}, block {number}"
    if len(sealed) != place.length:
        raise DamagedError(f"{what}: truncated")
    try:
        return aead.decrypt(stream_nonce(number, last), sealed, pack.head.digest)
    except DamagedError as e:
        raise DamagedError(f"{what}: damaged (authentication failed)") from e


def check_whole(data: bytes, name: str, sha256: bytes, repository: bytes, signer: VerifyKey) -> None:
    """Verify name and signature of a pack that was read as a whole."""
    parsed = wire.parse(data, ObjectType.PACK, name)
    if parsed.sha256 != sha256:
        raise DamagedError(f"{name}: its bytes are not what its name says")
    wire.verify(parsed, signer, repository, name)


def iterate_ids(place: BlockPlace) -> Iterator[bytes]:
    """The chunk ids of a block, in order."""
    ids = place.ids
    for position in range(0, len(ids), 32):
        yield ids[position : position + 32]
