#!/usr/bin/env python3
"""recover.py: restores backups from a Keyark repository, without Keyark. It needs Python 3.11 or later.

DO NOT TRUST THIS FILE BECAUSE IT LIES IN THE REPOSITORY: whoever can write there could have changed it, and you are about
to give it your key. Compare its SHA-256 (`sha256sum recover.py`) with the one that `keyark init` printed and that you
wrote down, or take it from a place that you trust.

    python3 -m venv venv && venv/bin/pip install cryptography zstandard blake3
    venv/bin/python recover.py --repository FOLDER --key-file backup_master.key list
    venv/bin/python recover.py --repository FOLDER --key-file backup_master.key restore latest --target EMPTY_FOLDER

Exit codes: 0 done, 1 failed, 2 bad usage, 10 no repository there, 12 no key that opens it, 13 damaged or forged data (what
is sound was restored), 14 a storage cannot be read or is full, 16 no such snapshot, 130 interrupted.

It checks every signature, hash and chunk of what it reads. It cannot know what is NOT there: compare the list of snapshots
with your own records; a storage may withhold the newest ones, or show a state of long ago.

It shares no code with Keyark. "Section" means one of Keyark's docs/format.md, version 1 of the repository format.
"""

from __future__ import annotations

import argparse
import base64
import bz2
import contextlib
import datetime
import errno
import functools
import getpass
import hashlib
import hmac
import io
import lzma
import os
import re
import secrets
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

try:
    import blake3
    import zstandard
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives import hashes, hpke
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, x25519
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError as problem:
    sys.exit(f"recover.py: {problem}. Run: pip install --upgrade cryptography zstandard blake3")

MIB = 1 << 20
KEYRING, SLOT_WRAP, KEY_WRAP, PACK, INDEX, SNAPSHOT, MARK, PACK_LIST = range(1, 9)
LIMITS = {KEYRING: 64, SLOT_WRAP: 1 / 16, KEY_WRAP: 1 / 16, PACK: 256, SNAPSHOT: 64, MARK: 16, PACK_LIST: 64}  # MiB
HEADERS = {
    KEYRING: "r n p",
    SLOT_WRAP: "r k kind m",
    KEY_WRAP: "r w c i k s p",
    PACK: "r c w e g t k",
    SNAPSHOT: "r c w g n q p o R l e L ll",
    MARK: "r s k t n",
    PACK_LIST: "r c w l",
}
ROOT = None  # as the signer in headers


class Failure(Exception):
    """What ends the program, or costs one object: an exit code and one line."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever rotten or hostile bytes provoke into one line that names the object."""
    try:
        yield
    except Failure:
        raise
    except FileNotFoundError:
        raise Failure(13, f"{name}: is missing") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # nothing more can be restored
        raise Failure(14, f"{name}: {error.strerror}") from error
    except Exception as error:  # noqa: BLE001 - each library has its own ways to stumble over hostile bytes
        known = {InvalidTag: "does not open: damaged or forged", InvalidSignature: "its signature is wrong"}
        raise Failure(13, f"{name}: {known.get(type(error), f'malformed: {error}')}") from None


# --- MessagePack


def unpack(data: bytes) -> Any:
    stream = io.BytesIO(data)
    value = unpack_next(stream)
    if stream.read(1):
        raise ValueError("bytes after its end")
    return value


def unpack_next(stream: io.BytesIO, depth: int = 0) -> Any:
    """Read one value, strictly: what is read may be hostile."""

    def take(size: int) -> bytes:
        data = stream.read(size)
        if len(data) != size or depth > 16:
            raise ValueError("cut short, or nested too deeply")
        return data

    def number(first_tag: int, smallest: int = 1) -> int:
        return int.from_bytes(take(smallest << (tag - first_tag)), "big")

    tag = take(1)[0]
    if tag < 0x80 or tag >= 0xE0:
        return tag if tag < 0x80 else tag - 256
    if tag < 0x90 or tag >= 0xDE:  # maps
        table: dict[Any, Any] = {}
        for _ in range(tag & 15 if tag < 0x90 else number(0xDE, 2)):
            key = unpack_next(stream, depth + 1)
            if key in table:
                raise ValueError("a key twice")
            table[key] = unpack_next(stream, depth + 1)
        return table
    if tag < 0xA0 or tag >= 0xDC:  # lists
        return [unpack_next(stream, depth + 1) for _ in range(tag & 15 if tag < 0xA0 else number(0xDC, 2))]
    if tag < 0xC0 or tag >= 0xD9:  # text
        return take(tag & 31 if tag < 0xC0 else number(0xD9)).decode()
    if 0xC4 <= tag <= 0xC6:  # bytes
        return take(number(0xC4))
    if 0xCC <= tag <= 0xCF:
        return number(0xCC)
    if 0xD0 <= tag <= 0xD3:
        return int.from_bytes(take(1 << (tag - 0xD0)), "big", signed=True)
    if tag not in (0xC0, 0xC2, 0xC3):
        raise ValueError("a type of MessagePack's that the format does not use")
    return {0xC0: None, 0xC2: False, 0xC3: True}[tag]


