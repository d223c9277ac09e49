"""Hostile bytes for every parser: whatever comes in, what comes out is a value or one of our errors.

Objects are attacked at two depths: bytes changed at random, and fields changed at random under a signature that is valid, as a
writer gone bad would. Quick and repeatable here; by hand: ``HYPOTHESIS_PROFILE=deep pytest tests/faults/test_fuzz.py -n0``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.forge import Forger
from keyark.backup.excludes import Excludes
from keyark.cli.globals import split_arguments
from keyark.config import load_backup_config, load_monitor_config
from keyark.crypto import bech32
from keyark.crypto.age import parse_identities, parse_recipient
from keyark.crypto.hpke import open_sealed
from keyark.crypto.kdf import KdfParams
from keyark.crypto.signing import SigningKey
from keyark.crypto.slots import KeyFileOpener, SlotBinding, check_key_line
from keyark.errors import IntegrityError, KeyarkError, UsageError
from keyark.recovery.patterns import Selection
from keyark.repository import keyring as keyrings
from keyark.repository import wire
from keyark.repository.blocks import split_block
from keyark.repository.compression import parse_compression
from keyark.repository.credentials import decode_credential
from keyark.repository.index import decode_index
from keyark.repository.marks import decode_mark
from keyark.repository.names import parse_name
from keyark.repository.packlists import decode_pack_list
from keyark.repository.packs import check_whole, decode_directory, directory_range, parse_pack_head
from keyark.repository.places import RepositoryState
from keyark.repository.snapshots import decode_snapshot
from keyark.repository.tree import decode_segment
from keyark.repository.wire import ObjectType
from keyark.repository.wraps import check_wrap
from keyark.storage.location import open_storage, without_credentials
from keyark.storage.protocol import check_name
from keyark.upkeep.checkkeys import place_of
from keyark.upkeep.checkpacks import choose
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest
from keyark.upkeep.retention import parse_duration
from support import Sandbox, fill

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=True)
    | st.binary(max_size=40)
    | st.sampled_from([16, 32, 64, 1952]).flatmap(lambda length: st.binary(min_size=length, max_size=length))
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
# Edits of a byte string: where (as a share of its length), how many bytes go, what comes instead.
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=24)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, removed, inserted in edits:
        position = int(share * len(data))
        data = data[:position] + inserted + data[position + removed :]
    return data


def ours(action: Callable[[], object], *errors: type[KeyarkError]) -> None:
    """Anything but our errors fails the test; without any named, those of integrity."""
    allowed = errors or (IntegrityError,)
    with contextlib.suppress(*allowed):
        action()


class World:
    """A repository with one object of every kind, and everything that it takes to sign more of them."""

    def __init__(self) -> None:
        self.sandbox = Sandbox(Path(tempfile.mkdtemp(prefix="keyark-fuzz-")))
        self.sandbox.init()
        source = fill(self.sandbox.base / "source", {f"{n}/{n}": os.urandom(500) for n in range(5)})
        for _ in range(2):
            self.sandbox.backup(source)
        self.repository = self.sandbox.open()
        forget(self.repository, ForgetRequest(keep_last=1), self.sandbox.context)
        forger = Forger(self.sandbox)
        self.identity = forger.identity
        self.id = self.repository.id
        self.root = self.repository.keys.root()
        self.writer: SigningKey = self.identity.writer.signing
        self.listing = self.repository.keys.listing(1)
        self.index_key = self.repository.keys.compartment(self.identity.compartment, 1).index_key
        self.objects = {kind: self._first(kind) for kind in TOPS}

    def _first(self, kind: ObjectType) -> tuple[str, bytes]:
        name = next(name for name in self.sandbox.objects(TOPS[kind]) if "wraps/slots" not in name or kind == 2)
        return name, self.sandbox.storage().get(name)

    def signer(self, kind: ObjectType) -> SigningKey:
        by_root = (ObjectType.KEYRING, ObjectType.MARK, ObjectType.KEY_WRAP)
        return self.root if kind in by_root else self.writer

    def decode(self, kind: ObjectType, data: bytes, name: str) -> object:
        """As the program does, and on into what is sealed."""
        writer = self.writer.public()
        if kind is ObjectType.KEYRING:
            return keyrings.decode(data, name, self.id)
        if kind is ObjectType.MARK:
            return decode_mark(data, name, self.id, self.root.public(), {})
        if kind is ObjectType.SNAPSHOT:
            return decode_snapshot(data, name, self.id, writer)
        if kind is ObjectType.PACK_LIST:
            return decode_pack_list(data, name, self.id, writer).open(self.listing)
        if kind is ObjectType.INDEX:
            return decode_index(data, name, self.id, writer).open(self.index_key)
        if kind is ObjectType.PACK:
            head = parse_pack_head(data, name, self.id)
            directory_range(len(data), head.head.scheme, data, name)
            return check_whole(data, name, bytes.fromhex(name[-64:]), self.id, writer)
        parsed = parse_name(name)
        assert parsed is not None
        return check_wrap(data, place_of(parsed), parsed.recipient or b"", self.id, self.repository.keys.signers())


TOPS = {
    ObjectType.KEYRING: "keys",
    ObjectType.MARK: "marks",
    ObjectType.SNAPSHOT: "snapshots",
    ObjectType.PACK_LIST: "packlists",
    ObjectType.INDEX: "index",
    ObjectType.PACK: "packs",
    ObjectType.KEY_WRAP: "wraps/root",
}


@functools.cache
def world() -> World:
    return World()


@pytest.fixture(autouse=True, scope="module")
def _no_litter() -> Iterator[None]:
    yield
    if world.cache_info().currsize:
        world().repository.close()
        shutil.rmtree(world().sandbox.base)


def renamed(name: str, sha256: bytes) -> str:
    """The name that an object with other bytes would have; wraps keep theirs."""
    return name if name.startswith("wraps/") else name[:-64] + sha256.hex()


@pytest.mark.parametrize("kind", TOPS)
@given(edits=EDITS)
def test_objects_with_bytes_changed(kind: ObjectType, edits: list[tuple[float, int, bytes]]) -> None:
    name, data = world().objects[kind]
    changed = edited(data, edits)
    ours(lambda: world().decode(kind, changed, name))
    ours(lambda: wire.parse_head(changed, kind, name))


@pytest.mark.parametrize("kind", TOPS)
@given(data=st.data())
def test_objects_with_a_header_or_body_changed_under_a_valid_signature(kind: ObjectType, data: st.DataObject) -> None:
    name, original = world().objects[kind]
    parsed = wire.parse(original, kind, name)
    header: dict[str, Any] = dict(parsed.header)
    body = parsed.body
    match data.draw(st.sampled_from(["change", "drop", "add", "body", "structure"])):
        case "change":
            header[data.draw(st.sampled_from(sorted(header)))] = data.draw(VALUES)
        case "drop":
            del header[data.draw(st.sampled_from(sorted(header)))]
        case "add":
            header[data.draw(st.text(max_size=3))] = data.draw(VALUES)
        case "body":
            body = edited(body, data.draw(EDITS))
        case "structure" if kind in (ObjectType.KEYRING, ObjectType.MARK):
            body = wire.pack(changed_somewhere(wire.unpack(body, name), data))
    try:
        parts, sha256 = wire.sign_object(kind, parsed.head.suite, header, [body], world().signer(kind), world().id)
    except (OverflowError, ValueError):
        return  # no MessagePack: nobody could have stored it
    ours(lambda: world().decode(kind, b"".join(parts), renamed(name, sha256)))


def changed_somewhere(value: Any, data: st.DataObject) -> Any:
    """One value somewhere in a structure becomes another."""
    if isinstance(value, Mapping) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: changed_somewhere(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(value) - 1))
        return [*value[:position], changed_somewhere(value[position], data), *value[position + 1 :]]
    return data.draw(VALUES)


@given(
    rows=st.lists(
        st.tuples(VALUES, VALUES, VALUES, VALUES, VALUES, VALUES, VALUES, VALUES, VALUES, VALUES).map(list) | VALUES,
        max_size=4,
    )
)
def test_tree_segments_of_any_values(rows: list[Any]) -> None:
    try:
        data = b"".join(wire.pack(item) for item in rows)
    except (OverflowError, ValueError):
        return
    ours(lambda: decode_segment(data, "tree"))


@given(data=st.binary(max_size=300))
def test_bytes_that_are_anything(data: bytes) -> None:
    ours(lambda: decode_segment(data, "tree"))
    ours(lambda: decode_directory(data, 0, "pack", padded=True))
    ours(lambda: decode_directory(data, 0, "pack", padded=False))
    ours(lambda: split_block(data, 3, "block"))
    ours(lambda: wire.unpack(data, "object"))
    ours(lambda: directory_range(len(data), 1, data, "pack"))
    ours(lambda: open_sealed(world().listing, data, b"info"))
    for kind in ObjectType:
        ours(lambda kind=kind: wire.parse(data, kind, "object"))  # type: ignore[misc]
    binding = SlotBinding(world().id, b"s" * 16, b"p")
    ours(lambda: KeyFileOpener(world().sandbox.line).unwrap("key-file", {}, data, binding), KeyarkError)


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_files_that_users_give(data: bytes) -> None:
    ours(lambda: decode_credential(data, "file"), UsageError)
    ours(lambda: decode_credential(b"KEYARK-WRITER-1-" + data, "file"), UsageError)
    ours(lambda: check_key_line(data, "file"), UsageError)
    text = data.decode("utf-8", "replace")
    ours(lambda: parse_identities(text, "file"), UsageError)
    ours(lambda: parse_identities("AGE-SECRET-KEY-1" + text.upper(), "file"), UsageError)
    ours(lambda: parse_recipient("age1" + text), UsageError)
    with contextlib.suppress(ValueError, KeyarkError):
        bech32.decode("age1" + text)


@given(value=VALUES | st.dictionaries(st.sampled_from(["backup_settings", "encryption", "storage"]), VALUES))
def test_configuration_files(value: object) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(value, file, default=lambda item: item.hex())
        file.flush()
        ours(lambda: load_backup_config(file.name), UsageError)
        ours(lambda: load_monitor_config(file.name), UsageError)


@given(
    parameters=st.dictionaries(st.sampled_from(["kdf", "name", "salt", "iterations", "memory", "n", "r", "p"]), VALUES)
)
def test_key_derivation_parameters_are_checked_before_they_cost_anything(parameters: dict[str, Any]) -> None:
    ours(lambda: KdfParams.from_map(parameters), KeyarkError)


@given(text=st.text(max_size=60))
def test_words_on_the_command_line(text: str) -> None:
    ours(lambda: parse_duration(text), UsageError)
    ours(lambda: choose({b"x" * 32: 5}, text), UsageError)
    ours(lambda: parse_compression(text), UsageError)
    ours(lambda: check_name(text), KeyarkError)
    ours(lambda: without_credentials(text), UsageError)
    ours(lambda: split_arguments([text, text]), UsageError)
    ours(lambda: Excludes((text,), ()), UsageError)
    ours(lambda: Selection((text,), (text,)), UsageError)
    if "://" in text:
        ours(lambda: open_storage(text), KeyarkError)
    parse_name(text)


@given(value=VALUES, name=st.sampled_from(["pins.json", "unconfirmed.json"]))
def test_state_files(value: object, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_text(json.dumps(value, default=lambda item: item.hex()))
        state = RepositoryState(folder)
        ours(state.read_pins, UsageError)
        ours(lambda: state.oldest_unconfirmed((b"c", b"w"), 0), UsageError)
