"""The envelope of every object (docs/format.md, section 1): preamble, public header, body, signature.

Parsing is strict: unknown versions, types, suites, schemes and fields are refused by name, sizes are capped before
anything is allocated for them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from keyark.crypto.signing import SigningKey, VerifyKey, signature_length
from keyark.errors import DamagedError, ForgedError, KeyarkError

MAGIC = b"KEYARK"
VERSION = 1
_PREAMBLE = struct.Struct(">6sBBHBBI")
PREAMBLE_LENGTH = _PREAMBLE.size  # 16 bytes

MIB = 1 << 20


class ObjectType(IntEnum):
    """What an object is."""

    KEYRING = 1
    SLOT_WRAP = 2
    KEY_WRAP = 3
    PACK = 4
    INDEX = 5
    SNAPSHOT = 6
    MARK = 7
    PACK_LIST = 8


# Largest object of each type, bytes.
MAX_SIZE: Mapping[ObjectType, int] = {
    ObjectType.KEYRING: 64 * MIB,
    ObjectType.SLOT_WRAP: 64 << 10,
    ObjectType.KEY_WRAP: 64 << 10,
    ObjectType.PACK: 256 * MIB,
    ObjectType.INDEX: 64 * MIB,
    ObjectType.SNAPSHOT: 64 * MIB,
    ObjectType.MARK: 16 * MIB,
    ObjectType.PACK_LIST: 64 * MIB,
}
MAX_HEADER = MIB  # bytes
_KNOWN_SUITES = frozenset({0, 1, 2, 3, 4})
_KNOWN_SCHEMES = frozenset({0, 1, 2})

Buffer = bytes | memoryview | bytearray


@dataclass(frozen=True, slots=True)
class Head:
    """Preamble and header of an object."""

    type: ObjectType
    suite: int
    scheme: int
    header: Mapping[str, Any]
    length: int  # bytes of preamble and header
    digest: bytes  # SHA-256 of preamble and header: associated data of what the body seals


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole object, its signature not yet verified."""

    head: Head
    body: bytes
    signature: bytes
    signed_digest: bytes  # SHA-256 of everything before the signature
    sha256: bytes  # of the whole object

    @property
    def header(self) -> Mapping[str, Any]:
        return self.head.header


def pack(value: Any) -> bytes:
    """MessagePack with the shortest encodings."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate map key")
    return result


def unpack(data: Buffer, what: str) -> Any:
    """Decode MessagePack strictly; DamagedError names ``what`` when the bytes make no sense."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=no_duplicates)
    except (ValueError, msgpack.UnpackException, UnicodeDecodeError, RecursionError, TypeError) as e:
        raise DamagedError(f"{what}: not valid MessagePack ({e})") from e


def encode_head(kind: ObjectType, suite: int, scheme: int, header: Mapping[str, Any]) -> bytes:
    """Preamble and header as bytes."""
    encoded = pack(dict(header))
    return _PREAMBLE.pack(MAGIC, VERSION, kind, suite, scheme, 0, len(encoded)) + encoded


def parse_head(data: Buffer, expected: ObjectType, name: str) -> Head:
    """Parse the start of an object. ``data`` must hold at least preamble and header (DamagedError otherwise)."""
    if len(data) < PREAMBLE_LENGTH:
        raise DamagedError(f"{name}: truncated, {len(data)} bytes are no Keyark object")
    magic, version, kind, suite, scheme, reserved, header_length = _PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise DamagedError(f"{name}: not a Keyark object (it does not start with KEYARK)")
    if version != VERSION:
        raise DamagedError(f"{name}: format version {version} is unknown to this version of Keyark")
    if kind != expected:
        raise ForgedError(f"{name}: is an object of type {kind}, not {expected.value} ({expected.name.lower()})")
    if suite not in _KNOWN_SUITES:
        raise DamagedError(f"{name}: cipher suite {suite} is unknown to this version of Keyark")
    if scheme not in _KNOWN_SCHEMES or reserved:
        raise DamagedError(f"{name}: signature scheme {scheme} is unknown to this version of Keyark")
    limit = MAX_SIZE[expected] if expected is ObjectType.KEYRING else MAX_HEADER
    if header_length > limit:
        raise DamagedError(f"{name}: header of {header_length} bytes is over the limit of {limit}")
    end = PREAMBLE_LENGTH + header_length
    if len(data) < end:
        raise DamagedError(f"{name}: truncated inside its header")
    header = unpack(memoryview(data)[PREAMBLE_LENGTH:end], name)
    if not isinstance(header, dict):
        raise DamagedError(f"{name}: header is not a map")
    return Head(expected, suite, scheme, header, end, hashlib.sha256(memoryview(data)[:end]).digest())


