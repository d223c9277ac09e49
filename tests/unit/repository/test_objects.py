"""Every object's encoding: round trips, and hostile bytes that must only ever raise our errors."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import replace

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyark.crypto import hpke
from keyark.crypto.hpke import Kem, PublicKey
from keyark.crypto.signing import SigningKey
from keyark.crypto.suites import Suite
from keyark.errors import DamagedError, ForgedError, HistoryError, IntegrityError, KeyarkError, UsageError
from keyark.repository import keyring as keyrings
from keyark.repository import wire
from keyark.repository.blocks import BlockBuilder, split_block
from keyark.repository.compression import Codec, Compression, decompress, parse_compression
from keyark.repository.credentials import WRITER, Credential, decode_credential, encode_credential
from keyark.repository.index import decode_index, encode_index, indexed
from keyark.repository.keyring import ID_BLAKE3, Compartment, Keyring, Operator, Slot, Writer
from keyark.repository.marks import INTENT, MARK, SEEN, TOMBSTONE, decode_mark, encode_marks, merge
from keyark.repository.names import parse_name
from keyark.repository.packlists import PackUse, decode_pack_list, encode_pack_list
from keyark.repository.packs import (
    PackAssembler,
    PackFacts,
    SealedPack,
    check_whole,
    decode_directory,
    directory_range,
    open_block,
    parse_pack_head,
    read_directory,
)
from keyark.repository.snapshots import (
    Listed,
    SnapshotContent,
    SnapshotHead,
    decode_snapshot,
    encode_snapshot,
    open_content,
    open_listed,
)
from keyark.repository.tree import DIR, FILE, SYMLINK, Node, decode_segment, encode_node, segments
from keyark.repository.wire import ObjectType
from keyark.secret import Secret

ROOT = SigningKey.generate(post_quantum=True)
REPOSITORY = keyrings.repository_id(ROOT.public())
WRITER_KEY = SigningKey.generate(post_quantum=False)
LISTING = hpke.generate(Kem.MLKEM768_X25519)
EPOCH = hpke.generate(Kem.MLKEM768_X25519)
C, W, E = b"c" * 16, b"w" * 16, b"e" * 16
INDEX_KEY = Secret(b"i" * 32)


def a_keyring() -> Keyring:
    box = LISTING.public()
    slot = Slot(box, "key-file", b"h" * 32, True, True, None, 5, "strong", b"label")
    return Keyring(
        root=ROOT.public(),
        generation=1,
        previous=None,
        created_ns=1,
        profile="default",
        id_algorithm=ID_BLAKE3,
        kem=Kem.MLKEM768_X25519,
        suite=1,
        listing=(box,),
        compartments={C: Compartment(1, b"label")},
        slots={b"s" * 16: slot, b"t" * 16: replace(slot, compartments=(C,), admin=False)},
        writers={
            W: Writer(WRITER_KEY.public(), box, C, 2, b"l"),
            b"x" * 16: Writer(ROOT.public(), box, C, 2, b"l", (3, b"z" * 32)),
        },
        operators={b"o" * 16: Operator(WRITER_KEY.public(), box, 3, b"l", True)},
        policies={"require_pq": True, "epoch_days": 7},
        readme_sha256=b"r" * 32,
    )


def a_pack(suite: Suite = Suite.AES_256_GCM) -> SealedPack:
    facts = PackFacts(REPOSITORY, C, W, E, EPOCH.public(), 1, INDEX_KEY, suite, WRITER_KEY)
    assembler = PackAssembler(facts, 0)
    for number in range(3):
        builder = BlockBuilder()
        for item in range(5):
            builder.add(bytes([number, item]) * 16, bytes([item]) * (100 * number + item))
        assert assembler.add(builder.compress(parse_compression("zstd:3"))) is None
    pack = assembler.finish()
    assert pack is not None
    return pack


def a_head() -> SnapshotHead:
    others = ((C, b"x" * 16, 4, b"y" * 32),)
    return SnapshotHead(REPOSITORY, C, W, 1, (1, b"k" * 32), 2, b"p" * 32, others, None, 1, E, (b"L" * 32,), 0)


LISTED = Listed(10**18, 1, 2, 3, 4, 5, 6, 7)
CONTENT = SnapshotContent(
    "name",
    "host",
    "user",
    (b"/a\xff",),
    ("tag",),
    (b"t" * 32,),
    {0: "root"},
    {0: "root"},
    ((b"/x", "gone"),),
    (b"*.\xff",),
)


def an_object(kind: str) -> tuple[str, bytes, Callable[[bytes, str], object]]:
    """An object's name, its bytes, and its decoder."""
    signer = WRITER_KEY.public()
    if kind == "keyring":
        parts, sha = keyrings.encode(a_keyring(), ROOT)
        return f"keys/00000001-{sha.hex()}", b"".join(parts), lambda data, name: keyrings.decode(data, name, REPOSITORY)
    if kind == "pack":
        pack = a_pack()

        def check(data: bytes, name: str) -> None:
            parse_pack_head(data, name, REPOSITORY)
            check_whole(data, name, pack.sha256, REPOSITORY, signer)

        return pack.name, b"".join(pack.parts), check
    if kind == "index":
        parts, sha = encode_index([indexed(a_pack())], REPOSITORY, C, W, (1, INDEX_KEY), WRITER_KEY)
        name = f"index/{C.hex()}/{W.hex()}/{sha.hex()}"
        return name, b"".join(parts), lambda data, name: decode_index(data, name, REPOSITORY, signer).open(INDEX_KEY)
    if kind == "snapshot":
        parts, sha = encode_snapshot(a_head(), LISTED, CONTENT, LISTING.public(), EPOCH.public(), WRITER_KEY)
        name = f"snapshots/{C.hex()}/{W.hex()}/00000002-{sha.hex()}"
        return name, b"".join(parts), lambda data, name: decode_snapshot(data, name, REPOSITORY, signer)
    if kind == "pack list":
        parts, sha = encode_pack_list(
            [PackUse(b"p" * 32, 9, 8, 7)], REPOSITORY, C, W, (1, LISTING.public()), WRITER_KEY
        )
        name = f"packlists/{C.hex()}/{W.hex()}/{sha.hex()}"
        return name, b"".join(parts), lambda data, name: decode_pack_list(data, name, REPOSITORY, signer).open(LISTING)
    ((name, parts),) = encode_marks(TOMBSTONE, [[C, W, 3, b"s" * 32]], REPOSITORY, 5, 1, (None, ROOT))
    return name, b"".join(parts), lambda data, name: decode_mark(data, name, REPOSITORY, ROOT.public(), {})


