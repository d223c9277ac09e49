"""Packs on their way to the storage: what `auto` makes of slow storages and slow processors."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from keyark.backup import packer as packing
from keyark.backup.packer import Packer
from keyark.crypto.hpke import Kem, generate
from keyark.crypto.signing import SigningKey
from keyark.crypto.suites import Suite
from keyark.errors import StorageFull
from keyark.repository.blocks import Block, BlockBuilder
from keyark.repository.compression import Compression, parse_compression
from keyark.repository.packs import PackFacts
from keyark.secret import Secret
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage

EPOCH = generate(Kem.MLKEM768_X25519)
FACTS = PackFacts(
    b"r" * 32,
    b"c" * 16,
    b"w" * 16,
    b"e" * 16,
    EPOCH.public(),
    1,
    Secret(b"i" * 32),
    Suite.AES_256_GCM,
    SigningKey.generate(post_quantum=False),
)


def block(kind: type[BlockBuilder] = BlockBuilder) -> BlockBuilder:
    builder = kind()
    builder.add(os.urandom(32), os.urandom(2 << 20) + bytes(2 << 20))
    return builder


def test_auto_compresses_harder_while_the_storage_is_waited_for(tmp_path: Path) -> None:
    released = threading.Event()
    storage = FaultInjecting(
        LocalStorage(str(tmp_path / "r"), create=True), before=lambda *_: released.wait(20) and None
    )
    packer = Packer(storage, FACTS, parse_compression("auto"))
    begun = packer.level
    while packer._uploading < packing._UPLOADS:  # blocks of 4 MiB, half of it random: about eight for each pack
        packer.add(0, block())
    at_work = packer.level
    packer.add(0, block())
    assert packer.level == at_work + 1
    released.set()
    packer.finish()
    assert packer.take_stored()
    assert begun == 3


def test_auto_compresses_less_while_the_processors_are_waited_for(tmp_path: Path) -> None:
    class Slow(BlockBuilder):
        def compress(self, compression: Compression) -> Block:
            time.sleep(0.03)
            return super().compress(compression)

    packer = Packer(LocalStorage(str(tmp_path / "r"), create=True), FACTS, parse_compression("auto"))
    for _ in range(10):
        packer.add(0, block(Slow))
    assert packer.level < 3
    packer.finish()


def test_a_level_that_was_asked_for_stays(tmp_path: Path) -> None:
    packer = Packer(LocalStorage(str(tmp_path / "r"), create=True), FACTS, parse_compression("zstd:5"))
    for _ in range(10):
        packer.add(0, block())
    assert packer.level == 5
    packer.finish()


def test_an_error_of_the_storage_comes_out_where_blocks_go_in(tmp_path: Path) -> None:
    def full(operation: str, name: str) -> None:
        if operation == "put":
            raise StorageFull("no room")

    packer = Packer(
        FaultInjecting(LocalStorage(str(tmp_path / "r"), create=True), before=full), FACTS, parse_compression("none")
    )

    def fill() -> None:
        for _ in range(100):
            packer.add(0, block())

    with pytest.raises(StorageFull):
        fill()
    packer.abort()
