"""Reading file contents: small files whole, larger ones streamed through the content-defined chunker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from pyfastcdc import FastCDC

from keyark.backup.metadata import data_extents, is_sparse
from keyark.backup.sink import ChunkSink, Group
from keyark.backup.smallfiles import EMPTY_SHA256, WHOLE
from keyark.repository.chunkids import DATA

CHUNK_MIN, CHUNK_AVG, CHUNK_MAX = 256 << 10, 1 << 20, 8 << 20
_READ = 4 << 20  # bytes read at a time; chunks that wait for their block keep such a buffer alive
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the tree records of a file's bytes."""

    content: bytes | list[Any] | None
    size: int
    sha256: bytes


class ContentReader:
    """Reads files into a sink. Used from one thread; SHA-256 of large files runs on a thread of its own."""

    def __init__(
        self,
        sink: ChunkSink,
        chunk_id: Callable[[bytes | memoryview], bytes],
        seed: int,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ) -> None:
        self._sink = sink
        self._chunk_id = chunk_id
        self._chunker = FastCDC(min_size=CHUNK_MIN, avg_size=CHUNK_AVG, max_size=CHUNK_MAX, seed=seed)
        self._check = check
        self._advance = advance
        self._hasher: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._hasher is not None:
            self._hasher.shutdown(wait=True)

    def whole(self, data: bytes, group: Group) -> Contents:
        """Take over a small file that has been read."""
        if not data:
            return Contents(None, 0, EMPTY_SHA256)
        chunk_id = self._chunk_id(data)
        self._sink.add(DATA, chunk_id, data, group)
        return Contents(chunk_id, len(data), hashlib.sha256(data).digest())

    def file(self, descriptor: int, facts: os.stat_result, group: Group) -> Contents:
        """Read an open file as far as it went when ``facts`` were taken. What is recorded is what was read."""
        if facts.st_size < WHOLE and not is_sparse(facts):
            data = os.read(descriptor, facts.st_size + 1)
            if len(data) == facts.st_size:
                return self.whole(data, group)
            if len(data) < WHOLE and not os.read(descriptor, 1):
                return self.whole(data, group)
            os.lseek(descriptor, 0, os.SEEK_SET)  # it is growing: stream it
        state = _Stream(self._start_hash())
        if is_sparse(facts):
            for start, end in data_extents(descriptor, facts.st_size):
                state.hole(start, self._check)
                os.lseek(descriptor, start, os.SEEK_SET)
                self._stream(_bounded(descriptor, end - start), state, group)
            state.hole(facts.st_size, self._check)
        else:
            # Up to where it ended: one that grows as fast as it is read would never end. Files that do not tell their
            # size, as in /proc, are short.
            self._stream(_bounded(descriptor, max(facts.st_size, _READ)), state, group)
        return state.finish()

    def stream(self, source: BinaryIO, group: Group) -> Contents:
        """Read a pipe to its end."""

        def fill(view: memoryview) -> int:
            return source.readinto(view) or 0  # type: ignore[attr-defined]

        state = _Stream(self._start_hash())
        self._stream(fill, state, group)
        return state.finish()

    def _start_hash(self) -> ThreadPoolExecutor:
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        return self._hasher

    def _stream(self, fill: Callable[[memoryview], int], state: _Stream, group: Group) -> None:
        carry: memoryview = memoryview(b"")
        while True:
            self._check()
            buffer = memoryview(bytearray(len(carry) + _READ))
            buffer[: len(carry)] = carry
            got = _fill(fill, buffer[len(carry) :])
            state.hash(buffer[len(carry) : len(carry) + got])
            filled = buffer[: len(carry) + got]
            last = got < _READ
            carry = memoryview(b"")
            for chunk in self._cut(filled):
                if not last and chunk.offset + chunk.length == len(filled):
                    carry = filled[chunk.offset :]  # the end of the buffer is not the end of a chunk
                    break
                data = filled[chunk.offset : chunk.offset + chunk.length]
                chunk_id = self._chunk_id(data)
                state.rows.append([chunk_id, len(data)])
                self._sink.add(DATA, chunk_id, data, group)
            state.position += got
            self._advance(got)
            if last:
                return

    def _cut(self, data: memoryview) -> Iterator[Any]:
        return iter(self._chunker.cut_buf(data)) if len(data) else iter(())


def _fill(fill: Callable[[memoryview], int], view: memoryview) -> int:
    """Fill a buffer as far as the source goes; pipes give little at a time."""
    total = 0
    while total < len(view):
        got = fill(view[total:])
        if not got:
            break
        total += got
    return total


def _bounded(descriptor: int, length: int) -> Callable[[memoryview], int]:
    left = length

    def fill(view: memoryview) -> int:
        nonlocal left
        got = os.readv(descriptor, [view[:left]]) if left else 0
        left -= got
        return got

    return fill


class _Stream:
    """A file being read: rows of the tree's content, position, running SHA-256."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.rows: list[list[Any]] = []
        self.position = 0
        self._pool = pool
        self._sha256 = hashlib.sha256()
        self._running: Future[None] | None = None

    def hash(self, data: memoryview) -> None:
        if self._running is not None:
            self._running.result()
        self._running = self._pool.submit(self._sha256.update, data)

    def hole(self, up_to: int, check: Callable[[], None]) -> None:
        """Record that nothing is stored from the position up to ``up_to``; the hash sees zeros."""
        length = up_to - self.position
        if length <= 0:
            return
        self.rows.append([None, length])
        if self._running is not None:
            self._running.result()
            self._running = None
        for start in range(0, length, len(_ZEROS)):
            check()  # a terabyte of nothing takes minutes to hash
            self._sha256.update(_ZEROS[: min(len(_ZEROS), length - start)])
        self.position = up_to

    def finish(self) -> Contents:
        if self._running is not None:
            self._running.result()
        if not self.rows:
            return Contents(None, 0, self._sha256.digest())
        if len(self.rows) == 1 and self.rows[0][0] is not None:
            return Contents(self.rows[0][0], self.rows[0][1], self._sha256.digest())
        return Contents(self.rows, sum(row[1] for row in self.rows), self._sha256.digest())