KINDS = ("keyring", "pack", "index", "snapshot", "pack list", "mark")
OBJECTS = {kind: an_object(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_objects_decode_and_their_names_parse(kind: str) -> None:
    name, data, decode = OBJECTS[kind]
    decode(data, name)
    assert parse_name(name) is not None


@pytest.mark.parametrize("kind", KINDS)
@given(position=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_refused(kind: str, position: int, bit: int) -> None:
    name, data, decode = OBJECTS[kind]
    broken = bytearray(data)
    broken[position % len(data)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        decode(bytes(broken), name)


@pytest.mark.parametrize("kind", KINDS)
@given(cut=st.integers(0, 1 << 30), extra=st.binary(max_size=50))
def test_truncated_or_prolonged_objects_are_refused(kind: str, cut: int, extra: bytes) -> None:
    name, data, decode = OBJECTS[kind]
    with pytest.raises(IntegrityError):
        decode(data[: cut % len(data)] + extra[: max(0, len(data) - cut % len(data) - 1)], name)
    with pytest.raises(IntegrityError):
        decode(data + b"x" + extra, name)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=300))
@example(data=b"KEYARK\x01\x04\x00\x01\x01\x00\xff\xff\xff\xff")
@example(data=b"KEYARK\x01\x04\x00\x01\x01\x00\x00\x00\x00\x05\xdf\xff\xff\xff\xff")
def test_hostile_bytes_raise_our_errors_only(kind: str, data: bytes) -> None:
    name, good, decode = OBJECTS[kind]
    for candidate in (data, good[:16] + data, good[:12] + len(data).to_bytes(4, "big") + data):
        with pytest.raises(IntegrityError):
            decode(candidate, name)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_one_type_is_none_of_another(kind: str) -> None:
    for other in KINDS:
        if other != kind:
            name, _, decode = OBJECTS[other]
            with pytest.raises(IntegrityError):
                decode(OBJECTS[kind][1], name)


@pytest.mark.parametrize(
    ("offset", "value", "word"),
    [(0, 0x4C, "start"), (6, 2, "version 2"), (9, 99, "suite 99"), (10, 7, "scheme 7"), (11, 1, "scheme")],
)
def test_unknown_versions_suites_and_schemes_are_refused_by_name(offset: int, value: int, word: str) -> None:
    name, data, _ = OBJECTS["pack"]
    broken = bytearray(data)
    broken[offset] = value
    with pytest.raises(IntegrityError, match=word):
        wire.parse(bytes(broken), ObjectType.PACK, name)


def test_strict_messagepack_refuses_duplicates_and_trailing_bytes() -> None:
    assert wire.unpack(wire.pack({"a": [1, b"x", "y", None]}), "x") == {"a": [1, b"x", "y", None]}
    for bad in (
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x01\x02",
        b"\xc1",
        b"\x81\x01",
        b"",
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
    ):
        with pytest.raises(DamagedError):
            wire.unpack(bad, "x")


def test_the_keyring_comes_back_as_it_was() -> None:
    parts, sha = keyrings.encode(a_keyring(), ROOT)
    decoded = keyrings.decode(b"".join(parts), "keys/x", REPOSITORY)
    assert decoded == replace(a_keyring(), sha256=sha)
    assert decoded.next(9).previous == sha


def test_a_keyring_of_another_root_is_refused() -> None:
    other = SigningKey.generate(post_quantum=True)
    forged = replace(a_keyring(), root=other.public())
    parts, _ = keyrings.encode(forged, other)
    with pytest.raises(ForgedError, match="another repository"):
        keyrings.decode(b"".join(parts), "keys/x", REPOSITORY)
    parts, _ = keyrings.encode(a_keyring(), other)
    with pytest.raises(ForgedError):
        keyrings.decode(b"".join(parts), "keys/x", REPOSITORY)


@pytest.mark.parametrize("suite", Suite)
def test_packs_open_and_their_directory_matches(suite: Suite) -> None:
    pack = a_pack(suite)
    data = b"".join(pack.parts)
    head = parse_pack_head(data, pack.name, REPOSITORY)
    start, length = directory_range(len(data), 1, data, pack.name)
    places = read_directory(head, data[start : start + length], INDEX_KEY, REPOSITORY)
    assert places == pack.blocks
    aead = head.open_key(REPOSITORY, EPOCH)
    for number, place in enumerate(places):
        sealed = data[place.offset : place.offset + place.length]
        chunks = open_block(head, aead, number, place, sealed, last=number == 2)
        assert [bytes(chunk) for chunk in chunks] == [bytes([item]) * (100 * number + item) for item in range(5)]
        with pytest.raises(DamagedError):
            open_block(head, aead, number, place, sealed, last=number != 2)
        with pytest.raises(DamagedError):
            open_block(head, aead, number + 1, place, sealed, last=number == 2)
    with pytest.raises(DamagedError):
        head.open_key(REPOSITORY, LISTING)


def test_pack_sizes_are_padded() -> None:
    from keyark.crypto.suites import padme

    size = a_pack().size
    assert padme(size) == size


def test_snapshots_open_with_the_right_keys_only() -> None:
    name, data, _ = OBJECTS["snapshot"]
    snapshot = decode_snapshot(data, name, REPOSITORY, WRITER_KEY.public())
    assert open_listed(snapshot, LISTING) == LISTED
    assert open_content(snapshot, EPOCH) == CONTENT
    for wrong in (lambda: open_listed(snapshot, EPOCH), lambda: open_content(snapshot, LISTING)):
        with pytest.raises(DamagedError):
            wrong()
    moved = replace(snapshot, head=replace(snapshot.head, sequence=3))
    with pytest.raises(DamagedError):
        open_content(moved, EPOCH)


def test_marks_merge_and_strangers_are_refused() -> None:
    operator = SigningKey.generate(post_quantum=False)
    rows = {
        MARK: [[0, b"a" * 32], [1, b"b" * 32]],
        INTENT: [[0, b"a" * 32]],
        SEEN: [[b"s" * 32, None]],
        TOMBSTONE: [[C, W, 1, b"t" * 32]],
    }
    found = []
    for kind, values in rows.items():
        for name, parts in encode_marks(kind, values, REPOSITORY, 7, 1, (b"o" * 16, operator)):
            data = b"".join(parts)
            found.append(decode_mark(data, name, REPOSITORY, ROOT.public(), {b"o" * 16: operator.public()}))
            for operators in ({}, {b"o" * 16: WRITER_KEY.public()}):
                with pytest.raises(ForgedError):
                    decode_mark(data, name, REPOSITORY, ROOT.public(), operators)
    merged = merge(found)
    assert (merged.packs, merged.pack_lists, merged.intended) == ({b"a" * 32}, {b"b" * 32}, {b"a" * 32})
    assert merged.seen == {b"s" * 32: (7, None)}
    assert list(merged.tombstones) == [b"t" * 32]


@given(st.binary(max_size=2000))
def test_hostile_blocks_and_tree_segments_raise_our_errors_only(data: bytes) -> None:
    for count in (0, 1, 5, 1 << 20):
        try:
            split_block(data, count, "block")
        except IntegrityError:
            continue
    try:
        decode_segment(data, "tree")
    except IntegrityError:
        return


@pytest.mark.parametrize("codec", list(Codec))
@given(data=st.binary(max_size=500), lie=st.integers(0, 2000))
def test_decompression_gives_exactly_the_length_or_refuses(codec: Codec, data: bytes, lie: int) -> None:
    packed = data if codec is Codec.NONE else Compression(codec, 1)._run(data)
    assert decompress(codec, packed, len(data), "x") == data
    if lie != len(data):
        with pytest.raises(DamagedError):
            decompress(codec, packed, lie, "x")
    with pytest.raises(DamagedError):
        decompress(77, packed, len(data), "x")


def test_a_compression_bomb_is_refused_without_being_unpacked() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(DamagedError):
        decompress(Codec.ZSTD, bomb, 1000, "x")


@pytest.mark.parametrize("text", ["zstd:99", "gzip:x", "lzma:10", "rar", "none:1", "auto:3", ""])
def test_unknown_compressions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_compression(text)


def test_auto_leaves_random_blocks_as_they_are() -> None:
    compression = parse_compression("auto")
    assert compression.compress(os.urandom(1 << 20))[0] is Codec.NONE
    assert compression.compress(b"text " * 100_000)[0] is Codec.ZSTD


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
NODES = st.builds(
    lambda name, mode, uid, mtime, size: Node(
        name, FILE, mode, uid, uid, mtime, size, b"i" * 32 if size else None, b"s" * 32, None
    ),
    NAMES,
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**62), 2**62),
    st.integers(0, 2**40),
)


