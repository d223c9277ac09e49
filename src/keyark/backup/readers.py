"""Who reads small files: forked processes beside the walk, or, where there is nothing to gain, the walk's own thread.

Per small file the kernel's part (open, read, attributes, close) and the two hashes cost more than everything else, and Python
threads cannot share that work; processes can (docs/performance.md). A batch travels in a slot of shared memory: the
job, then the rows that answer it, in the slot's first part, the files' bytes in the rest. Folders travel as descriptors.
A reader process asks the storage nothing, opens nothing but the files it is told to, and ends when its socket closes.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgpack

from keyark import children
from keyark.backup.frames import Frame
from keyark.backup.smallfiles import LARGE, Row, SmallFileReader
from keyark.children import Child

_ROWS_ROOM = 1 << 20  # bytes of a slot for the job and the rows
_DATA_ROOM = 3 << 20  # bytes of a slot for the files' content
_SLOTS = 2  # batches under way in one process
_MAX_FILES = 512  # in one batch
_MAX_FOLDERS = 64  # in one batch: each is a descriptor that travels with it
_RESERVE = _MAX_FILES * 128  # bytes of the rows' room kept free for rows without an entry


@dataclass(slots=True)
class FolderPart:
    """Small files of one folder and source root, with their places among the folder's entries."""

    frame: Frame
    root: int
    places: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """Small files to be read, folder by folder."""

    folders: list[FolderPart] = field(default_factory=list)
    count: int = 0

    def add(self, frame: Frame, root: int, place: int, name: bytes) -> None:
        part = self.folders[-1] if self.folders else None
        if part is None or part.frame is not frame or part.root != root:
            part = FolderPart(frame, root)
            self.folders.append(part)
        part.places.append(place)
        part.names.append(name)
        self.count += 1

    @property
    def full(self) -> bool:
        return self.count >= _MAX_FILES or len(self.folders) >= _MAX_FOLDERS


@dataclass(frozen=True, slots=True)
class Read:
    """A batch that has been read: for each file its row, and all their bytes, one file after the other."""

    batch: Batch
    rows: Sequence[Row]
    data: memoryview


class Readers(Protocol):
    """Reads batches in the order in which they came."""

    @property
    def busy(self) -> bool:
        """Whether a batch must be taken before another may be given."""
        ...

    def give(self, batch: Batch) -> None: ...

    def take(self) -> Read | None:
        """The oldest batch given; None when there is none. Its data are good until the next call."""
        ...

    def close(self) -> None: ...


def start_readers(reader: SmallFileReader) -> Readers:
    """Reader processes where they can be had."""
    if children.can_fork():
        return ReaderProcesses(reader)
    return OwnThread(reader)


def _read_files(
    reader: SmallFileReader, folders: Iterable[tuple[int, Sequence[bytes]]], room: memoryview
) -> Iterator[Row]:
    position = 0
    for folder, names in folders:
        for name in names:
            row = reader.read(folder, name, room[position:])
            if row.chunk_id is not None:
                position += row.length
            yield row


class OwnThread:
    """Reads in the thread that asks."""

    def __init__(self, reader: SmallFileReader) -> None:
        self._reader = reader
        self._batch: Batch | None = None
        self._room: memoryview | None = None

    @property
    def busy(self) -> bool:
        return self._batch is not None

    def give(self, batch: Batch) -> None:
        self._batch = batch

    def take(self) -> Read | None:
        batch, self._batch = self._batch, None
        if batch is None:
            return None
        self._room = self._room or memoryview(bytearray(_DATA_ROOM))
        folders = ((part.frame.descriptor, part.names) for part in batch.folders)
        return Read(batch, list(_read_files(self._reader, folders, self._room)), self._room)

    def close(self) -> None:
        self._room = None


@dataclass(frozen=True, slots=True)
class _Slot:
    """Shared memory for one batch."""

    rows: memoryview
    data: memoryview


class _Process:
    """One reader process, seen from the walk."""

    def __init__(self, reader: SmallFileReader, others: Sequence[Child]) -> None:
        size = _ROWS_ROOM + _DATA_ROOM
        shared = memoryview(mmap.mmap(-1, _SLOTS * size))
        self.slots = [
            _Slot(shared[start : start + _ROWS_ROOM], shared[start + _ROWS_ROOM : start + size])
            for start in range(0, _SLOTS * size, size)
        ]
        self.child = Child(partial(_serve, self.slots, reader), others, "backup")


def _serve(slots: Sequence[_Slot], reader: SmallFileReader, connection: socket.socket) -> None:
    """A reader process: answer jobs until the socket closes."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 5, _MAX_FOLDERS)
        if not message:
            return
        slot = slots[message[0]]
        try:
            job = msgpack.unpackb(slot.rows[: int.from_bytes(message[1:], "big")], use_list=True)
            length = _answer(_read_files(reader, zip(descriptors, job, strict=True), slot.data), slot.rows)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        connection.sendall(length.to_bytes(4, "big"))


def _answer(rows: Iterator[Row], room: memoryview) -> int:
    """Write rows where the job was; a row that does not fit (huge attributes) is left to the walk."""
    packer = msgpack.Packer(use_bin_type=True)
    position = 0
    for row in rows:
        packed = packer.pack(row)
        if position + len(packed) > len(room) - _RESERVE:
            # Its bytes stay in the data room, so the length is kept and only the entry is dropped.
            packed = packer.pack(Row(LARGE, row.length, row.chunk_id))
        room[position : position + len(packed)] = packed
        position += len(packed)
    return position


class ReaderProcesses:
    """Forked processes that take batches in turn."""

    def __init__(self, reader: SmallFileReader) -> None:
        self._processes: list[_Process] = []
        self._given: deque[tuple[_Process, int, Batch]] = deque()
        self._number = 0
        try:
            for _ in range(children.COUNT):
                self._processes.append(_Process(reader, [process.child for process in self._processes]))
        except BaseException:
            self.close()
            raise

    @property
    def busy(self) -> bool:
        return len(self._given) >= _SLOTS * len(self._processes)

    def give(self, batch: Batch) -> None:
        process = self._processes[self._number % len(self._processes)]
        slot = self._number // len(self._processes) % _SLOTS
        self._number += 1
        job = msgpack.packb([part.names for part in batch.folders], use_bin_type=True)
        process.slots[slot].rows[: len(job)] = job
        descriptors = [part.frame.descriptor for part in batch.folders]
        with process.child.watched():
            socket.send_fds(process.child.socket, [bytes([slot]) + len(job).to_bytes(4, "big")], descriptors)
        self._given.append((process, slot, batch))

    def take(self) -> Read | None:
        if not self._given:
            return None
        process, number, batch = self._given.popleft()
        answer = process.child.receive(4)
        slot = process.slots[number]
        unpacker = msgpack.Unpacker(use_list=False)
        unpacker.feed(slot.rows[: int.from_bytes(answer, "big")])
        return Read(batch, list(map(Row._make, unpacker)), slot.data)

    def close(self) -> None:
        for process in self._processes:
            process.child.close()
        self._processes = []