def packed(number: int) -> bytes:
    size = next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    return (b"" if number < 128 else bytes([0xCB + size.bit_length()])) + number.to_bytes(size, "big")


# --- Cryptography and objects: sections 1 and 2


def lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(key: bytes, salt: bytes | None, info: bytes, length: int = 32) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def aead_open(suite: int, key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
    if suite == 4:  # the cascade
        return aead_open(1, key[:32], nonce, aead_open(2, key[32:], nonce, data, aad), aad)
    kinds: dict[int, Any] = {1: AESGCM, 2: ChaCha20Poly1305, 3: AESGCMSIV}
    return bytes(kinds[suite](key).decrypt(nonce, data, aad))


def hybrid_key(private: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    """The key of MLKEM768-X25519 with its public half."""
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:64])
    curve = x25519.X25519PrivateKey.from_private_bytes(private[64:])
    public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(lattice, curve), public


def approved_key(private: bytes) -> tuple[hpke.MLKEM1024P384PrivateKey, bytes]:
    """The key of MLKEM1024-P384 with its public half."""
    lattice = mlkem.MLKEM1024PrivateKey.from_seed_bytes(private[:64])
    curve = ec.derive_private_key(int.from_bytes(private[64:], "big"), ec.SECP384R1())
    point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hpke.MLKEM1024P384PrivateKey(lattice, curve), lattice.public_key().public_bytes_raw() + point


class BoxKey:
    """The private key of a [kem, public key] of the format's."""

    def __init__(self, record: list[Any], private: bytes) -> None:
        self.kem, wanted = record
        makers: dict[int, Any] = {1: hybrid_key, 2: approved_key}
        self.key, public = makers[self.kem](private)
        if public != wanted:
            raise ValueError("its private and public half do not fit")

    def open(self, data: bytes, place: tuple[bytes, bytes | None], context: bytes, suite: int, kind: str) -> bytes:
        """Open HPKE. `place`: repository, and compartment or nil."""
        if self.kem == 1:
            box = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        else:
            box = hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM)
        numbers = (suite.to_bytes(2, "big"), bytes([self.kem]))
        info = lp(b"keyark/v1", place[0], place[1] or b"", context, *numbers, kind.encode())
        return box.decrypt(data, self.key, info)


class Object:
    """One object, parsed; nothing in it is true before `verify` returned."""

    def __init__(self, name: str, data: bytes, kind: int) -> None:
        start = 16 + int.from_bytes(data[12:16], "big")
        magic, version, found, self.suite, self.scheme, zero = struct.unpack(">6sBBHBB", data[:12])
        if (magic, version, found, zero) != (b"KEYARK", 1, kind, 0) or self.suite > 4 or self.scheme > 2:
            raise ValueError(f"unknown version {version}, type {found}, suite {self.suite} or scheme {self.scheme}")
        end = len(data) - (0, 64, 64 + 3309)[self.scheme]
        if end < start or (kind != KEYRING and start > 16 + MIB):
            raise ValueError("too short, or its header too long")
        self.name, self.kind, self.start = name, kind, start
        self.header, self.body, self.signature = unpack(data[16:start]), data[start:end], data[end:]
        self.aad, self.signed = sha256(data[:start]), sha256(data[:end])
        if set(self.header) != set(HEADERS[kind].split()):
            raise ValueError("header fields that this program does not know, or missing ones")

    def verify(self, repository: bytes, keys: list[Any]) -> None:
        """Check the signature by [Ed25519 key, ML-DSA-65 key or nil]; raises InvalidSignature."""
        message = b"keyark/v1 signature\0" + bytes([self.kind]) + repository + self.signed
        if self.header["r"] != repository or self.scheme != (2 if keys[1] else 1):
            raise InvalidSignature
        ed25519.Ed25519PublicKey.from_public_bytes(keys[0]).verify(self.signature[:64], message)
        if keys[1]:
            mldsa.MLDSA65PublicKey.from_public_bytes(keys[1]).verify(self.signature[64:], message)


# --- age identities (age-encryption.org/v1)