def parse(data: bytes, expected: ObjectType, name: str) -> Parsed:
    """Parse a whole object. The caller verifies name and signature."""
    if len(data) > MAX_SIZE[expected]:
        raise DamagedError(f"{name}: {len(data)} bytes are over the limit for a {expected.name.lower()}")
    head = parse_head(data, expected, name)
    end = len(data) - signature_length(head.scheme)
    if end < head.length:
        raise DamagedError(f"{name}: truncated, no room for its signature")
    view = memoryview(data)
    digest = hashlib.sha256(view[:end])
    signed = digest.digest()
    digest.update(view[end:])
    return Parsed(head, bytes(view[head.length : end]), bytes(view[end:]), signed, digest.digest())


def verify(parsed: Parsed, key: VerifyKey, repository: bytes, name: str) -> None:
    """Verify an object's signature by ``key``; ForgedError names the object."""
    if parsed.head.scheme != key.scheme:
        raise ForgedError(f"{name}: signed with scheme {parsed.head.scheme}, but its signer uses scheme {key.scheme}")
    try:
        key.verify(parsed.head.type, repository, parsed.signed_digest, parsed.signature)
    except ForgedError as e:
        raise ForgedError(f"{name}: the signature is not valid") from e


def sign_object(
    kind: ObjectType,
    suite: int,
    header: Mapping[str, Any],
    body: Sequence[Buffer],
    signer: SigningKey,
    repository: bytes,
) -> tuple[list[Buffer], bytes]:
    """Build a signed object; return its parts, in order, and the SHA-256 that names it."""
    head = encode_head(kind, suite, signer.scheme, header)
    return sign_parts(kind, [head, *body], signer, repository)


def sign_parts(
    kind: ObjectType, parts: Sequence[Buffer], signer: SigningKey, repository: bytes
) -> tuple[list[Buffer], bytes]:
    """Append the signature over ``parts`` (head first); return all parts and the SHA-256 that names the object."""
    size = sum(len(part) for part in parts) + signature_length(signer.scheme)
    if size > MAX_SIZE[kind]:
        # What no reader accepts must not be stored: it would stand in the way of everything else.
        raise KeyarkError(
            f"a {kind.name.lower().replace('_', ' ')} of {size} bytes is over the format's limit; store less at a time"
        )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    signature = signer.sign(kind, repository, digest.digest())
    digest.update(signature)
    return [*parts, signature], digest.digest()


Check = Callable[[Any], bool]


def is_bytes(length: int) -> Check:
    """A check for byte strings of exactly ``length``."""
    return lambda value: type(value) is bytes and len(value) == length


def is_data(value: Any) -> bool:
    return type(value) is bytes


def is_text(value: Any) -> bool:
    return type(value) is str


def is_bool(value: Any) -> bool:
    return type(value) is bool


def is_count(value: Any) -> bool:
    """A non-negative 64-bit integer."""
    return type(value) is int and 0 <= value < 1 << 63


def is_key_number(value: Any) -> bool:
    """The number of a key generation: as many digits as names have room for."""
    return type(value) is int and 1 <= value < 100_000_000


def is_integer(value: Any) -> bool:
    """A signed 64-bit integer."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def is_map(value: Any) -> bool:
    return type(value) is dict


def optional(check: Check) -> Check:
    """The check, or nil."""
    return lambda value: value is None or check(value)


def is_list(check: Check) -> Check:
    """A list whose every element passes ``check``."""
    return lambda value: type(value) is list and all(check(item) for item in value)


def is_row(*checks: Check) -> Check:
    """A list of fixed length, each element with a check of its own."""
    return lambda value: (
        type(value) is list
        and len(value) == len(checks)
        and all(check(item) for check, item in zip(checks, value, strict=True))
    )


def expect(value: Any, fields: Mapping[str, Check], what: str) -> Mapping[str, Any]:
    """Check that ``value`` is a map with exactly these fields; DamagedError names the first that is wrong."""
    if type(value) is not dict:
        raise DamagedError(f"{what}: not a map")
    for key in value:
        if key not in fields:
            raise DamagedError(f"{what}: unknown field {key!r}; a newer Keyark may have written it")
    for key, check in fields.items():
        if key not in value or not check(value[key]):
            raise DamagedError(f"{what}: field {key!r} is missing or malformed")
    return value
