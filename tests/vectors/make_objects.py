"""Make the vectors of damaged and hostile objects: tests/vectors/objects/TYPE/LAYER/FAILURE.bin.

    python tests/vectors/make_objects.py

Each file holds one failure, named after it, in the folder of the layer that must refuse it; LAYER `valid` holds what every layer
takes. It is written from docs/format.md with nothing of Keyark's, and is the same at every run, so the tests compare its output
with what is checked in. The keys are for these tests only.
"""

import bz2
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

HERE = Path(__file__).parent / "objects"
SIGNER = Ed25519PrivateKey.from_private_bytes(b"TEST ONLY, protects nothing here")
PUBLIC = SIGNER.public_key().public_bytes_raw()
LATTICE = MLDSA65PrivateKey.from_seed_bytes(b"TEST ONLY, protects nothing here").public_key().public_bytes_raw()
REPOSITORY = hashlib.sha256(PUBLIC + LATTICE).digest()
COMPARTMENT, WRITER, EPOCH, SLOT = (bytes([n]) * 16 for n in (1, 2, 3, 4))
HASH = b"h" * 32

# By type: its number, suite, header and body.
OBJECTS: dict[str, tuple[int, int, dict[str, Any], bytes]] = {
    "keyring": (1, 0, {"r": REPOSITORY, "n": 1, "p": None}, msgpack.packb({"root": [PUBLIC, LATTICE]})),
    "slot-wrap": (2, 0, {"r": REPOSITORY, "k": SLOT, "kind": "passphrase", "m": {}}, bytes(208)),
    "key-wrap": (
        3,
        0,
        {"r": REPOSITORY, "w": "epoch", "c": COMPARTMENT, "i": EPOCH, "k": SLOT, "s": WRITER, "p": [1, b"public"]},
        b"sealed",
    ),
    "pack": (
        4,
        1,
        {"r": REPOSITORY, "c": COMPARTMENT, "w": WRITER, "e": EPOCH, "g": 1, "t": 0, "k": b"sealed key"},
        b"blocks and directory",
    ),
    "index": (5, 1, {"r": REPOSITORY, "c": COMPARTMENT, "w": WRITER, "g": 1, "p": HASH}, b"sealed"),
    "snapshot": (
        6,
        0,
        {"r": REPOSITORY, "c": COMPARTMENT, "w": WRITER, "g": 1, "n": [1, HASH], "q": 2, "p": HASH}
        | {"o": [[COMPARTMENT, EPOCH, 1, HASH]], "R": None, "l": 1, "e": EPOCH, "L": [HASH], "ll": 6},
        b"listedcontent",
    ),
    "mark": (
        7,
        0,
        {"r": REPOSITORY, "s": WRITER, "k": "tombstone", "t": 10**18, "n": 1},
        msgpack.packb([[COMPARTMENT, WRITER, 1, HASH]]),
    ),
    "pack-list": (8, 0, {"r": REPOSITORY, "c": COMPARTMENT, "w": WRITER, "l": 1}, b"sealed"),
}
UNSIGNED = {"slot-wrap"}


def build(
    number: int,
    suite: int,
    header: Any,
    body: bytes,
    *,
    magic: bytes = b"KEYARK",
    version: int = 1,
    scheme: int = 1,
    zero: int = 0,
    raw: bytes | None = None,
    length: int | None = None,
    signed_for: tuple[int, bytes] | None = None,
) -> bytes:
    """One object, signed unless its scheme says otherwise."""
    encoded = msgpack.packb(header) if raw is None else raw
    preamble = struct.pack(
        ">6sBBHBBI", magic, version, number, suite, scheme, zero, len(encoded) if length is None else length
    )
    data = preamble + encoded + body
    if scheme == 0:
        return data
    kind, repository = signed_for or (number, REPOSITORY)
    message = b"keyark/v1 signature\0" + bytes([kind]) + repository + hashlib.sha256(data).digest()
    return data + SIGNER.sign(message) + (bytes(3309) if scheme == 2 else b"")