def identity_key(line: str) -> tuple[str, bytes]:
    """The kind of slot, and the 32 secret bytes, of a line AGE-SECRET-KEY-... (Bech32, BIP 173)."""
    prefix, _, rest = line.lower().rpartition("1")
    values, check = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(letter) for letter in rest], 1
    for value in [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    kind = {"age-secret-key-": "age-x25519", "age-secret-key-pq-": "age-mlkem768x25519"}.get(prefix)
    if check != 1 or kind is None:
        raise ValueError("not an age identity of a known kind, or mistyped")
    number = functools.reduce(lambda total, value: total << 5 | value, values[:-6], 0)
    return kind, (number >> (len(values) - 6) * 5 % 8).to_bytes(32, "big")


def age_open(data: bytes, kind: str, secret: bytes) -> bytes:
    """The content (below 64 KiB) of an age file; raises InvalidTag when the identity does not fit."""

    def unpadded(text: bytes) -> bytes:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)

    head, _, tail = data.partition(b"\n--- ")
    mac, _, payload = tail.partition(b"\n")
    wanted = b"X25519 " if kind == "age-x25519" else b"mlkem768x25519 "
    arguments, *lines = next(p for p in head.split(b"\n-> ") if p.startswith(wanted)).split(b"\n")
    share, sealed = unpadded(arguments.split(b" ")[1]), unpadded(b"".join(lines))
    if kind == "age-x25519":
        private = x25519.X25519PrivateKey.from_private_bytes(secret)
        shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(share))
        salt = share + private.public_key().public_bytes_raw()
        key = ChaCha20Poly1305(hkdf(shared, salt, b"age-encryption.org/v1/X25519")).decrypt(bytes(12), sealed, None)
    else:  # the identity is the seed of an MLKEM768-X25519 key, also called X-Wing
        hybrid, _ = hybrid_key(hashlib.shake_256(secret).digest(96))
        box = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
        key = box.decrypt(share + sealed, hybrid, b"age-encryption.org/mlkem768x25519")
    if not hmac.compare_digest(hmac.digest(hkdf(key, None, b"header"), head + b"\n---", "sha256"), unpadded(mac)):
        raise InvalidTag
    return ChaCha20Poly1305(hkdf(key, payload[:16], b"payload")).decrypt(bytes(11) + b"\1", payload[16:], None)


# --- The repository and its keys: sections 3 to 5


class Generation(NamedTuple):
    digest: bytes
    before: bytes | None
    body: dict[str, Any]


