"""Separation is mathematics: with a credential's bytes and the repository alone, no content opens.

No Keyark code is in the way here: objects are parsed by hand, and every private key that the credential holds is tried on
every sealed thing in the repository.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from pathlib import Path

import msgpack
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyark.errors import KeyarkError, NoKeyError, NotAllowedError
from keyark.operation import Context
from keyark.recovery.browse import list_entries, list_snapshots
from keyark.recovery.model import SnapshotFilter
from keyark.repository.credentials import Credentials, load_credential
from keyark.storage.local import LocalStorage
from keyark.upkeep.copy import copy
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest, VerifyRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.verify import verify
from keyark.upkeep.writers import add_writer
from support import Sandbox, fill

SECRET = b"-----BEGIN PRIVATE KEY----- the secret itself, unmistakable -----END PRIVATE KEY-----"
FILE_NAME = b"unmistakable-name.key"


def lp(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


class Attacker:
    """Holds a credential file's bytes and reads the repository's files. Knows docs/format.md, nothing else."""

    def __init__(self, credential: bytes, repository: Path) -> None:
        line = credential.split(b"\n")[1].removeprefix(b"KEYARK-CREDENTIAL-1-")
        self.value = msgpack.unpackb(base64.urlsafe_b64decode(line + b"=" * (-len(line) % 4)))
        self.objects = {
            str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()
        }
        box = self.value["box"]
        self.private = hpke.MLKEM768X25519PrivateKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(box[:64]), X25519PrivateKey.from_private_bytes(box[64:])
        )
        self.suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        self.repository = self.value["repository"]

    def head(self, data: bytes) -> tuple[dict[str, object], bytes]:
        length = int.from_bytes(data[12:16], "big")
        signature = {0: 0, 1: 64, 2: 64 + 3309}[data[10]]
        return msgpack.unpackb(data[16 : 16 + length]), data[16 + length : len(data) - signature]

    def info(self, compartment: bytes, context: bytes, suite: int, kind: str) -> bytes:
        parts = (b"keyark/v1", self.repository, compartment, context, suite.to_bytes(2, "big"), b"\x01", kind.encode())
        return b"".join(lp(part) for part in parts)

    def opened_wraps(self) -> dict[str, bytes]:
        """Everything below wraps/ that the credential's private key opens, tried under every name it could have."""
        found = {}
        for name, data in self.objects.items():
            if not name.startswith("wraps/") or name.startswith("wraps/slots/"):
                continue
            header, body = self.head(data)
            info = self.info(header["c"] or b"", header["i"], 0, f"key wrap {header['w']}")
            try:
                found[name] = self.suite.decrypt(body, self.private, info=info)
            except InvalidTag:
                continue
        return found

    def try_everything(self, keys: list[bytes]) -> list[bytes]:
        """Try every key on every sealed thing, in every way in which the format uses keys; returns what opened."""
        opened = []
        privates = [self.private]
        for key in keys:
            if len(key) == 96:
                privates.append(
                    hpke.MLKEM768X25519PrivateKey(
                        mlkem.MLKEM768PrivateKey.from_seed_bytes(key[:64]),
                        X25519PrivateKey.from_private_bytes(key[64:]),
                    )
                )
        for name, data in self.objects.items():
            if not data.startswith(b"KEYARK") or name.startswith(("keys/", "marks/")):
                continue
            header, body = self.head(data)
            compartment = header.get("c") or b""
            blobs = [header.get("k", b""), body, body[: header.get("ll", 0)], body[header.get("ll", 0) :]]
            contexts = [b"", header.get("e", b""), header.get("l", 0).to_bytes(4, "big")]
            if "q" in header:
                contexts.append(msgpack.packb([header["e"], header["w"], header["q"], header["l"]]))
            kinds = ("pack", "snapshot content", "snapshot listed", "pack list", "label", "key wrap epoch")
            for private, blob, context, kind, suite in itertools.product(
                privates, blobs, contexts, kinds, (0, 1, data[9])
            ):
                try:
                    opened.append(self.suite.decrypt(blob, private, info=self.info(compartment, context, suite, kind)))
                except (InvalidTag, ValueError):
                    continue
            opened += self._symmetric(keys, data, body, compartment)
        return opened

    def _symmetric(self, keys: list[bytes], data: bytes, body: bytes, compartment: bytes) -> list[bytes]:
        opened = []
        halves = [half for key in keys if len(key) == 64 for half in (key[:32], key[32:])]
        length = int.from_bytes(body[-4:], "big")
        head_digest = hashlib.sha256(data[: 16 + int.from_bytes(data[12:16], "big")]).digest()
        for key in halves:
            for kind, blob, aad in (("index", body, b""), ("pack directory", body[-4 - length : -4], head_digest)):
                info = b"".join(lp(p) for p in (b"keyark/v1", self.repository, compartment, kind.encode(), b"\0\1"))
                derived = HKDF(hashes.SHA256(), 32, blob[:32], info).derive(key)
                try:
                    opened.append(AESGCM(derived).decrypt(bytes(12), blob[32:], aad))
                except (InvalidTag, ValueError):
                    continue
            # The id and index keys as if they were the data key of the first block.
            header_length = 16 + int.from_bytes(data[12:16], "big")
            for last in (b"\0", b"\1"):
                for end in range(header_length + 17, min(len(data), header_length + 4000)):
                    try:
                        opened.append(AESGCM(key).decrypt(bytes(11) + last, data[header_length:end], head_digest))
                    except InvalidTag:
                        continue
        return opened