def objects() -> Iterator[tuple[str, bytes]]:
    for name, (number, suite, header, body) in OBJECTS.items():
        scheme = 0 if name in UNSIGNED else 2 if name == "keyring" else 1

        def made(_facts: Any = (number, suite, header, body), _scheme: int = scheme, **change: Any) -> bytes:
            number, suite, header, body = _facts
            facts = {"number": number, "suite": suite, "header": header, "body": body, "scheme": _scheme} | change
            return build(**facts)

        encoded, first = msgpack.packb(header), next(iter(header))
        good = made()
        if name != "keyring":  # ML-DSA signs at random: it would be another one at every run
            yield f"{name}/valid/valid", good
        yield f"{name}/preamble/empty", b""
        yield f"{name}/preamble/cut-short-in-the-preamble", good[:15]
        yield f"{name}/preamble/cut-short-in-the-header", good[:20]
        yield f"{name}/preamble/wrong-magic", made(magic=b"KEYARC")
        yield f"{name}/preamble/unknown-version", made(version=2)
        yield f"{name}/preamble/another-type", made(number=number % 8 + 1)
        yield f"{name}/preamble/unknown-type", made(number=9)
        yield f"{name}/preamble/unknown-suite", made(suite=5)
        yield f"{name}/preamble/unknown-scheme", build(number, suite, header, body)[:10] + b"\3" + good[11:]
        yield f"{name}/preamble/reserved-byte-not-zero", made(zero=1)
        yield f"{name}/preamble/header-length-over-the-limit", made(length=0xFFFFFFFF)
        yield f"{name}/header/not-a-map", made(header=[1, 2])
        yield f"{name}/header/bytes-after-it", made(raw=encoded + b"\xc0")
        yield (
            f"{name}/header/a-key-twice",
            made(raw=bytes([encoded[0] + 1]) + encoded[1:] + msgpack.packb(first) + b"\xc0"),
        )
        yield f"{name}/header/no-messagepack", made(raw=b"\xc1")
        yield f"{name}/header/announces-more-than-there-is", made(raw=b"\xdf\xff\xff\xff\xff")
        yield f"{name}/header/unknown-field", made(header=header | {"z": 1})
        for field in header:
            rest = {key: value for key, value in header.items() if key != field}
            yield f"{name}/header/field-{field}-missing", made(header=rest)
            if field != "m":
                yield f"{name}/header/field-{field}-of-a-wrong-type", made(header=header | {field: 1.5})
        yield f"{name}/place/another-repository", made(header=header | {"r": b"x" * 32}, signed_for=(number, b"x" * 32))
        if name not in UNSIGNED:
            end = len(good) - 64 - 3309 * (scheme == 2)
            yield f"{name}/signature/last-bit-flipped", good[:-1] + bytes([good[-1] ^ 1])
            yield f"{name}/signature/first-bit-flipped", good[:end] + bytes([good[end] ^ 128]) + good[end + 1 :]
            if name != "keyring":  # its body names the root, and so the repository
                yield f"{name}/signature/body-changed", good[: end - 1] + bytes([good[end - 1] ^ 1]) + good[end:]
            yield f"{name}/signature/cut-off", good[:end]
            yield f"{name}/signature/for-another-type", made(signed_for=(number % 8 + 1, REPOSITORY))
            yield f"{name}/signature/for-another-repository", made(signed_for=(number, b"x" * 32))
            yield f"{name}/signature/of-another-scheme", made(scheme=1 if scheme == 2 else 2)
            yield f"{name}/signature/none", made(scheme=0)


