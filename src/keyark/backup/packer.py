"""From blocks to stored packs: compression on a small pool, sealing in order, concurrent upload, bounded queues."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from keyark.errors import ObjectExists
from keyark.repository.blocks import Block, BlockBuilder
from keyark.repository.compression import Compression
from keyark.repository.index import IndexedPack, indexed
from keyark.repository.packs import PackAssembler, PackFacts, SealedPack
from keyark.storage.protocol import Storage

_WORKERS = max(1, min(4, os.cpu_count() or 1))
_UPLOADS = 2  # packs under way to the storage; each is 16 MB of memory
_QUEUED_BLOCKS = _WORKERS  # blocks waiting for the packer; bounds memory

_EASIEST, _HARDEST = 1, 12  # levels of zstd between which `auto` moves

_Job = tuple[int, "Future[Block]"]


class StoredPack(NamedTuple):
    """A pack that the storage has acknowledged."""

    pack: IndexedPack
    stored_bytes: int


class Packer:
    """Takes blocks from one thread, in order, and stores packs. Errors of its threads surface in the caller's thread."""

    def __init__(self, storage: Storage, facts: PackFacts, compression: Compression) -> None:
        self._storage = storage
        self._compression = compression
        self._assemblers = {kind: PackAssembler(facts, kind) for kind in (0, 1)}
        self._compressors = ThreadPoolExecutor(_WORKERS, thread_name_prefix="compress")
        self._uploaders = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload")
        self._room = threading.Semaphore(_UPLOADS)
        self._uploading = 0
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_QUEUED_BLOCKS)
        self._lock = threading.Lock()
        self._stored: list[StoredPack] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="packer", daemon=True)
        self._thread.start()

    def add(self, kind: int, builder: BlockBuilder) -> None:
        """Hand over a full block. Waits while the queues are full."""
        self._raise()
        if self._compression.probe:
            self._compression = replace(self._compression, level=self._next_level())
        self._jobs.put((kind, self._compressors.submit(builder.compress, self._compression)))

    @property
    def level(self) -> int:
        """The level at which the last block was handed to the codec."""
        return self._compression.level

    def _next_level(self) -> int:
        """The level of `auto`: a step harder while the storage is waited for, a step easier while the processors are."""
        level = self._compression.level
        if self._uploading >= _UPLOADS:
            return min(level + 1, _HARDEST)
        return max(level - 1, _EASIEST) if self._jobs.full() else level

    def take_stored(self) -> list[StoredPack]:
        """Packs stored since the last call."""
        self._raise()
        with self._lock:
            result, self._stored = self._stored, []
        return result

    def finish(self) -> None:
        """Store what is left and wait for everything."""
        self._jobs.put(None)
        self._thread.join()
        self._uploaders.shutdown(wait=True)
        self._compressors.shutdown(wait=True)
        self._raise()

    def abort(self) -> None:
        """Stop without storing more; never raises."""
        with self._lock:
            self._error = self._error or RuntimeError("aborted")
        self._jobs.put(None)
        self._thread.join()
        self._uploaders.shutdown(wait=True, cancel_futures=True)
        self._compressors.shutdown(wait=True, cancel_futures=True)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is not None:
                continue  # keep emptying the queue, so that the producer never waits in vain
            try:
                kind, future = job
                self._store(self._assemblers[kind].add(future.result()))
            except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
                self._fail(e)
        if self._error is None:
            try:
                for assembler in self._assemblers.values():
                    self._store(assembler.finish())
            except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
                self._fail(e)

    def _store(self, pack: SealedPack | None) -> None:
        if pack is None:
            return
        self._room.acquire()
        with self._lock:
            self._uploading += 1
        self._uploaders.submit(self._upload, pack)

    def _upload(self, pack: SealedPack) -> None:
        try:
            if self._error is None:
                with contextlib.suppress(ObjectExists):  # its name is its hash: an earlier attempt, its answer lost
                    self._storage.put(pack.name, pack.parts)
                with self._lock:
                    self._stored.append(StoredPack(indexed(pack), pack.size))
        except BaseException as e:  # noqa: BLE001 - handed to the caller's thread
            self._fail(e)
        finally:
            with self._lock:
                self._uploading -= 1
            self._room.release()
