"""A writer gone bad: signs and stores whatever it likes, with a credential that is in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyark.backup import commit
from keyark.backup.commit import Identity
from keyark.crypto.suites import Suite
from keyark.repository.blocks import Block, BlockBuilder
from keyark.repository.chunkids import DATA, TREE, chunk_id_function
from keyark.repository.compression import Compression, parse_compression
from keyark.repository.epochs import current_epoch
from keyark.repository.index import IndexedPack, encode_index, indexed
from keyark.repository.names import index_name
from keyark.repository.packlists import PackUse
from keyark.repository.packs import PackAssembler, PackFacts, SealedPack
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Listed, SnapshotContent
from keyark.repository.tree import DIR, FILE, Content, encode_row
from support import Sandbox


def row(name: bytes, kind: int, content: Content, **changes: object) -> list[object]:
    """One tree entry as it is stored, nothing checked."""
    facts: dict[str, object] = {
        "name": name,
        "kind": kind,
        "mode": 0o700 if kind == DIR else 0o600,
        "uid": 0,
        "gid": 0,
        "mtime": 0,
        "size": 0,
        "content": content,
        "sha256": bytes(32) if kind == FILE else None,
        "extra": None,
    }
    return list((facts | changes).values())


@dataclass
class Forger:
    """Puts forged snapshots into a sandbox's repository."""

    sandbox: Sandbox
    repository: Repository = field(init=False)
    identity: Identity = field(init=False)

    def __post_init__(self) -> None:
        self.repository = self.sandbox.open()
        writer = self.repository.writer
        assert writer is not None
        assert writer.compartment is not None
        keyring = self.repository.keyring
        epoch = current_epoch(
            self.repository.storage, keyring, writer, self.repository.state, self.repository.context.clock
        )
        generation = keyring.compartments[writer.compartment].generation
        self.identity = Identity(writer, writer.compartment, generation, epoch)
        self._chunks: dict[int, list[tuple[bytes, bytes]]] = {DATA: [], TREE: []}
        self.extra_packs: list[IndexedPack] = []
        self.key_number = generation  # what forged objects say

    def chunk(self, data: bytes, kind: int = DATA) -> bytes:
        """Add a chunk; returns its id."""
        keys = self.repository.keys.compartment(self.identity.compartment, self.identity.generation)
        algorithm = self.repository.keyring.id_algorithm
        function = chunk_id_function(algorithm, keys.id_key, self.repository.id, self.identity.compartment, kind)
        self._chunks[kind].append((function(data), data))
        return self._chunks[kind][-1][0]

    def segment(self, *rows: Sequence[object]) -> bytes:
        """Add a tree segment of these rows; returns its id."""
        return self.chunk(b"".join(encode_row(list(item)) for item in rows), TREE)

    def file(self, name: bytes, data: bytes) -> list[object]:
        return row(name, FILE, self.chunk(data), size=len(data), sha256=hashlib.sha256(data).digest())

    def facts(self) -> PackFacts:
        identity = self.identity
        keys = self.repository.keys.compartment(identity.compartment, identity.generation)
        return PackFacts(
            self.repository.id,
            identity.compartment,
            identity.writer.id,
            identity.epoch.id,
            identity.epoch.public,
            self.key_number,
            keys.index_key,
            Suite.AES_256_GCM,
            identity.writer.signing,
        )

    def pack(self, kind: int, block: Block) -> SealedPack:
        """Seal and store a pack of one block."""
        assembler = PackAssembler(self.facts(), kind)
        pack = assembler.add(block) or assembler.finish()
        assert pack is not None
        self.repository.storage.put(pack.name, pack.parts)
        return pack

    def index(self, packs: list[IndexedPack]) -> None:
        repository, identity = self.repository, self.identity
        keys = repository.keys.compartment(identity.compartment, identity.generation)
        parts, sha256 = encode_index(
            packs,
            repository.id,
            identity.compartment,
            identity.writer.id,
            (self.key_number, keys.index_key),
            identity.writer.signing,
        )
        repository.storage.put(index_name(identity.compartment, identity.writer.id, sha256), parts)

    def snapshot(self, *segments: bytes, compression: Compression | None = None) -> str:
        """Store what was added and a snapshot whose tree is these segments; returns its id."""
        packs = list(self.extra_packs)
        for kind, chunks in self._chunks.items():
            if chunks:
                builder = BlockBuilder()
                for chunk_id, data in dict(chunks).items():
                    builder.add(chunk_id, data)
                packs.append(indexed(self.pack(kind, builder.compress(compression or parse_compression("zstd")))))
        self.index(packs)
        uses = [PackUse(item.sha256, item.size, item.data_length, item.data_length) for item in packs]
        lists = commit.write_pack_lists(self.repository, self.identity, uses, frozenset())
        listed = Listed(self.repository.context.clock.now_ns(), 1, 1, 1, 1, 1, 0, 1)
        content = SnapshotContent("forged", "host", "user", (b"/",), (), segments, {}, {}, (), (), "forger", None)
        head = commit.write_snapshot(
            self.repository, self.identity, self.repository.judge_history(), lists, (listed, content), None
        )
        commit.confirm(self.repository, self.identity, head)
        self.repository.close()
        return head[1].hex()