class Repository:
    def __init__(self, folder: Path, expected: bytes | None) -> None:
        self.folder, self.codes, self.reports = folder, set[int](), 0
        self.generations: dict[int, Generation] = {}
        if not (folder / "keys").is_dir():
            raise Failure(10, f"{folder}: is no Keyark repository: it has no folder `keys`")
        self.id = expected or b""
        for name in self.names("keys/*"):
            with self.going_on(), reading(name):  # 4. what fails is reported and ignored
                self.read_keyring(name)
        last = max(self.generations, default=0)
        for number in range(1, last + 1):  # 5.
            before = self.generations[number - 1].digest if number - 1 in self.generations else None
            if number not in self.generations or self.generations[number].before != before:
                raise Failure(13, f"keys: generation {number} is missing, or does not follow the one before")
        if not last:
            raise Failure(13, f"{folder}: holds no valid keyring of repository {self.id.hex() or '(any)'}")
        self.ring = self.generations[last].body

    def read_keyring(self, name: str) -> None:
        thing = self.load(name, KEYRING)
        ring, number = unpack(thing.body), thing.header["n"]
        identity = sha256(ring["root"][0] + ring["root"][1])
        if identity != (self.id or identity) or not name.startswith(f"keys/{number:08d}-"):
            raise ValueError(f"is of another repository, {identity.hex()}: say which with --repository-id")  # 1.
        thing.verify(identity, ring["root"])  # 2.
        fields = "root created profile ids kem suite listing compartments slots writers operators policies"
        if set(ring) != {*fields.split(), "readme", "reader"} or set(ring["policies"]) - {"epoch_days", "require_pq"}:
            raise ValueError("fields or policies that this program does not know")  # 3.
        if number in self.generations:
            sys.exit(self.report(Failure(13, f"keys: two valid keyrings claim generation {number}")))
        self.id, self.generations[number] = identity, Generation(bytes.fromhex(name[-64:]), thing.header["p"], ring)

    def report(self, failure: Failure, what: str = "") -> int:
        self.codes.add(failure.code)
        self.reports += 1
        print(f"recover.py: {what}{failure}", file=sys.stderr)
        return failure.code

    @contextlib.contextmanager
    def going_on(self, what: str = "") -> Iterator[None]:
        """Report what fails in here, and go on with the rest."""
        try:
            yield
        except Failure as failure:
            self.report(failure, what)

    def names(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))

    def load(self, name: str, kind: int) -> Object:
        """Read and parse an object; the hash in its name, if there is one, must fit."""
        limit = int(LIMITS[kind] * MIB)
        with (self.folder / name).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError("larger than the format allows")
        digest = re.search(r"[0-9a-f]{64}$", name)
        if digest and digest.group() != sha256(data).hex():
            raise ValueError("its content does not fit its name: damaged")
        return Object(name, data, kind)

    def load_signed(self, name: str, kind: int, compartment: bytes | None = None) -> Object:
        """Also verify it by its writer's key, and that it lies where it belongs."""
        thing = self.load(name, kind)
        if kind == PACK and thing.header["w"] is ROOT:  # re-sealed
            thing.verify(self.id, self.ring["root"])
            return thing
        writer = self.ring["writers"][thing.header["w"].hex()]
        thing.verify(self.id, writer["verify"])
        if thing.header["c"] != (compartment or thing.header["c"]) or thing.header["c"] != writer["compartment"]:
            raise ValueError("belongs to another compartment")
        return thing

    @functools.cached_property
    def superseded(self) -> dict[bytes, list[bytes]]:
        """Packs, and those in which the root has sealed the same chunks anew: section 10."""
        found: dict[bytes, list[bytes]] = {}
        for name in self.names("marks/*"):
            with contextlib.suppress(Failure), reading(name):  # a damaged mark shows where a pack is missed
                thing = self.load(name, MARK)
                if thing.header["k"] == "supersedes":
                    thing.verify(self.id, self.ring["root"])
                    for old, new, _ in unpack(thing.body):
                        found.setdefault(old, []).append(new)
        return found

    def pack_names(self, digest: bytes) -> list[str]:
        """Every pack that holds what the listed one does and that is there, the newest first; or the listed one."""
        same = [digest]
        for known in same:
            same += [pack for pack in self.superseded.get(known, []) if pack not in same]
        names = [f"packs/{pack.hex()[:2]}/{pack.hex()}" for pack in same]
        return [name for name in reversed(names) if (self.folder / name).exists()] or names[:1]

    def open_slot(self, kind: str, secret: bytes) -> bool:
        """Find the slot that the secret opens: section 4."""
        for slot_id, slot in self.ring["slots"].items():
            if slot["kind"] == kind:
                with self.going_on(), reading(name := f"wraps/slots/{slot_id}"):
                    thing = self.load(name, SLOT_WRAP)
                    if thing.signed != slot["wrap"]:
                        raise ValueError("is not what the keyring names: damaged or forged")
                    private = self.unwrap(thing, bytes.fromhex(slot_id), slot, secret)
                    if private:
                        self.slot_id, self.slot, self.slot_key = slot_id, slot, BoxKey(slot["public"], private)
                        return True
        return False

    def unwrap(self, wrap: Object, slot_id: bytes, slot: dict[str, Any], secret: bytes) -> bytes | None:
        """The slot's private key; None when the secret does not fit."""
        kind = slot["kind"]
        info = lp(b"keyark/v1", self.id, slot_id, sha256(slot["public"][1]), f"slot wrap {kind}".encode())
        if kind.startswith("age-"):
            try:
                opened = age_open(wrap.body, kind, secret)
            except InvalidTag:
                return None
            if opened[:32] != sha256(info):
                raise ValueError("was made for another slot or repository")
            opened = opened[32:]
        else:
            line = kind == "key-file"
            key = hkdf(secret, None, lp(b"keyark/v1", self.id, b"slot")) if line else derive(wrap.header["m"], secret)
            both = hkdf(key, wrap.body[:32], info, 64)
            if not hmac.compare_digest(both[32:], wrap.body[32:64]):
                return None
            opened = AESGCM(both[:32]).decrypt(bytes(12), wrap.body[64:], info)
        return opened[2:][: int.from_bytes(opened[:2], "big")]

    @functools.cache  # noqa: B019 - the one repository lives as long as the program
    def wrapped(
        self, folder: str, what: str, place: bytes | None, item: bytes, writer: bytes | None
    ) -> tuple[bytes, Any]:
        """What was wrapped for our slot (section 5), and the public half. `writer`: who may sign beside the root."""
        with reading(name := f"wraps/{folder}/{self.slot_id}"):
            wrap = self.load(name, KEY_WRAP)
            head = wrap.header
            if [head["w"], head["c"], head["i"], head["k"].hex()] != [what, place, item, self.slot_id]:
                raise ValueError("is not what its name says")
            if head["s"] not in (ROOT, writer):
                raise ValueError("is signed by somebody who may not")
            keys = self.ring["root"] if head["s"] is ROOT else self.ring["writers"][head["s"].hex()]["verify"]
            wrap.verify(self.id, keys)
            return self.slot_key.open(wrap.body, (self.id, place), item, 0, f"key wrap {what}"), head["p"]
        raise AssertionError  # not reached: `reading` raises

    def listing_key(self, number: int) -> BoxKey:
        private, _ = self.wrapped(f"listing/{number:08d}", "listing", None, number.to_bytes(4, "big"), ROOT)
        return BoxKey(self.ring["listing"][number - 1], private)

    def compartment_keys(self, compartment: bytes, number: int) -> tuple[bytes, bytes]:
        """Id key and index key."""
        folder = f"{compartment.hex()}/keys-{number:08d}"
        both, _ = self.wrapped(folder, "compartment", compartment, number.to_bytes(4, "big"), ROOT)
        return both[:32], both[32:]

    def epoch_key(self, compartment: bytes, epoch: bytes, writer: bytes | None) -> BoxKey:
        key, public = self.wrapped(f"{compartment.hex()}/{epoch.hex()}", "epoch", compartment, epoch, writer)
        if sha256(bytes([public[0]]) + public[1])[:16] != epoch:
            raise ValueError("the epoch's wrap holds the key of another epoch")
        return BoxKey(public, key)