def bodies() -> Iterator[tuple[str, bytes]]:
    """Failures of a body, in objects whose signature is right."""
    number, suite, header, body = OBJECTS["snapshot"]
    yield "snapshot/body/listed-part-longer-than-the-body", build(number, suite, header | {"ll": len(body) + 1}, body)
    number, suite, header, body = OBJECTS["index"]
    yield "index/body/half-a-pack-id", build(number, suite, header | {"p": HASH[:16]}, body)
    number, suite, header, body = OBJECTS["pack"]
    yield "pack/body/no-suite", build(number, 0, header, body)
    number, suite, header, body = OBJECTS["mark"]
    for what, rows in (
        ("rows-not-a-list", {"a": 1}),
        ("a-row-too-short", [[COMPARTMENT, WRITER, 1]]),
        ("a-row-too-long", [[COMPARTMENT, WRITER, 1, HASH, None]]),
        ("an-id-as-text", [["01" * 16, WRITER, 1, HASH]]),
        ("a-negative-number", [[COMPARTMENT, WRITER, -1, HASH]]),
    ):
        yield f"mark/body/{what}", build(number, suite, header, msgpack.packb(rows))
    yield "mark/body/bytes-after-it", build(number, suite, header, body + b"\xc0")
    number, suite, header, body = OBJECTS["key-wrap"]
    for what, change in (
        ("another-recipient", {"k": WRITER}),
        ("another-item", {"i": SLOT}),
        ("another-compartment", {"c": EPOCH}),
        ("signed-by-a-stranger", {"s": SLOT}),
        ("listing-key-signed-by-a-writer", {"w": "listing", "c": None, "i": b"\0\0\0\1"}),
    ):
        yield f"key-wrap/place/{what}", build(number, suite, header | change, body)
    number, suite, header, body = OBJECTS["slot-wrap"]
    salt = {"salt": bytes(32)}
    for what, costs in (
        ("no-kdf", salt),
        ("unknown-kdf", salt | {"kdf": "md5", "iterations": 1}),
        ("short-salt", {"kdf": "pbkdf2-sha256", "salt": b"", "iterations": 1}),
        ("argon2id-memory-over-the-limit", salt | argon2id(memory_kib=(1 << 20) + 1)),
        ("argon2id-passes-over-the-limit", salt | argon2id(iterations=65)),
        ("argon2id-lanes-over-the-limit", salt | argon2id(lanes=17)),
        ("argon2id-unknown-cost", salt | argon2id(speed=1)),
        ("scrypt-n-over-the-limit", salt | {"kdf": "scrypt", "n": 1 << 21, "r": 8, "p": 1}),
        ("scrypt-n-no-power-of-two", salt | {"kdf": "scrypt", "n": 1000, "r": 8, "p": 1}),
        ("scrypt-over-a-gibibyte", salt | {"kdf": "scrypt", "n": 1 << 20, "r": 16, "p": 1}),
        ("pbkdf2-iterations-over-the-limit", salt | {"kdf": "pbkdf2-sha256", "iterations": 10**7 + 1}),
        ("pbkdf2-no-iterations", salt | {"kdf": "pbkdf2-sha256", "iterations": 0}),
    ):
        yield f"slot-wrap/body/{what}", build(number, suite, header | {"m": costs}, body, scheme=0)


def argon2id(**change: int) -> dict[str, Any]:
    return {"kdf": "argon2id", "memory_kib": 64, "iterations": 1, "lanes": 1} | change