@given(st.lists(NODES, max_size=30, unique_by=lambda node: node.name))
def test_trees_round_trip(nodes: list[Node]) -> None:
    nodes.sort(key=lambda node: node.name)
    found = [
        node for segment in segments([encode_node(node) for node in nodes]) for node in decode_segment(segment, "t")
    ]
    assert found == nodes


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * 256])
def test_names_that_could_escape_are_refused_when_a_tree_is_read(name: bytes) -> None:
    with pytest.raises(ForgedError, match="impossible name"):
        decode_segment(encode_node(Node(name, DIR, 0o755, 0, 0, 0, 0, [])), "t")


def test_a_tree_with_names_twice_or_out_of_order_is_refused() -> None:
    one, two = (encode_node(Node(name, SYMLINK, 0o777, 0, 0, 0, 0, b"/etc")) for name in (b"a", b"b"))
    for data in (one + one, two + one):
        with pytest.raises(ForgedError, match="out of order"):
            decode_segment(data, "t")


def test_a_map_key_twice_in_a_tree_is_refused() -> None:
    """Two readers could believe different ones: an extended attribute that one shows and the other does not."""
    entry = encode_node(Node(b"a", FILE, 0o600, 0, 0, 0, 0, None, bytes(32), {"x": {b"k": b"1", b"q": b"2"}}))
    assert decode_segment(entry, "t")
    with pytest.raises(DamagedError, match="duplicate"):
        decode_segment(entry.replace(b"\xc4\x01q", b"\xc4\x01k"), "t")