def derive(costs: dict[str, Any], passphrase: bytes) -> bytes:
    """Run a passphrase's KDF, its costs capped first."""
    kdf, salt = costs["kdf"], costs["salt"]
    passes = 64 if kdf == "argon2id" else 10**7
    limits = {"memory_kib": MIB, "iterations": passes, "lanes": 16, "n": MIB, "r": 32, "p": 16}
    if len(salt) != 32 or any(
        not 1 <= value <= limits[cost] for cost, value in costs.items() if cost not in ("kdf", "salt")
    ):
        raise ValueError("key derivation costs beyond the limits")
    if kdf == "argon2id":
        lanes, memory = costs["lanes"], costs["memory_kib"]
        return Argon2id(salt=salt, length=32, iterations=costs["iterations"], lanes=lanes, memory_cost=memory).derive(
            passphrase
        )
    if kdf == "scrypt":  # OpenSSL refuses what needs more than `maxmem`
        n, r, p = costs["n"], costs["r"], costs["p"]
        return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=1100 * MIB, dklen=32)
    if kdf == "pbkdf2-sha256":
        return hashlib.pbkdf2_hmac("sha256", passphrase, salt, costs["iterations"], 32)
    raise ValueError(f"unknown key derivation {kdf}")


# --- Snapshots: section 8


class Snapshot(NamedTuple):
    id: str
    header: dict[str, Any]
    listed: dict[str, Any]
    content: dict[str, Any]


def read_snapshots(repo: Repository) -> list[Snapshot]:
    """All that our key opens, oldest first."""
    found: list[Snapshot] = []
    for name in repo.names("snapshots/*/*/*"):
        with repo.going_on(), reading(name):
            thing = repo.load_signed(name, SNAPSHOT)
            head, allowed = thing.header, repo.slot["compartments"]
            if not name.startswith(f"snapshots/{head['c'].hex()}/{head['w'].hex()}/{head['q']:08d}-"):
                raise ValueError("is not what its name says")
            last = repo.ring["writers"][head["w"].hex()]["revoked"]  # number and id of the last one that counts
            if last and head["q"] >= last[0] and [head["q"], bytes.fromhex(name[-64:])] != last:
                raise ValueError("its writer had been revoked before; it does not count")
            if allowed is None or head["c"] in allowed:
                found.append(open_snapshot(repo, thing))
    earliest: dict[bytes, int] = {}  # by writer, among its later snapshots: a clock that ran ahead makes nothing newer
    keyed = []
    for snapshot in sorted(found, key=lambda snapshot: -snapshot.header["q"]):
        writer, time = snapshot.header["w"], snapshot.listed["time"]
        earliest[writer] = min(time, earliest.get(writer, time))
        keyed.append((earliest[writer], snapshot.header["q"], snapshot.id, snapshot))
    return [snapshot for _, _, _, snapshot in sorted(keyed)]


def open_snapshot(repo: Repository, thing: Object) -> Snapshot:
    head, cut, place = thing.header, thing.header["ll"], (repo.id, thing.header["c"])
    context = b"\x94\xc4\x10" + head["e"] + b"\xc4\x10" + head["w"] + packed(head["q"]) + packed(head["l"])
    epoch = repo.epoch_key(head["c"], head["e"], head["w"])
    listed = repo.listing_key(head["l"]).open(thing.body[:cut], place, context, 0, "snapshot listed")
    content = epoch.open(thing.body[cut:], place, context, 0, "snapshot content")
    found = Snapshot(thing.name[-64:], head, unpack(listed), unpack(content))
    texts = [found.content["name"].encode(), *found.content["paths"], *found.content["tree"]]
    if not all(isinstance(text, bytes) for text in texts) or not 0 <= found.listed["time"] < 1 << 63:
        raise ValueError("its content is not what a snapshot holds")
    return found


# --- Packs and chunks: section 6


