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
from typing import Any, NamedTuple

from keyark.errors import KeyarkError, StorageFull
from keyark.repository.index import IndexedPack
from keyark.repository.packs import BlockPlace
from keyark.storage.local import translate

_SCHEMA_VERSION = 4
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (num INTEGER PRIMARY KEY AUTOINCREMENT, sha BLOB NOT NULL, compartment BLOB NOT NULL,
  kind INTEGER NOT NULL, size INTEGER NOT NULL, data_length INTEGER NOT NULL, blocks BLOB NOT NULL,
  indexed INTEGER NOT NULL, digest BLOB NOT NULL, trust INTEGER NOT NULL, UNIQUE (sha, compartment));
CREATE TABLE IF NOT EXISTS unsorted (pack INTEGER PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL,
  PRIMARY KEY (id, pack)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexes (name TEXT PRIMARY KEY, packs BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pack_lists (content BLOB PRIMARY KEY, sha BLOB NOT NULL) WITHOUT ROWID;
"""
# How far a pack's entry is trusted: index objects contradict each other; an index object says so; the pack itself does.
_DISPUTED, _CLAIMED, _TRUSTED = -1, 0, 1
_SPAN = struct.Struct(">QII")  # offset, length, chunks
_LOCK_TIMEOUT = 600  # seconds; another process may be building the chunk table
_FEW = 64  # chunks that a run may look up before the table is completed
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
        self._looked_up = 0  # chunks, while the table was not complete
        self._sorted = False  # whether every pack's chunks are in the table, as far as this process knows

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
        db = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self.path, 0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-16384")
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

    def known_indexes(self, prefix: str = "") -> set[str]:
        """Names of the index objects already loaded."""
        return {row[0] for row in self._execute("SELECT name FROM indexes") if row[0].startswith(prefix)}

    def add_index(
        self, name: str | None, compartment: bytes, packs: Iterable[IndexedPack], *, trusted: bool = False
    ) -> list[int]:
        """Take over an index object's packs and chunks, all or nothing. Without a name: packs that no index names yet.

        ``trusted`` entries come from the packs themselves and stand against any index object. Two index objects that
        contradict each other make the pack a disputed one, which is not used until the pack itself has been asked.
        Returns the packs' local numbers.
        """
        entries = list(packs)
        with self._transaction():
            numbers = [self._add_pack(compartment, pack, indexed=name is not None, trusted=trusted) for pack in entries]
            if name is not None:
                shas = b"".join(pack.sha256 for pack in entries)
                self._execute("INSERT OR IGNORE INTO indexes VALUES (?, ?)", (name, shas))
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

    def _add_pack(self, compartment: bytes, pack: IndexedPack, *, indexed: bool, trusted: bool) -> int:
        digest = pack.digest()
        sql = "SELECT num, digest, trust FROM packs WHERE sha = ? AND compartment = ?"
        row = self._execute(sql, (pack.sha256, compartment)).fetchone()
        if row is None:
            return self._insert_pack(compartment, pack, (indexed, digest, trusted))
        num, known, trust = row
        if known != digest and trusted:
            self._drop([num])
            return self._insert_pack(compartment, pack, (indexed, digest, trusted))
        if known != digest and trust != _TRUSTED:
            trust = _DISPUTED
        elif known == digest and trusted:
            trust = _TRUSTED
        self._execute("UPDATE packs SET indexed = max(indexed, ?), trust = ? WHERE num = ?", (indexed, trust, num))
        return int(num)

    def _insert_pack(self, compartment: bytes, pack: IndexedPack, facts: tuple[bool, bytes, bool]) -> int:
        indexed, digest, trusted = facts
        spans = b"".join(_SPAN.pack(block.offset, block.length, block.count) for block in pack.blocks)
        cursor = self._execute(
            "INSERT INTO packs (sha, compartment, kind, size, data_length, blocks, indexed, digest, trust) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (pack.sha256, compartment, pack.kind, pack.size, pack.data_length, spans, indexed, digest, trusted),
        )
        number = int(cursor.lastrowid or 0)
        self._execute("INSERT INTO unsorted VALUES (?, ?)", (number, b"".join(block.ids for block in pack.blocks)))
        self._sorted = False
        return number

    def _drop(self, nums: Sequence[int]) -> None:
        """Numbers are never given again: folder records may still hold them."""
        marks = ",".join(str(int(num)) for num in nums)
        self._execute(f"DELETE FROM packs WHERE num IN ({marks})")  # noqa: S608 - numbers only
        self._execute(f"DELETE FROM unsorted WHERE pack IN ({marks})")  # noqa: S608 - numbers only
        self._execute(f"DELETE FROM chunks WHERE pack IN ({marks})")  # noqa: S608 - numbers only
        for num in nums:
            self._packs_by_num.pop(num, None)

    def forget_indexes(self, names: Sequence[str], compartment: bytes) -> None:
        """Index objects are gone from the repository: what they said, and what others said about the same packs, is to be
        loaded anew."""
        with self._transaction():
            gone: set[bytes] = set()
            for name in names:
                row = self._execute("SELECT packs FROM indexes WHERE name = ?", (name,)).fetchone()
                gone.update(_split(row[0]) if row is not None else ())
            stale = set(names)
            for name, shas in list(self._execute("SELECT name, packs FROM indexes")):
                if not gone.isdisjoint(_split(shas)):
                    stale.add(name)
            for name in stale:
                self._execute("DELETE FROM indexes WHERE name = ?", (name,))
            sql = "SELECT num FROM packs WHERE sha = ? AND compartment = ?"
            rows = (self._execute(sql, (sha256, compartment)).fetchone() for sha256 in gone)
            self._drop([row[0] for row in rows if row is not None])

    def disputed(self, compartment: bytes) -> list[bytes]:
        """Packs about which index objects contradict each other."""
        sql = "SELECT sha FROM packs WHERE trust = ? AND compartment = ?"
        return [row[0] for row in self._execute(sql, (_DISPUTED, compartment))]

    def _search_unsorted(
        self, ids: Sequence[bytes], usable: set[int] | frozenset[int]
    ) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Look a few chunks up in the packs whose chunks are not in the table yet."""
        rows = self._execute("SELECT num, blocks, unsorted.ids FROM unsorted JOIN packs ON pack = num")
        wanted = set(ids)
        for num, spans, packed in rows:
            if num not in usable:
                continue
            for chunk in wanted:
                position = packed.find(chunk)
                while position % 32 and position >= 0:
                    position = packed.find(chunk, position + 1)
                if position >= 0:
                    yield chunk, (num, _place(spans, position // 32))

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
            raise self._failure(e) from e
        self._sorted = True

    def packs(self, compartment: bytes) -> Iterator[PackFacts]:
        """Every pack known of a compartment, oldest first, without those that are disputed."""
        sql = "SELECT num, sha, size, data_length FROM packs WHERE compartment = ? AND trust >= 0 ORDER BY num"
        for row in self._execute(sql, (compartment,)):
            yield PackFacts(*row)

    def numbers(self, compartment: bytes) -> dict[bytes, int]:
        """The local number of every pack known of a compartment, without those that are disputed."""
        return dict(self._execute("SELECT sha, num FROM packs WHERE compartment = ? AND trust >= 0", (compartment,)))

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
        if not self._sorted:
            self._looked_up += len(ids)
            if self._looked_up > _FEW:
                self._sort_chunks()
            else:
                found.update(self._search_unsorted(ids, usable))
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
            raise self._failure(e) from e


def _place(spans: bytes, index: int) -> int:
    """The place of the pack's chunk number ``index``."""
    for number, (_, _, count) in enumerate(_SPAN.iter_unpack(spans)):
        if index < count:
            return number << PLACE_SHIFT | index
        index -= count
    raise CacheError("the local cache contradicts itself; delete it and run again, nothing is lost")


def _chunk_rows(packs: Iterable[tuple[int, bytes, bytes]]) -> Iterator[tuple[bytes, int, int]]:
    """(id, pack, place) of every chunk of packs, given as (number, spans, ids)."""
    for num, spans, ids in packs:
        position = 0
        for number, (_, _, count) in enumerate(_SPAN.iter_unpack(spans)):
            for place in range(number << PLACE_SHIFT, (number << PLACE_SHIFT) + count):
                yield ids[position : position + 32], num, place
                position += 32


def _split(shas: bytes) -> list[bytes]:
    return [shas[start : start + 32] for start in range(0, len(shas), 32)]
