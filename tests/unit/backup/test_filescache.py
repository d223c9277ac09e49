"""Last time's folder records: what was stored comes back, anything else is as if there were none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keyark.backup.filescache import FilesCache, FolderRecord
from keyark.repository.repository import Repository
from support import Sandbox, fill


def cache_of(repository: Repository, compartment: bytes) -> FilesCache:
    keys = repository.keys.compartment(compartment, repository.keyring.compartments[compartment].generation)
    return FilesCache(repository.lookup.cache, keys, repository.id, compartment)


def test_records_come_back_per_path_and_only_whole(ready: Sandbox, tmp_path: Path) -> None:
    ready.backup(fill(tmp_path / "source", {"a": b"1"}))
    record = FolderRecord(
        {b"\xff": (b"mark", b"entry", None), b"b": (b"m", b"e", b"c" * 32), b"c": (b"m", b"e", ((b"d" * 32, 5),))},
        (b"s" * 32,),
        (5,),
        {3: 7},
        {4: 5},
    )
    with ready.open() as repository:
        (compartment,) = repository.keyring.compartments
        cache = cache_of(repository, compartment)
        cache.store(b"/path", record)
        cache.flush()
        assert cache.load(b"/path") == record
        assert cache.load(b"/other") is None
        sealed = repository.lookup.cache.folder(cache._key(b"/path"))
        assert sealed is not None
        assert b"entry" not in sealed  # names and contents' ids stay closed to who steals the cache
        repository.lookup.cache.put_folders([(cache._key(b"/other"), sealed)])
        assert cache.load(b"/other") is None  # another folder's record is no record
        repository.lookup.cache.put_folders([(cache._key(b"/path"), sealed[:-1] + bytes([sealed[-1] ^ 1]))])
        assert cache.load(b"/path") is None
        cache.store(b"/path", replace(record, packs=None))
        cache.flush()
        loaded = cache.load(b"/path")
        assert loaded is not None
        assert loaded.packs is None