class Pack:
    def __init__(self, repo: Repository, name: str, compartment: bytes) -> None:
        self.path, self.name, self.ids = repo.folder / name, name, repo.ring["ids"]
        with (
            repo.going_on(),
            reading(name),
        ):  # if this fails, sound blocks still prove themselves, by AEAD and chunk ids
            repo.load_signed(name, PACK, compartment)
        thing = Object(name, self.path.read_bytes(), PACK)
        head, self.suite, self.aad = thing.header, thing.suite, thing.aad
        self.kind = ("data", "tree")[head["t"]]
        place = lp(b"keyark/v1", repo.id, compartment)
        id_key, index_key = repo.compartment_keys(compartment, head["g"])
        self.id_key = hkdf(id_key, None, place + lp(b"chunk id " + self.kind.encode()))
        epoch = repo.epoch_key(compartment, head["e"], head["w"])
        self.key = epoch.open(head["k"], (repo.id, compartment), head["e"], self.suite, "pack")
        end = len(thing.body) - 4
        sealed = thing.body[end - int.from_bytes(thing.body[end:], "big") : end]
        directory_key = hkdf(index_key, sealed[:32], place + lp(b"pack directory", b"\0\1"))
        directory = io.BytesIO(AESGCM(directory_key).decrypt(bytes(12), sealed[32:], self.aad))
        self.blocks: list[tuple[int, int, list[bytes]]] = []  # offset in the file, sealed length, chunk ids
        offset = thing.start
        for _ in range(int.from_bytes(directory.read(4), "big")):
            length, count = struct.unpack(">II", directory.read(8))
            if count > 65536:
                raise ValueError("too many chunks in a block")
            self.blocks.append((offset, length, [directory.read(32) for _ in range(count)]))
            offset += length

    def chunk_id(self, data: bytes) -> bytes:
        if self.ids == "blake3":
            return blake3.blake3(data, key=self.id_key).digest()
        return hmac.digest(self.id_key, data, "sha256")

    @functools.lru_cache(maxsize=8)  # noqa: B019 - at most 8 blocks of 16 MiB
    def block(self, number: int) -> list[bytes]:
        """The chunks of a block, not yet checked by their ids."""
        offset, length, ids = self.blocks[number]
        with reading(f"{self.name}, block {number}"):
            with self.path.open("rb") as file:
                file.seek(offset)
                sealed = file.read(length)
            nonce = number.to_bytes(11, "big") + bytes([number == len(self.blocks) - 1])
            block = aead_open(self.suite, self.key, nonce, sealed, self.aad)
            codec, size, packed_size = struct.unpack(">BII", block[:9])
            if size > 16 * MIB or packed_size > len(block) - 9 or any(block[9 + packed_size :]):
                raise ValueError("wrong lengths or padding")
            raw = decompress(codec, block[9 : 9 + packed_size], size)
            count, *lengths = struct.unpack(f">{len(ids) + 1}I", raw[: 4 * len(ids) + 4])
            if count != len(ids) or not len(raw) == size == 4 * count + 4 + sum(lengths):
                raise ValueError("lengths do not add up")
            data = io.BytesIO(raw[4 * count + 4 :])
            return [data.read(length) for length in lengths]
        raise AssertionError  # not reached: `reading` raises


def decompress(codec: int, data: bytes, size: int) -> bytes:
    """At most one byte more than `size`, so that a decompression bomb costs nothing."""
    if codec == 1:
        return bytes(zstandard.ZstdDecompressor(max_window_size=128 * MIB).stream_reader(data).read(size + 1))
    if codec == 2:
        return zlib.decompressobj(wbits=31).decompress(data, size + 1)
    if codec == 3:
        return bz2.BZ2Decompressor().decompress(data, size + 1)
    if codec == 4:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 * MIB).decompress(data, size + 1)
    if codec != 0:
        raise ValueError(f"unknown codec {codec}")
    return data


class Chunks:
    """Finds chunks, only in packs that the snapshot's pack lists name."""

    def __init__(self, repo: Repository, snapshot: Snapshot) -> None:
        self.places: dict[tuple[str, bytes], list[tuple[Pack, int, int]]] = {}
        compartment = snapshot.header["c"]
        for digest in snapshot.header["L"]:
            pattern = f"packlists/{compartment.hex()}/*/{digest.hex()}"
            with repo.going_on(), reading(name := next(iter(repo.names(pattern)), pattern)):
                thing = repo.load_signed(name, PACK_LIST, compartment)
                number = thing.header["l"]
                key, context = repo.listing_key(number), number.to_bytes(4, "big")
                rows = key.open(thing.body, (repo.id, compartment), context, 0, "pack list")
                for listed in (rows[at : at + 32] for at in range(0, len(rows), 56)):
                    for name in repo.pack_names(listed):
                        with repo.going_on(), reading(name):
                            self.add(Pack(repo, name, compartment))
                            break

    def add(self, pack: Pack) -> None:
        for number, (_, _, ids) in enumerate(pack.blocks):
            for position, chunk in enumerate(ids):
                self.places.setdefault((pack.kind, chunk), []).append((pack, number, position))

    def get(self, kind: str, chunk: bytes) -> bytes:
        """The chunk, checked by its id."""
        why = Failure(13, f"{kind} chunk {chunk.hex()} is in no pack that could be opened")
        for pack, number, position in self.places.get((kind, chunk), []):
            try:
                data = pack.block(number)[position]
            except Failure as failure:
                why = failure
                continue
            if pack.chunk_id(data) == chunk:
                return data
            why = Failure(13, f"{pack.name}: chunk {chunk.hex()} is not what its id says")
        raise why


# --- Restoring, through folder descriptors, never following a link: sections 7 and 13


class Entry(NamedTuple):
    name: bytes
    kind: int  # 0 file, 1 folder, 2 symbolic link, 3 FIFO, 4 character device, 5 block device
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    content: Any
    sha256: bytes | None
    extra: dict[str, Any] | None


CONTENT: dict[int, Any] = {0: (list, bytes, type(None)), 1: list, 2: bytes, 3: type(None), 4: int, 5: int}  # by kind


