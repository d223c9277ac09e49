"""The local cache is disposable: damage, other processes and a full disk never stop more than one run."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from keyark.errors import StorageFull
from keyark.repository.cache import Cache, CacheError
from keyark.repository.index import IndexedPack
from keyark.repository.packs import BlockPlace
from support import run

REPOSITORY = b"r" * 32


def some_pack(chunks: int = 50) -> IndexedPack:
    return IndexedPack(os.urandom(32), 0, 1, 1, (BlockPlace(0, 1, chunks, os.urandom(32 * chunks)),))


def use(folder: str, number: int, start: float, results: multiprocessing.Queue[str]) -> None:
    while time.monotonic() < start:
        pass
    try:
        cache = Cache(folder, REPOSITORY)
        for count in range(4):
            cache.add_index(f"{number}-{count}", b"c" * 16, [some_pack()])
        cache.close()
        results.put("")
    except Exception as e:
        results.put(repr(e))


@pytest.mark.parametrize("damaged", [False, True])
def test_eight_processes_that_use_a_new_or_damaged_cache_at_one_instant_all_succeed(
    tmp_path: Path, damaged: bool
) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if damaged:
            (folder / "cache.sqlite3").write_bytes(b"not a database" * 100)
        results: multiprocessing.Queue[str] = context.Queue()
        start = time.monotonic() + 0.05
        workers = [context.Process(target=use, args=(str(folder), number, start, results)) for number in range(8)]
        for worker in workers:
            worker.start()
        assert [results.get(timeout=60) for _ in workers] == [""] * 8
        for worker in workers:
            worker.join()
        cache = Cache(str(folder), REPOSITORY)
        assert len(cache.known_indexes()) == 32
        cache.close()


def test_damage_found_while_working_costs_one_run(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), REPOSITORY)
    cache.add_index("a", b"c" * 16, [some_pack(5000) for _ in range(5)])
    cache.close()
    path = tmp_path / "cache.sqlite3"
    data = bytearray(path.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    path.write_bytes(data)
    cache = Cache(str(tmp_path), REPOSITORY)
    with pytest.raises(CacheError, match="run again, nothing is lost"):
        cache.locate([os.urandom(32) for _ in range(400)], frozenset({1}))
    cache.close()
    cache = Cache(str(tmp_path), REPOSITORY)
    assert cache.known_indexes() == set()
    cache.close()


@pytest.mark.root
def test_a_full_disk_under_the_cache_is_said_to_be_full(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "keyark-test", str(folder)])
    try:
        cache = Cache(str(folder), REPOSITORY)
        with pytest.raises(StorageFull) as caught:
            cache.add_index("a", b"c" * 16, [some_pack(5000) for _ in range(20)])
        assert caught.value.exit_code == 14
        cache.close()
    finally:
        run(["umount", str(folder)])