@pytest.fixture
def stocked(ready: Sandbox, tmp_path: Path) -> Sandbox:
    source = fill(tmp_path / "source", {FILE_NAME.decode(): SECRET * 50, "other": SECRET})
    with ready.open() as repository:
        add_writer(
            repository, "operator", str(ready.base / "operator.credential"), operator=True, context=ready.context
        )
    ready.backup(source, name="unmistakable snapshot name", tags=("unmistakable tag",))
    return ready


def assert_no_content(opened: list[bytes]) -> None:
    joined = b"\0".join(opened)
    for needle in (SECRET[:40], FILE_NAME, b"unmistakable"):
        assert needle not in joined


def test_the_writers_credential_opens_no_content(stocked: Sandbox) -> None:
    with stocked.open(Credentials()) as repository:
        path = repository.state.credential_path
    attacker = Attacker(Path(path).read_bytes(), Path(stocked.location))
    wraps = attacker.opened_wraps()
    # It opens exactly its compartment's id and index keys: deduplication needs them.
    assert [len(value) for value in wraps.values()] == [64]
    opened = attacker.try_everything(list(wraps.values()))
    assert opened, "the index opens with the index key: the attack itself works"
    assert_no_content(opened)


def test_the_operators_credential_opens_no_content(stocked: Sandbox) -> None:
    attacker = Attacker((stocked.base / "operator.credential").read_bytes(), Path(stocked.location))
    wraps = attacker.opened_wraps()
    assert all(name.startswith("wraps/listing/") for name in wraps)
    opened = attacker.try_everything(list(wraps.values()))
    assert opened, "the listing opens with the listing key: the attack itself works"
    assert_no_content(opened)


def test_no_name_or_content_lies_open_in_the_repository(stocked: Sandbox) -> None:
    for name in stocked.objects():
        assert_no_content([stocked.storage().get(name), name.encode()])


def test_a_writer_may_add_and_nothing_else(stocked: Sandbox, tmp_path: Path) -> None:
    before = stocked.backup(tmp_path / "source", force=True)
    assert before.data_added < 1000, "it deduplicates within its compartment; a folder above may have a new time"
    context = Context()
    with stocked.open(Credentials()) as repository:
        for attempt in (
            lambda: list_snapshots(repository, SnapshotFilter(), context),
            lambda: list(list_entries(repository, "latest", None, recursive=True, context=context)),
            lambda: prune(repository, PruneRequest(), context),
            lambda: forget(repository, ForgetRequest(keep_last=1), context),
            lambda: verify(repository, VerifyRequest(), context),
        ):
            with pytest.raises((NoKeyError, NotAllowedError)) as caught:
                attempt()
            assert caught.value.exit_code in (12, 15)
    with pytest.raises(KeyarkError):
        stocked.open(Credentials(), machine="another machine")


def test_an_operator_lists_forgets_prunes_verifies_and_copies_but_reads_no_content(
    stocked: Sandbox, tmp_path: Path
) -> None:
    stocked.backup(fill(tmp_path / "source", {"new": b"data"}))
    operator = load_credential(str(stocked.base / "operator.credential"))
    with stocked.open(operator, machine="operator") as repository:
        infos = list_snapshots(repository, SnapshotFilter(), stocked.context)
        assert [info.summary["total_files_processed"] for info in infos] == [2, 3]
        assert all(info.name is None and info.paths == () and not info.content_open for info in infos)
        with pytest.raises(NotAllowedError):
            list(list_entries(repository, "latest", None, recursive=True, context=stocked.context))
        report = verify(repository, VerifyRequest(read_data=True), stocked.context)
        assert report.sound
        assert report.packs_read == report.packs
        assert not any(item.files for item in report.findings)
        copied = copy(repository, LocalStorage(str(stocked.base / "second"), create=True), stocked.context)
        assert copied.objects == len(stocked.objects())
        forgotten = forget(repository, ForgetRequest(keep_last=1), stocked.context)
        assert forgotten.removed == 1
        prune(repository, PruneRequest(grace_seconds=0), stocked.context)
        with pytest.raises(NotAllowedError):
            stocked.backup(tmp_path / "source", credentials=operator, machine="operator")
    assert stocked.verify().sound
    assert stocked.restore("latest", stocked.base / "target").problems == ()