def read_segment(data: bytes, before: bytes) -> list[Entry]:
    """All entries of a folder's segment, checked, or none; `before` is the last name of the segment before."""
    stream, entries = io.BytesIO(data), list[Entry]()
    while stream.tell() < len(data):
        entries.append(entry := Entry(*unpack_next(stream)))
        if not re.fullmatch(rb"[^/\0]{1,255}", entry.name) or entry.name in (b".", b"..") or entry.name <= before:
            raise ValueError("a name that no folder can hold, twice, or out of order")
        if not isinstance(entry.content, CONTENT[entry.kind]) or (entry.kind == 0) != isinstance(entry.sha256, bytes):
            raise ValueError("an entry of an unknown kind, or with a content that does not fit its kind")
        if min(entry.uid, entry.gid, entry.size, entry.mode) < 0 or entry.mode > 0o7777:
            raise ValueError("an entry with impossible numbers")
        if not set(entry.extra or ()) <= set("xlc"):
            raise ValueError("an entry with unknown fields")
        before = entry.name
    return entries


def shown(path: bytes) -> str:
    """A name without control characters: a hostile one must not write to the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in os.fsdecode(path))


class Restore:
    def __init__(self, repo: Repository, chunks: Chunks, root: int) -> None:
        self.repo, self.chunks, self.root, self.objects = repo, chunks, root, 0
        self.linked: dict[bytes, tuple[bytes, bytes]] = {}  # hard link value -> where one of them is: folder, name

    def folder(self, fd: int, segments: list[bytes], path: bytes) -> None:
        """Restore a folder's entries into the open folder `fd`."""
        before = b""
        for segment in segments:
            entries: list[Entry] = []
            with self.repo.going_on(f"{shown(path) or '/'}: not complete: "), reading(f"tree {segment.hex()}"):
                entries = read_segment(self.chunks.get("tree", segment), before)
            for entry in entries:
                before = entry.name
                there = shown(path + b"/" + entry.name)
                with self.repo.going_on(f"{there}: not restored: "), reading("entry"):
                    self.entry(fd, entry, path)

    def entry(self, fd: int, entry: Entry, path: bytes) -> None:
        link = (entry.extra or {}).get("l")
        if entry.kind == 1:
            os.mkdir(entry.name, 0o700, dir_fd=fd)
            with descending(fd, entry.name) as child:
                self.folder(child, entry.content, path + b"/" + entry.name)
                self.attributes(child, entry)
            return
        if link not in self.linked or not self.link(fd, entry.name, *self.linked[link]):
            if entry.kind == 0:
                self.file(fd, entry)
            else:
                self.special(fd, entry)
            if link is not None:
                self.linked[link] = (path, entry.name)
        self.objects += 1

    def link(self, fd: int, name: bytes, folder: bytes, first: bytes) -> bool:
        """Make a hard link to what was restored before; where that cannot be, say so: it becomes an object of its own."""
        try:
            with descending(self.root, *folder.split(b"/")[1:]) as source:
                os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def file(self, fd: int, entry: Entry) -> None:
        """Write under another name, check, then rename: what is damaged never stands there looking whole."""
        pieces: list[Any] = [[entry.content, entry.size]] if isinstance(entry.content, bytes) else entry.content or []
        if sum(length for _, length in pieces) != entry.size or any(length < 0 for _, length in pieces):
            raise ValueError("lengths do not add up")
        temporary, digest = b".recover-" + secrets.token_hex(8).encode(), hashlib.sha256()
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=fd)
        try:
            with os.fdopen(out, "wb") as file:
                for chunk, length in pieces:
                    if chunk is None:  # a hole
                        file.seek(length, os.SEEK_CUR)
                        for start in range(0, length, MIB):
                            digest.update(bytes(min(MIB, length - start)))
                        continue
                    data = self.chunks.get("data", chunk)
                    if len(data) != length:
                        raise ValueError("a chunk of another length")
                    digest.update(data)
                    file.write(data)
                file.truncate(entry.size)
                if digest.digest() != entry.sha256:
                    raise ValueError("its SHA-256 is not the recorded one")
                self.attributes(file.fileno(), entry)
            os.rename(temporary, entry.name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(temporary, dir_fd=fd)
            raise

    def special(self, fd: int, entry: Entry) -> None:
        if entry.kind == 2:
            os.symlink(entry.content, entry.name, dir_fd=fd)
        else:
            kind = {3: stat.S_IFIFO, 4: stat.S_IFCHR, 5: stat.S_IFBLK}[entry.kind]
            os.mknod(entry.name, 0o600 | kind, entry.content or 0, dir_fd=fd)
        if os.geteuid() == 0:
            os.chown(entry.name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.kind != 2:
            os.chmod(entry.name, entry.mode & 0o7777, dir_fd=fd)
        os.utime(entry.name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)

    def attributes(self, fd: int, entry: Entry) -> None:
        """Owner (as root), mode, extended attributes and time of an open file or folder."""
        mode = entry.mode & 0o7777
        if os.geteuid() == 0:
            os.chown(fd, entry.uid, entry.gid)
        elif entry.kind == 0:
            mode &= 0o1777  # set-ID bits of another owner's program would make it ours
        os.chmod(fd, mode)
        for name, value in (entry.extra or {}).get("x", {}).items():
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                print(f"recover.py: {shown(entry.name)}: attribute {shown(name)}: {error.strerror}", file=sys.stderr)
        os.utime(fd, ns=(entry.mtime, entry.mtime))


@contextlib.contextmanager
def descending(fd: int, *names: bytes) -> Iterator[int]:
    """A folder below the open folder `fd`, opened name by name."""
    here = os.dup(fd)
    try:
        for name in names:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


# --- The command line


def read_secrets(options: argparse.Namespace) -> list[tuple[str, bytes]]:
    """(kind of slot, secret) of what the user gave."""
    path = options.identity or options.key_file or options.passphrase_file
    if path is None and not sys.stdin.isatty():
        raise Failure(2, "name a key: --key-file, --passphrase-file or --identity")
    try:
        if path is None:
            return [("passphrase", getpass.getpass("Passphrase: ").encode())]
        line, _, rest = path.read_bytes().partition(b"\n")
        if options.key_file:
            return [("key-file", line.strip())]
        if options.passphrase_file:
            return [("passphrase", line.rstrip(b"\r"))]
        words = (line + b"\n" + rest).decode("ascii", "replace").split()
        return [identity_key(word) for word in words if word.upper().startswith("AGE-SECRET-KEY-")]
    except (OSError, ValueError) as error:
        raise Failure(2, f"{path or 'passphrase'}: cannot be read as a key: {error}") from None


def run(options: argparse.Namespace) -> int:
    if options.identity and not options.repository_id:
        raise Failure(2, "--identity needs --repository-id, from your records: anybody can seal to a public key")
    repo = Repository(options.repository, options.repository_id)
    if not any(repo.open_slot(*secret) for secret in read_secrets(options)):
        raise Failure(13 if repo.codes else 12, f"{options.repository}: this key opens none of its slots")
    print(f"repository {repo.id.hex()}, keyring generation {max(repo.generations)}")
    before, snapshots = repo.reports, read_snapshots(repo)
    if options.verb == "list":
        for snapshot in snapshots:
            time = datetime.datetime.fromtimestamp(snapshot.listed["time"] // 10**9, datetime.UTC)
            name, paths = snapshot.content["name"].encode(), b" ".join(snapshot.content["paths"])
            files = snapshot.listed["files"]
            print(f"{snapshot.id[:16]}  {time:%Y-%m-%d %H:%M:%S}Z  {shown(name)}  {files} files  {shown(paths)}")
    else:
        name = options.snapshot.removesuffix(".tar.gz")
        hits = [s for s in snapshots if s.content["name"] == name or s.id.startswith(name)]
        if name == "latest":
            if repo.reports > before:
                raise Failure(
                    13, "latest: may be one of the damaged ones; restore another by its name or id, see `list`"
                )
            limit = (datetime.datetime.now(datetime.UTC).timestamp() + 24 * 3600) * 10**9  # a later time is a wrong one
            hits = [s for s in snapshots if s.listed["time"] <= limit][-1:] or snapshots[-1:]
        if len(hits) != 1:
            code = 13 if 13 in repo.codes and not hits else 16  # it may be one of the damaged ones
            raise Failure(code, f"{name}: {'more than one' if hits else 'no'} snapshot is called so; see `list`")
        restore(repo, hits[0], options.target)
    return 13 if 13 in repo.codes else max(repo.codes, default=0)


def restore(repo: Repository, snapshot: Snapshot, target: Path) -> None:
    os.umask(0o077)
    target.mkdir(parents=True, exist_ok=True)
    if os.listdir(target):
        raise Failure(1, f"{target}: is not empty; name a new or empty folder")
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    work = Restore(repo, Chunks(repo, snapshot), root)
    work.folder(root, snapshot.content["tree"], b"")
    print(f"snapshot {snapshot.id[:16]}: {work.objects} files and links restored below {target}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("recover.py", description=__doc__, formatter_class=raw)
    parser.add_argument("--repository", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--repository-id", type=bytes.fromhex, metavar="ID", help="from your own records")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="such as backup_master.key")
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="its first line; else you are asked for it"
    )
    parser.add_argument("--identity", type=Path, metavar="FILE", help="age identities: lines AGE-SECRET-KEY-...")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="list the snapshots, oldest first")
    verb = verbs.add_parser("restore", help="restore a snapshot")
    verb.add_argument("snapshot", help="`latest`, its name, or the beginning of its id")
    verb.add_argument("--target", type=Path, required=True, metavar="FOLDER", help="new or empty")
    sys.setrecursionlimit(20_000)  # folders in folders
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show every letter
    try:
        return run(parser.parse_args())
    except Failure as failure:
        code, text = failure.code, str(failure)
    except OSError as error:
        code, text = 14, f"{error.filename or 'the target'}: {error.strerror}"
    except KeyboardInterrupt:
        code, text = 130, "interrupted"
    except Exception as error:  # noqa: BLE001 - somebody in an emergency has no use for a traceback
        code, text = 1, f"unforeseen: {type(error).__name__}: {error}"
    print(f"recover.py: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