def test_a_directory_that_announces_impossible_blocks_is_refused() -> None:
    for length, chunks in ((1 << 31, 1), (100, (1 << 16) + 1)):
        data = (1).to_bytes(4, "big") + length.to_bytes(4, "big") + chunks.to_bytes(4, "big") + bytes(32) * chunks
        with pytest.raises(DamagedError, match="larger than any"):
            decode_directory(data, 0, "x", padded=False)


def test_a_large_folder_changes_few_segments_when_a_file_is_added() -> None:
    def ids(count: int) -> set[bytes]:
        names = sorted(
            [b"%06d" % (number * 7919 % 1_000_003) for number in range(20_000)]
            + [b"new%d" % item for item in range(count)]
        )
        return {
            bytes(item) for item in segments([encode_node(Node(name, FILE, 0, 0, 0, 0, 0, None)) for name in names])
        }

    assert len(ids(0)) > 5
    assert len(ids(1) - ids(0)) <= 2


@given(st.text(max_size=30))
def test_text_that_is_no_object_name_parses_to_none(text: str) -> None:
    assert parse_name(text) is None
    assert parse_name(f"packs/ab/{'cd' * 32}") is None, "a pack must lie in the folder of its first two digits"
    assert parse_name(f"packs/cd/{'cd' * 32}") is not None


