"""Each vector of tests/vectors/objects is refused by the layer whose folder it lies in, and by the small reader as well."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from keyark.crypto.hpke import Kem, PublicKey
from keyark.crypto.signing import VerifyKey
from keyark.crypto.slots import PassphraseOpener
from keyark.errors import IntegrityError
from keyark.repository import keyring, names, slotwraps, wire
from keyark.repository.blocks import split_block
from keyark.repository.index import decode_index
from keyark.repository.marks import decode_mark
from keyark.repository.packlists import decode_pack_list
from keyark.repository.packs import check_whole, decode_directory, parse_pack_head
from keyark.repository.snapshots import decode_snapshot
from keyark.repository.tree import decode_segment
from keyark.repository.wraps import SignerLookup, check_wrap, epoch_place
from keyark.secret import Secret
from keyark.storage.protocol import ObjectInfo

VECTORS = Path(__file__).parent.parent.parent / "vectors"
OBJECTS = VECTORS / "objects"
FILES = sorted(str(path.relative_to(OBJECTS).with_suffix("")) for path in OBJECTS.rglob("*.bin"))


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


make = _module(VECTORS / "make_objects.py", "make_objects")
SIGNER = VerifyKey(make.PUBLIC)
SHA = hashlib.sha256

# What the layers say. A failure that another layer happened to notice would not match.
SAYS = {
    "preamble": r"truncated|does not start with KEYARK|(version|suite|scheme) \d+ is unknown|is an object of type|over the limit",
    "header": r"field|MessagePack|header is not a map",
    "place": r"belongs to another repository|was made for another|signed by somebody who may not|bytes are not those",
    "signature": r"signature is not valid|signed with scheme|truncated|bytes many",
    "body": r"",
}


class OneObject:
    """A storage that holds one object."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self.data[start:][:length]

    def stat(self, name: str) -> ObjectInfo:
        return ObjectInfo(name, len(self.data))


def _slot_wrap(data: bytes) -> None:
    slot = keyring.Slot(
        PublicKey(Kem.MLKEM768_X25519, b"public"), "passphrase", SHA(data).digest(), False, True, None, 0, "", b""
    )
    opener = PassphraseOpener(Secret(b"x"))
    kdf = wire.parse(data, wire.ObjectType.SLOT_WRAP, "wrap").header.get("m") if len(data) > 16 else None
    ring = SimpleNamespace(repository=make.REPOSITORY, fips=False)
    slotwraps._open_one(OneObject(data), ring, make.SLOT, slot, [opener] if kdf else [])  # type: ignore[arg-type]


def _pack(data: bytes) -> None:
    parse_pack_head(data, "pack", make.REPOSITORY)
    check_whole(data, "pack", SHA(data).digest(), make.REPOSITORY, SIGNER)


def _named(data: bytes, decode: Callable[[str], object], name: Callable[[Any, bytes], str]) -> None:
    """Decode under the name that fits the bytes, so that only the vector's own failure can be noticed."""
    try:
        header: Any = wire.parse_head(data, wire.ObjectType(data[7]), "").header
        text = name(header, SHA(data).digest())
    except (IntegrityError, LookupError, TypeError, ValueError, AttributeError):
        text = "whatever it is called"
    decode(text)


