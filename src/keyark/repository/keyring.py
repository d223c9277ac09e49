"""Keyring generations: public facts about a repository, each generation signed by the root (docs/format.md, section 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keyark.crypto.hpke import Kem, PublicKey
from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.crypto.slots import KEY_FILE, PASSPHRASE
from keyark.crypto.suites import FIPS_SUITES
from keyark.errors import DamagedError, ForgedError
from keyark.repository import wire
from keyark.repository.wire import (
    ObjectType,
    expect,
    is_bool,
    is_bytes,
    is_count,
    is_data,
    is_key_number,
    is_list,
    is_map,
    is_text,
    optional,
)

PROFILES = ("default", "fips")
FIPS_KEMS = frozenset({Kem.MLKEM1024_P384})
FIPS_SLOTS = frozenset({PASSPHRASE, KEY_FILE})
ID_BLAKE3 = "blake3"
ID_HMAC = "hmac-sha256"
DEFAULT_EPOCH_DAYS = 30


def repository_id(root: VerifyKey) -> bytes:
    """The repository's id: SHA-256 of the root's Ed25519 and ML-DSA-65 public keys."""
    if root.mldsa65 is None:
        raise ForgedError("the root key lacks its ML-DSA-65 half")
    return hashlib.sha256(root.ed25519 + root.mldsa65).digest()


@dataclass(frozen=True, slots=True)
class Compartment:
    """The unit of deduplication, trust and erasure."""

    generation: int  # of its id key and index key, from 1
    label: bytes  # sealed to the listing key
    erasable: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """A way of reading: an HPKE key pair whose private half is wrapped once."""

    public: PublicKey
    kind: str
    wrap_sha256: bytes
    admin: bool  # also opens the root key
    post_quantum: bool
    compartments: tuple[bytes, ...] | None  # None: all of them
    created_ns: int
    strength: str  # for people: how hard the wrap is to open
    label: bytes

    def opens(self, compartment: bytes) -> bool:
        return self.compartments is None or compartment in self.compartments


@dataclass(frozen=True, slots=True)
class Writer:
    """Somebody who may add."""

    verify: VerifyKey
    box: PublicKey  # where keys for it are sealed to
    compartment: bytes
    created_ns: int
    label: bytes
    revoked: tuple[int, bytes] | None = None  # last accepted sequence and snapshot; (0, zeros) when none is


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may forget and prune, and sees the listing."""

    verify: VerifyKey
    box: PublicKey
    created_ns: int
    label: bytes
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Keyring:
    """One generation, verified."""

    root: VerifyKey
    generation: int
    previous: bytes | None
    created_ns: int
    profile: str
    id_algorithm: str
    kem: Kem
    suite: int
    listing: tuple[PublicKey, ...]  # the last one is current; number 1 is the first
    compartments: Mapping[bytes, Compartment] = field(default_factory=dict)
    slots: Mapping[bytes, Slot] = field(default_factory=dict)
    writers: Mapping[bytes, Writer] = field(default_factory=dict)
    operators: Mapping[bytes, Operator] = field(default_factory=dict)
    policies: Mapping[str, int | bool | str] = field(default_factory=dict)
    readme_sha256: bytes = b""
    reader_sha256: bytes | None = None
    sha256: bytes = b""  # of the object it was read from

    @property
    def repository(self) -> bytes:
        return repository_id(self.root)

    @property
    def fips(self) -> bool:
        """Whether only approved algorithms may be used, in writing and in reading."""
        return self.profile == "fips"

    @property
    def listing_number(self) -> int:
        return len(self.listing)

    @property
    def epoch_days(self) -> int:
        return int(self.policies.get("epoch_days", DEFAULT_EPOCH_DAYS))

    def slots_of(self, compartment: bytes) -> dict[bytes, Slot]:
        """The slots that may open ``compartment``."""
        return {name: slot for name, slot in self.slots.items() if slot.opens(compartment)}

    def next(self, created_ns: int, **changes: Any) -> Keyring:
        """The generation after this one, not yet signed."""
        return replace(
            self, generation=self.generation + 1, previous=self.sha256, created_ns=created_ns, sha256=b"", **changes
        )