def test_credentials_survive_their_file_and_damage_is_named() -> None:
    credential = Credential(
        WRITER, REPOSITORY, W, "näme", C, SigningKey.generate(post_quantum=True), hpke.generate(Kem.MLKEM768_X25519)
    )
    text = encode_credential(credential)
    back = decode_credential(text, "file")
    assert (back.role, back.name, back.id, back.box, back.signing.public()) == (
        WRITER, "näme", W, credential.box, credential.signing.public(),
    )  # fmt: skip
    for bad in (b"", b"hello", text[:-20], text.replace(b"A", b"!"), text + text.splitlines()[1]):
        with pytest.raises(UsageError):
            decode_credential(bad, "file")


def test_secrets_never_print_pickle_copy_or_hash() -> None:
    secret = Secret(b"unmistakable")
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r}",
        repr([secret]),
        repr({1: secret}),
    ):
        assert "unmistakable" not in shown
    for forbidden in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            forbidden(secret)
    private = hpke.generate(Kem.MLKEM768_X25519)
    assert private.data.reveal().hex() not in repr(private)
    assert secret == Secret(b"unmistakable")
    assert secret != Secret(b"other")
    assert secret != b"unmistakable"
    with pytest.raises(TypeError):
        msgpack.packb(secret)


def test_every_error_has_its_documented_exit_code() -> None:
    import keyark.errors as errors

    codes = {
        "KeyarkError": 1, "UsageError": 2, "RepositoryNotFound": 10, "ConflictError": 11, "NoKeyError": 12, "IntegrityError": 13,
        "DamagedError": 13, "ForgedError": 13, "HistoryError": 13, "StorageError": 14, "StorageFull": 14, "StorageDenied": 14,
        "NotAllowedError": 15, "NotFoundError": 16, "InterruptedByUser": 130,
    }  # fmt: skip
    for name, code in codes.items():
        assert getattr(errors, name).exit_code == code
        assert issubclass(getattr(errors, name), KeyarkError)
    assert issubclass(HistoryError, IntegrityError)


def test_public_keys_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(DamagedError):
        hpke.seal_to(PublicKey(Kem.MLKEM1024_P384, LISTING.public().data), b"", b"")