DECODE: Mapping[str, Callable[[bytes], None]] = {
    "keyring": lambda data: _ignore(keyring.decode(data, "keyring")),
    "slot-wrap": _slot_wrap,
    "key-wrap": lambda data: _ignore(
        check_wrap(
            data,
            epoch_place(make.COMPARTMENT, make.EPOCH),
            make.SLOT,
            make.REPOSITORY,
            SignerLookup(SIGNER, {make.WRITER: (SIGNER, make.COMPARTMENT)}),
        )
    ),
    "pack": _pack,
    "index": lambda data: _named(
        data,
        lambda name: decode_index(data, name, make.REPOSITORY, SIGNER),
        lambda head, sha: names.index_name(head["c"], head["w"], sha),
    ),
    "snapshot": lambda data: _named(
        data,
        lambda name: decode_snapshot(data, name, make.REPOSITORY, SIGNER),
        lambda head, sha: names.snapshot_name(head["c"], head["w"], head["q"], sha),
    ),
    "mark": lambda data: _named(
        data,
        lambda name: decode_mark(data, name, make.REPOSITORY, SIGNER, {make.WRITER: SIGNER}),
        lambda head, sha: names.mark_name(sha),
    ),
    "pack-list": lambda data: _named(
        data,
        lambda name: decode_pack_list(data, name, make.REPOSITORY, SIGNER),
        lambda head, sha: names.pack_list_name(head["c"], head["w"], sha),
    ),
    "block": lambda data: _ignore(split_block(data, 2, "block")),
    "directory": lambda data: _ignore(decode_directory(data, 0, "directory", padded=True)),
    "tree": lambda data: _ignore(decode_segment(data, "tree")),
}


def _ignore(value: object) -> None:
    return


def test_the_checked_in_vectors_are_what_the_generator_makes() -> None:
    made = make.everything()
    assert sorted(made) == FILES
    for name, data in made.items():
        assert (OBJECTS / f"{name}.bin").read_bytes() == data, name


@pytest.mark.parametrize("name", FILES)
def test_each_failure_is_refused_by_its_layer(name: str) -> None:
    kind, layer, _ = name.split("/")
    data = (OBJECTS / f"{name}.bin").read_bytes()
    if layer == "valid":
        DECODE[kind](data)
        return
    with pytest.raises(IntegrityError) as caught:
        DECODE[kind](data)
    assert re.search(SAYS[layer], str(caught.value)), caught.value
    others = [text for other, text in SAYS.items() if other not in (layer, "body")]
    assert layer != "body" or not any(re.search(text, str(caught.value)) for text in others[2:]), caught.value


NUMBERS = {name: facts[0] for name, facts in make.OBJECTS.items()}
READ = {"keyring", "slot-wrap", "key-wrap", "pack", "snapshot", "pack-list", "tree"}  # it needs no index and no marks


@pytest.mark.parametrize("name", [name for name in FILES if name.split("/")[0] in READ])
def test_the_small_reader_refuses_what_it_reads_as_well(name: str, tmp_path: Path) -> None:
    reader = sys.modules.get("recover_for_vectors") or _module(
        VECTORS.parent.parent / "src/keyark/repository/recover.py", "recover_for_vectors"
    )
    kind, layer, failure = name.split("/")
    data = (OBJECTS / f"{name}.bin").read_bytes()

    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    class Chunks:
        def get(self, kind: str, chunk: bytes) -> bytes:
            raise reader.Failure(16 if len(chunk) == 32 else 13, "looked for")

    def read() -> None:
        with reader.reading(name):
            if kind == "tree":
                entries = reader.read_segment(data, b"")
                for entry in entries:
                    if entry.kind == 0:
                        reader.Restore(None, Chunks(), 0).file(root, entry)
                return
            thing = reader.Object(name, data, NUMBERS[kind])
            if kind == "slot-wrap":
                if thing.header["r"] != make.REPOSITORY:
                    raise reader.InvalidSignature
                if layer == "body":
                    reader.derive(thing.header["m"], b"x")
                return
            thing.verify(make.REPOSITORY, [make.PUBLIC, make.LATTICE if kind == "keyring" else None])

    later = layer in ("place", "body") and failure != "another-repository" and kind not in ("tree", "slot-wrap")
    try:
        if layer == "valid" or later:
            with (
                contextlib.suppress(reader.Failure)
                if name == "tree/valid/one-file-one-link"
                else contextlib.nullcontext()
            ):
                read()
            return
        with pytest.raises(reader.Failure) as caught:
            read()
        assert caught.value.code == 13
        assert os.listdir(root) == []
    finally:
        os.close(root)