def _public(key: PublicKey) -> list[Any]:
    return [int(key.kem), key.data]


def _verify(key: VerifyKey) -> list[Any]:
    return [key.ed25519, key.mldsa65]


def encode(keyring: Keyring, root: SigningKey) -> tuple[list[wire.Buffer], bytes]:
    """Sign a generation; returns the object's parts and its SHA-256."""
    header = {"r": keyring.repository, "n": keyring.generation, "p": keyring.previous}
    body = {
        "root": _verify(keyring.root),
        "created": keyring.created_ns,
        "profile": keyring.profile,
        "ids": keyring.id_algorithm,
        "kem": int(keyring.kem),
        "suite": keyring.suite,
        "listing": [_public(key) for key in keyring.listing],
        "compartments": {
            name.hex(): {"keys": item.generation, "label": item.label, "erasable": item.erasable}
            for name, item in keyring.compartments.items()
        },
        "slots": {
            name.hex(): {
                "public": _public(slot.public),
                "kind": slot.kind,
                "wrap": slot.wrap_sha256,
                "admin": slot.admin,
                "pq": slot.post_quantum,
                "compartments": None if slot.compartments is None else list(slot.compartments),
                "created": slot.created_ns,
                "strength": slot.strength,
                "label": slot.label,
            }
            for name, slot in keyring.slots.items()
        },
        "writers": {
            name.hex(): {
                "verify": _verify(item.verify),
                "box": _public(item.box),
                "compartment": item.compartment,
                "created": item.created_ns,
                "label": item.label,
                "revoked": None if item.revoked is None else list(item.revoked),
            }
            for name, item in keyring.writers.items()
        },
        "operators": {
            name.hex(): {
                "verify": _verify(item.verify),
                "box": _public(item.box),
                "created": item.created_ns,
                "label": item.label,
                "revoked": item.revoked,
            }
            for name, item in keyring.operators.items()
        },
        "policies": dict(keyring.policies),
        "readme": keyring.readme_sha256,
        "reader": keyring.reader_sha256,
    }
    return wire.sign_object(ObjectType.KEYRING, 0, header, [wire.pack(body)], root, keyring.repository)


_is_public = wire.is_row(lambda kem: kem in (1, 2), is_data)
_is_verify = wire.is_row(is_bytes(32), optional(is_bytes(1952)))
_BODY = {
    "root": _is_verify,
    "created": is_count,
    "profile": lambda value: value in PROFILES,
    "ids": lambda value: value in (ID_BLAKE3, ID_HMAC),
    "kem": lambda value: value in (1, 2),
    "suite": lambda value: value in (1, 2, 3, 4),
    "listing": is_list(_is_public),
    "compartments": is_map,
    "slots": is_map,
    "writers": is_map,
    "operators": is_map,
    "policies": is_map,
    "readme": is_bytes(32),
    "reader": optional(is_bytes(32)),
}
_COMPARTMENT = {"keys": is_key_number, "label": is_data, "erasable": is_bool}
_SLOT = {
    "public": _is_public,
    "kind": is_text,
    "wrap": is_bytes(32),
    "admin": is_bool,
    "pq": is_bool,
    "compartments": optional(is_list(is_bytes(16))),
    "created": is_count,
    "strength": is_text,
    "label": is_data,
}
_WRITER = {
    "verify": _is_verify,
    "box": _is_public,
    "compartment": is_bytes(16),
    "created": is_count,
    "label": is_data,
    "revoked": optional(wire.is_row(is_count, is_bytes(32))),
}
_OPERATOR = {"verify": _is_verify, "box": _is_public, "created": is_count, "label": is_data, "revoked": is_bool}
_POLICIES = {"epoch_days": is_count, "require_pq": is_bool}


