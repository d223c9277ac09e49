"""The local cache of one repository: which chunk lies where, and what each folder looked like last time.

SQLite, disposable, bound to the repository id. It holds no content: folder records are sealed by their user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keyark.errors import KeyarkError, StorageFull
from keyark.repository.index import IndexedPack
from keyark.repository.packs import BlockPlace
from keyark.storage.local import translate

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (num INTEGER PRIMARY KEY, sha BLOB UNIQUE NOT NULL, compartment BLOB NOT NULL,
  kind INTEGER NOT NULL, size INTEGER NOT NULL, data_length INTEGER NOT NULL, blocks BLOB NOT NULL,
  indexed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL,
  PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexes (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack_lists (content BLOB PRIMARY KEY, sha BLOB NOT NULL) WITHOUT ROWID;
"""
_SPAN = struct.Struct(">QII")  # offset, length, chunks
_BATCH = 500  # parameters of one query
PLACE_SHIFT = 16  # a place is block number << 16 | position in the block


def _code(e: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code; 0 for errors of our own."""
    return getattr(e, "sqlite_errorcode", 0) & 0xFF


def _is_damaged(e: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault, and not a lock, the disk or the memory."""
    return _code(e) in (0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class CacheError(KeyarkError):
    """The local cache cannot be used."""


@dataclass(frozen=True, slots=True)
class CachedPack:
    """A pack as the cache knows it; ``blocks`` carry no ids."""

    num: int
    sha256: bytes
    compartment: bytes
    kind: int
    size: int
    data_length: int
    blocks: tuple[BlockPlace, ...]


class Cache:
    """One repository's cache file. Not shared between threads; several processes may have it open."""

    def __init__(self, folder: str, repository: bytes) -> None:
        self.path = os.path.join(folder, "cache.sqlite3")
        with self._opening():
            try:
                self._db = self._open(repository)
            except sqlite3.DatabaseError as e:
                if not _is_damaged(e):
                    raise self._failure(e) from e
                self._remove()
                try:
                    self._db = self._open(repository)
                except sqlite3.DatabaseError as again:
                    raise CacheError(
                        f"cannot use the cache {self.path}: {again}; delete the folder or set --cache-dir"
                    ) from again
        self._packs_by_num: dict[int, CachedPack] = {}

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """One process at a time makes or replaces the file: others must not open what is being removed."""
        try:
            descriptor = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise translate(e, self.path) from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open(self, repository: bytes) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self.path, 0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-32768")
            db.executescript(_SCHEMA)
            identity = repository + bytes([_SCHEMA_VERSION])
            db.execute("INSERT OR IGNORE INTO meta VALUES ('repository', ?)", (identity,))
            if db.execute("SELECT value FROM meta WHERE key = 'repository'").fetchone()[0] != identity:
                raise sqlite3.DatabaseError("it belongs to another repository or version")
        except BaseException:
            db.close()
            raise
        return db

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            try:
                os.unlink(self.path + suffix)
            except FileNotFoundError:
                continue
            except OSError as e:
                raise CacheError(f"cannot remove the damaged cache {self.path}: {e.strerror}") from e

    def close(self) -> None:
        self._db.close()

    def _failure(self, e: sqlite3.DatabaseError) -> KeyarkError:
        """The error of ours. A damaged cache is taken away at once, so that the next run does not meet it again."""
        if _code(e) == sqlite3.SQLITE_FULL:
            return StorageFull(f"no room for the cache {self.path}; make room or set --cache-dir, then run again")
        if _is_damaged(e):
            with contextlib.suppress(KeyarkError), self._opening():
                self._remove()
            return CacheError(f"the cache {self.path} was damaged ({e}) and is removed; run again, nothing is lost")
        return CacheError(
            f"cannot use the cache {self.path}: {e}; delete the folder or set --cache-dir, nothing is lost"
        )

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.DatabaseError as e:
            raise self._failure(e) from e

    # -- packs and chunks ------------------------------------------------------------------------------------------

    def known_indexes(self) -> set[str]:
        """Names of the index objects already loaded."""
        return {row[0] for row in self._execute("SELECT name FROM indexes")}

    def add_index(self, name: str | None, compartment: bytes, packs: Iterable[IndexedPack]) -> None:
        """Take over an index object's packs and chunks, all or nothing. Without a name: packs that no index names yet."""
        self._execute("BEGIN IMMEDIATE")
        try:
            for pack in packs:
                self._add_pack(compartment, pack, indexed=name is not None)
            if name is not None:
                self._execute("INSERT OR IGNORE INTO indexes VALUES (?)", (name,))
            self._execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise

    def _add_pack(self, compartment: bytes, pack: IndexedPack, *, indexed: bool) -> None:
        spans = b"".join(_SPAN.pack(block.offset, block.length, block.count) for block in pack.blocks)
        self._execute(
            "INSERT INTO packs (sha, compartment, kind, size, data_length, blocks, indexed) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (sha) DO UPDATE SET indexed = max(indexed, excluded.indexed)",
            (pack.sha256, compartment, pack.kind, pack.size, pack.data_length, spans, indexed),
        )
        num = self._execute("SELECT num FROM packs WHERE sha = ?", (pack.sha256,)).fetchone()[0]
        rows = (
            (block.ids[start : start + 32], num, number << PLACE_SHIFT | start >> 5)
            for number, block in enumerate(pack.blocks)
            for start in range(0, len(block.ids), 32)
        )
        try:
            self._db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as e:
            raise self._failure(e) from e

    def packs(self) -> Iterator[CachedPack]:
        """Every pack known, oldest first."""
        sql = "SELECT num, sha, compartment, kind, size, data_length, blocks FROM packs ORDER BY num"
        for row in self._execute(sql):
            yield self._pack(row)

    def unindexed(self, compartment: bytes) -> list[bytes]:
        """Packs of a compartment that were taken over from the storage itself and that no index object names yet."""
        sql = "SELECT sha FROM packs WHERE indexed = 0 AND compartment = ?"
        return [row[0] for row in self._execute(sql, (compartment,))]

    def pack(self, num: int) -> CachedPack:
        """One pack by its local number."""
        if num not in self._packs_by_num:
            sql = "SELECT num, sha, compartment, kind, size, data_length, blocks FROM packs WHERE num = ?"
            row = self._execute(sql, (num,)).fetchone()
            if row is None:
                raise CacheError(f"the cache {self.path} contradicts itself; delete it and run again, nothing is lost")
            self._packs_by_num[num] = self._pack(row)
        return self._packs_by_num[num]

    @staticmethod
    def _pack(row: Sequence[Any]) -> CachedPack:
        spans = tuple(BlockPlace(*span) for span in _SPAN.iter_unpack(row[6]))
        return CachedPack(row[0], row[1], row[2], row[3], row[4], row[5], spans)

    def locate(self, ids: Sequence[bytes], usable: set[int] | frozenset[int]) -> dict[bytes, tuple[int, int]]:
        """Where chunks lie: id -> (pack number, place), looking only at usable packs. Missing ids are left out."""
        found: dict[bytes, tuple[int, int]] = {}
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            sql = f"SELECT id, pack, place FROM chunks WHERE id IN ({marks})"  # noqa: S608 - question marks only
            for chunk, pack, place in self._execute(sql, batch):
                if pack in usable:
                    found[chunk] = (pack, place)
        return found

    def pack_ids(self, num: int) -> list[bytes]:
        """All chunk ids of a pack."""
        return [row[0] for row in self._execute("SELECT id FROM chunks WHERE pack = ?", (num,))]

    def drop_packs(self, nums: Sequence[int]) -> None:
        """Forget packs that are gone from the repository."""
        if not nums:
            return
        self._execute("BEGIN IMMEDIATE")
        try:
            for num in nums:
                self._execute("DELETE FROM packs WHERE num = ?", (num,))
                self._packs_by_num.pop(num, None)
            self._execute("DELETE FROM chunks WHERE pack NOT IN (SELECT num FROM packs)")
            self._execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise

    # -- folders and pack lists ------------------------------------------------------------------------------------

    def folder(self, key: bytes) -> bytes | None:
        """The sealed record of a folder."""
        row = self._execute("SELECT value FROM folders WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def put_folders(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Store folder records, all or nothing."""
        self._many("INSERT OR REPLACE INTO folders VALUES (?, ?)", rows)

    def pack_list(self, content: bytes) -> bytes | None:
        """The stored pack list whose plain rows hash to ``content``."""
        row = self._execute("SELECT sha FROM pack_lists WHERE content = ?", (content,)).fetchone()
        return None if row is None else row[0]

    def put_pack_lists(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._many("INSERT OR REPLACE INTO pack_lists VALUES (?, ?)", rows)

    def _many(self, sql: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(sql, rows)
            self._execute("COMMIT")
        except sqlite3.DatabaseError as e:
            self._db.rollback()
            raise self._failure(e) from e
        except BaseException:
            self._db.rollback()
            raise
