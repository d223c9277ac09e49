"""Reading small files, in this process and in forked ones."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from keyark.backup import readers
from keyark.backup.frames import Frame
from keyark.backup.readers import Batch, OwnThread, ReaderProcesses, Readers
from keyark.backup.smallfiles import FAILED, LARGE, NO_ROOM, READ, WHOLE, Row, SmallFileReader
from keyark.errors import KeyarkError


def reader() -> SmallFileReader:
    return SmallFileReader(lambda data: hashlib.sha256(b"id" + bytes(data)).digest(), time.time_ns() + 10**9)


@pytest.fixture(params=[OwnThread, ReaderProcesses])
def at_work(request: pytest.FixtureRequest) -> Iterator[Readers]:
    found: Readers = request.param(reader())
    yield found
    found.close()


def frame_of(folder: Path) -> Frame:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return Frame(os.fsencode(folder), descriptor, os.fstat(descriptor), 0, [], 1)


def batch_of(frame: Frame) -> Batch:
    batch = Batch()
    for place, name in enumerate(sorted(os.listdir(os.fsencode(frame.path)))):
        batch.add(frame, 1, place, name)
    return batch


def contents(read: readers.Read) -> list[tuple[int, bytes]]:
    position, found = 0, []
    for row in read.rows:
        end = position + (row.length if row.chunk_id is not None else 0)
        found.append((row.status, bytes(read.data[position:end])))
        position = end
    return found


def test_files_come_back_in_order_with_what_was_read(at_work: Readers, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "c").symlink_to("a")
    (tmp_path / "d").write_bytes(bytes(WHOLE))
    (tmp_path / "e").write_bytes(b"x" * (WHOLE - 1))
    os.mkfifo(tmp_path / "f")
    os.truncate(tmp_path / "b", 0)
    frame = frame_of(tmp_path)
    at_work.give(batch_of(frame))
    read = at_work.take()
    assert read is not None
    assert contents(read) == [
        (READ, b"content"),
        (READ, b""),
        (FAILED, b""),  # a link is not followed
        (LARGE, b""),
        (READ, b"x" * (WHOLE - 1)),
        (FAILED, b""),  # a FIFO does not hold anybody up
    ]
    assert read.rows[0].chunk_id == hashlib.sha256(b"idcontent").digest()
    assert msgpack.unpackb(read.rows[0].entry)[8] == hashlib.sha256(b"content").digest()
    assert at_work.take() is None
    os.close(frame.descriptor)


def test_what_does_not_fit_is_asked_for_again(at_work: Readers, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}").write_bytes(os.urandom(WHOLE - 1))
    frame = frame_of(tmp_path)
    at_work.give(batch_of(frame))
    read = at_work.take()
    assert read is not None
    statuses = [row.status for row in read.rows]
    assert NO_ROOM in statuses
    for number, (status, data) in enumerate(contents(read)):
        assert status == NO_ROOM or data == (tmp_path / f"{number:02d}").read_bytes()
    os.close(frame.descriptor)


def test_batches_come_back_in_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    at_work = ReaderProcesses(reader())
    frames = []
    for number in range(9):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"%d" % number)
        frames.append(frame_of(folder))
    seen = []
    for frame in frames:
        while at_work.busy:
            seen.append(at_work.take())
        at_work.give(batch_of(frame))
    while (read := at_work.take()) is not None:
        seen.append(read)
    assert [read.batch.folders[0].frame for read in seen if read] == frames
    at_work.close()
    for frame in frames:
        os.close(frame.descriptor)


def test_a_killed_process_is_an_error_that_says_so(tmp_path: Path) -> None:
    at_work = ReaderProcesses(reader())
    (tmp_path / "file").write_bytes(b"1")
    frame = frame_of(tmp_path)
    for process in at_work._processes:
        os.kill(process.child._pid, signal.SIGKILL)
    with pytest.raises(KeyarkError, match="killed by signal 9"):  # noqa: PT012 - which of the two notices is a race
        at_work.give(batch_of(frame))
        at_work.take()
    at_work.close()
    os.close(frame.descriptor)


def test_an_entry_too_large_for_the_answer_is_left_to_the_walk_and_the_others_stay() -> None:
    rows = [
        Row(READ, 3, b"a" * 32, b"entry"),
        Row(READ, 5, b"b" * 32, bytes(2 << 20)),
        Row(READ, 1, b"c" * 32, b"last"),
    ]
    room = memoryview(bytearray(1 << 20))
    length = readers._answer(iter(rows), room)
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(room[:length])
    found = [Row._make(row) for row in unpacker]
    assert found == [rows[0], Row(LARGE, 5, b"b" * 32), rows[2]]
