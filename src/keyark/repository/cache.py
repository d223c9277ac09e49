"""The local cache of one repository: which chunk lies where, and what each folder looked like last time.

SQLite, disposable, bound to the repository id. It holds no content: folder records are sealed by their user.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keyark.errors import KeyarkError
from keyark.repository.index import IndexedPack
from keyark.repository.packs import BlockPlace

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (num INTEGER PRIMARY KEY, sha BLOB UNIQUE NOT NULL, compartment BLOB NOT NULL,
  kind INTEGER NOT NULL, size INTEGER NOT NULL, data_length INTEGER NOT NULL, blocks BLOB NOT NULL,
  indexed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS unsorted (pack INTEGER PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL,
  PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexes (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack_lists (content BLOB PRIMARY KEY, sha BLOB NOT NULL) WITHOUT ROWID;
"""
_SPAN = struct.Struct(">QII")  # offset, length, chunks
_LOCK_TIMEOUT = 600  # seconds; another process may be building the chunk table
_BATCH = 500  # parameters of one query
PLACE_SHIFT = 16  # a place is block number << 16 | position in the block


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


class PackFacts(NamedTuple):
    """A pack without its blocks: enough to say whether it is there and how large it is."""

    num: int
    sha256: bytes
    size: int
    data_length: int


class Cache:
    """One repository's cache file. Not shared between threads; several processes may have it open."""

    def __init__(self, folder: str, repository: bytes) -> None:
        self.path = os.path.join(folder, "cache.sqlite3")
        try:
            self._db = self._open(repository)
        except sqlite3.DatabaseError:
            self._remove()
            try:
                self._db = self._open(repository)
            except sqlite3.DatabaseError as e:
                raise CacheError(f"cannot use the cache {self.path}: {e}; delete the folder or set --cache-dir") from e
        self._packs_by_num: dict[int, CachedPack] = {}
        self._sorted = False  # whether every pack's chunks are in the table, as far as this process knows

    def _open(self, repository: bytes) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
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

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.DatabaseError as e:
            raise CacheError(
                f"the cache {self.path} is unusable ({e}); delete it and run again, nothing is lost"
            ) from e

    # -- packs and chunks ------------------------------------------------------------------------------------------

    def known_indexes(self) -> set[str]:
        """Names of the index objects already loaded."""
        return {row[0] for row in self._execute("SELECT name FROM indexes")}

    def add_index(self, name: str | None, compartment: bytes, packs: Iterable[IndexedPack]) -> list[int]:
        """Take over an index object's packs and chunks, all or nothing. Without a name: packs that no index names yet.

        Returns the packs' local numbers, which are never given to other packs: folder records hold them.
        """
        with self._transaction():
            numbers = [self._add_pack(compartment, pack, indexed=name is not None) for pack in packs]
            if name is not None:
                self._execute("INSERT OR IGNORE INTO indexes VALUES (?)", (name,))
        return numbers

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise

    def _add_pack(self, compartment: bytes, pack: IndexedPack, *, indexed: bool) -> int:
        known = self._execute("SELECT num FROM packs WHERE sha = ?", (pack.sha256,)).fetchone()
        if known is not None:
            if indexed:
                self._execute("UPDATE packs SET indexed = 1 WHERE num = ?", known)
            return int(known[0])
        spans = b"".join(_SPAN.pack(block.offset, block.length, block.count) for block in pack.blocks)
        added = self._execute(
            "INSERT INTO packs (sha, compartment, kind, size, data_length, blocks, indexed) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (pack.sha256, compartment, pack.kind, pack.size, pack.data_length, spans, indexed),
        )
        ids = b"".join(block.ids for block in pack.blocks)
        self._execute("INSERT INTO unsorted VALUES (?, ?)", (added.lastrowid, ids))
        self._sorted = False
        return int(added.lastrowid or 0)

    def _sort_chunks(self) -> None:
        """Fill the chunk table from packs taken over since the last look-up.

        Not done as packs come in, since a run that looks nothing up needs no table, and since chunk ids are random: one pack
        at a time, each would touch the whole table.
        """
        if self._sorted:
            return
        try:
            with self._transaction():
                self._db.execute(
                    "CREATE TEMP TABLE incoming (id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL)"
                )
                unsorted = self._db.execute("SELECT num, blocks, ids FROM unsorted JOIN packs ON pack = num")
                self._db.executemany("INSERT INTO incoming VALUES (?, ?, ?)", _chunk_rows(unsorted))
                self._db.execute("INSERT OR IGNORE INTO chunks SELECT id, pack, place FROM incoming ORDER BY id, pack")
                self._db.execute("DELETE FROM unsorted")
                self._db.execute("DROP TABLE incoming")
        except sqlite3.DatabaseError as e:
            raise CacheError(f"cannot write the cache {self.path}: {e}") from e
        self._sorted = True

    def packs(self) -> Iterator[CachedPack]:
        """Every pack known, oldest first."""
        sql = "SELECT num, sha, compartment, kind, size, data_length, blocks FROM packs ORDER BY num"
        for row in self._execute(sql):
            yield self._pack(row)

    def pack_facts(self, compartment: bytes) -> Iterator[PackFacts]:
        """Every pack known of a compartment, oldest first."""
        sql = "SELECT num, sha, size, data_length FROM packs WHERE compartment = ? ORDER BY num"
        for row in self._execute(sql, (compartment,)):
            yield PackFacts(*row)

    def numbers(self) -> dict[bytes, int]:
        """The local number of every pack known."""
        return dict(self._execute("SELECT sha, num FROM packs"))

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
        self._sort_chunks()
        found: dict[bytes, tuple[int, int]] = {}
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            sql = f"SELECT id, pack, place FROM chunks WHERE id IN ({marks})"  # noqa: S608 - question marks only
            for chunk, pack, place in self._execute(sql, batch):
                if pack in usable:
                    found[chunk] = (pack, place)
        return found

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
        try:
            with self._transaction():
                self._db.executemany(sql, rows)
        except sqlite3.DatabaseError as e:
            raise CacheError(f"cannot write the cache {self.path}: {e}") from e


def _chunk_rows(packs: Iterable[tuple[int, bytes, bytes]]) -> Iterator[tuple[bytes, int, int]]:
    """(id, pack, place) of every chunk of packs, given as (number, spans, ids)."""
    for num, spans, ids in packs:
        position = 0
        for number, (_, _, count) in enumerate(_SPAN.iter_unpack(spans)):
            for place in range(number << PLACE_SHIFT, (number << PLACE_SHIFT) + count):
                yield ids[position : position + 32], num, place
                position += 32