def blocks() -> Iterator[tuple[str, bytes]]:
    """Decrypted blocks of two chunks, `a` and `bb` (section 6)."""
    raw = struct.pack(">III", 2, 1, 2) + b"abb"

    def block(codec: int, size: int, packed: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack(">BII", codec, size, len(packed) if length is None else length) + packed + rest

    yield "block/valid/stored-and-padded", block(0, len(raw), raw, bytes(7))
    yield "block/valid/bzip2", block(3, len(raw), bz2.compress(raw))
    yield "block/body/empty", b""
    yield "block/body/unknown-codec", block(5, len(raw), raw)
    yield "block/body/padding-not-zero", block(0, len(raw), raw, b"\0\1")
    yield "block/body/packed-length-beyond-the-end", block(0, len(raw), raw, length=len(raw) + 1)
    yield "block/body/raw-length-over-16-mib", block(3, (16 << 20) + 1, bz2.compress(raw))
    yield "block/body/decompresses-to-more-than-it-says", block(3, len(raw), bz2.compress(raw + bytes(1 << 20)))
    yield "block/body/decompresses-to-less-than-it-says", block(3, len(raw), bz2.compress(raw[:-1]))
    yield "block/body/no-bzip2", block(3, len(raw), raw)
    yield "block/body/one-chunk-fewer-than-the-directory-says", block(0, 9, struct.pack(">II", 1, 1) + b"a")
    yield "block/body/lengths-that-do-not-add-up", block(0, len(raw), struct.pack(">III", 2, 1, 3) + b"abb")


def directories() -> Iterator[tuple[str, bytes]]:
    """Opened directories of a pack (section 6)."""
    good = struct.pack(">III", 1, 100, 1) + HASH
    yield "directory/valid/padded", good + bytes(4)
    yield "directory/body/empty", b""
    yield "directory/body/cut-short", good[:-1]
    yield "directory/body/more-blocks-than-it-can-hold", b"\xff\xff\xff\xff" + good[4:]
    yield "directory/body/more-chunks-than-it-can-hold", struct.pack(">III", 1, 100, 0xFFFFFFFF) + HASH
    yield "directory/body/padding-not-zero", good + b"\0\1"


def trees() -> Iterator[tuple[str, bytes]]:
    """Segments of a folder (section 7)."""

    def entry(**change: Any) -> bytes:
        row = {"name": b"a", "kind": 0, "mode": 0o600, "uid": 0, "gid": 0, "mtime": -1, "size": 3}
        row |= {"content": HASH, "sha256": HASH, "extra": None}
        return bytes(msgpack.packb(list((row | change).values())))

    good = entry()
    other = {"sha256": None, "size": 0, "content": None}
    yield "tree/valid/empty-folder", b""
    yield "tree/valid/one-file-one-link", good + entry(name=b"b", kind=2, **other | {"content": b"/etc/passwd"})
    names = {
        "empty": b"",
        "dot": b".",
        "dot-dot": b"..",
        "with-a-slash": b"../a",
        "absolute": b"/a",
        "with-nul": b"a\0",
    }
    for what, name in (names | {"of-256-bytes": b"a" * 256, "as-text": "a"}).items():
        yield f"tree/body/name-{what}", entry(name=name)
    yield "tree/body/name-twice", good + good
    yield "tree/body/names-out-of-order", entry(name=b"b") + good
    yield "tree/body/cut-short", good + good[:5]
    yield "tree/body/an-entry-too-short", bytes(msgpack.packb([b"a", 0]))
    yield "tree/body/no-entry", b"\x01"
    for what, change in (
        ("unknown-kind", {"kind": 6}),
        ("mode-of-more-than-12-bits", {"mode": 0o100600}),
        ("negative-owner", {"uid": -1}),
        ("size-negative", {"size": -1}),
        ("file-without-sha256", {"sha256": None}),
        ("file-without-content-but-a-size", {"content": None}),
        ("lengths-that-do-not-add-up", {"content": [[HASH, 1], [None, 1]]}),
        ("a-negative-hole", {"content": [[HASH, 4], [None, -1]]}),
        ("short-chunk-id", {"content": HASH[:31]}),
        ("unknown-extra", {"extra": {"z": 1}}),
        ("folder-with-sha256", {"kind": 1, "content": [HASH], "size": 0}),
        ("link-without-a-target", {"kind": 2, **other}),
        ("fifo-with-content", {"kind": 3, **other, "content": HASH}),
        ("device-without-a-number", {"kind": 4, **other}),
    ):
        yield f"tree/body/{what}", entry(**change)


def everything() -> dict[str, bytes]:
    """File name below objects/, without its ending, and content."""
    return {name: data for make in (objects, bodies, blocks, directories, trees) for name, data in make()}


if __name__ == "__main__":
    for name, data in everything().items():
        path = HERE / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