def decode(data: bytes, name: str, expected_repository: bytes | None = None) -> Keyring:
    """Read and verify one generation.

    1. the root keys inside hash to the repository id in the header (and to ``expected_repository`` when given);
    2. both of the root's signatures verify;
    3. every field is known and well-formed.
    """
    parsed = wire.parse(data, ObjectType.KEYRING, name)
    header = expect(parsed.header, {"r": is_bytes(32), "n": is_count, "p": optional(is_bytes(32))}, name)
    body = wire.unpack(parsed.body, name)
    if type(body) is not dict or not _is_verify(body.get("root")):
        raise DamagedError(f"{name}: holds no root key")
    root = VerifyKey(*body["root"])
    repository = repository_id(root)
    if header["r"] != repository or expected_repository not in (None, repository):
        raise ForgedError(f"{name}: belongs to another repository ({repository.hex()[:16]}…)")
    wire.verify(parsed, root, repository, name)
    expect(body, _BODY, name)
    return _build(parsed, body, root, name)


def _each(body: Mapping[str, Any], key: str, fields: Mapping[str, wire.Check], name: str) -> list[tuple[bytes, Any]]:
    result = []
    for text, item in body[key].items():
        if type(text) is not str or len(text) != 32:
            raise DamagedError(f"{name}: malformed id in {key}")
        try:
            identity = bytes.fromhex(text)
        except ValueError as e:
            raise DamagedError(f"{name}: malformed id in {key}") from e
        result.append((identity, expect(item, fields, f"{name}: {key}")))
    return result


def _build(parsed: wire.Parsed, body: Mapping[str, Any], root: VerifyKey, name: str) -> Keyring:
    def public(row: list[Any]) -> PublicKey:
        return PublicKey(Kem(row[0]), row[1])

    for key in body["policies"]:
        if key not in _POLICIES or not _POLICIES[key](body["policies"][key]):
            raise DamagedError(f"{name}: policy {key!r} is unknown or malformed; a newer Keyark may have written it")
    header = parsed.header
    keyring = Keyring(
        root=root,
        generation=header["n"],
        previous=header["p"],
        created_ns=body["created"],
        profile=body["profile"],
        id_algorithm=body["ids"],
        kem=Kem(body["kem"]),
        suite=body["suite"],
        listing=tuple(public(row) for row in body["listing"]),
        compartments={
            key: Compartment(item["keys"], item["label"], item["erasable"])
            for key, item in _each(body, "compartments", _COMPARTMENT, name)
        },
        slots={
            key: Slot(
                public(item["public"]),
                item["kind"],
                item["wrap"],
                item["admin"],
                item["pq"],
                None if item["compartments"] is None else tuple(item["compartments"]),
                item["created"],
                item["strength"],
                item["label"],
            )
            for key, item in _each(body, "slots", _SLOT, name)
        },
        writers={
            key: Writer(
                VerifyKey(*item["verify"]),
                public(item["box"]),
                item["compartment"],
                item["created"],
                item["label"],
                None if item["revoked"] is None else (item["revoked"][0], item["revoked"][1]),
            )
            for key, item in _each(body, "writers", _WRITER, name)
        },
        operators={
            key: Operator(
                VerifyKey(*item["verify"]), public(item["box"]), item["created"], item["label"], item["revoked"]
            )
            for key, item in _each(body, "operators", _OPERATOR, name)
        },
        policies=dict(body["policies"]),
        readme_sha256=body["readme"],
        reader_sha256=body["reader"],
        sha256=parsed.sha256,
    )
    if keyring.fips:
        _check_fips(keyring, name)
    return keyring


def _check_fips(keyring: Keyring, name: str) -> None:
    """Profile `fips`: approved algorithms only, in everything that the keyring records; DamagedError names the first other."""
    publics = [*keyring.listing, *(slot.public for slot in keyring.slots.values())]
    publics += [item.box for item in keyring.writers.values()]
    publics += [item.box for item in keyring.operators.values()]
    other = next((f"slot kind {slot.kind}" for slot in keyring.slots.values() if slot.kind not in FIPS_SLOTS), None)
    if keyring.id_algorithm != ID_HMAC:
        other = f"chunk ids {keyring.id_algorithm}"
    elif keyring.kem not in FIPS_KEMS or any(key.kem not in FIPS_KEMS for key in publics):
        other = "a key encapsulation method"
    elif keyring.suite not in FIPS_SUITES:
        other = f"cipher suite {keyring.suite}"
    if other is not None:
        raise DamagedError(f"{name}: its profile is fips, but it uses what that does not approve: {other}")
