"""File contents become chunks that add up to what was read; holes stay holes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyark.backup.contents import CHUNK_MAX, WHOLE, ContentReader, Contents
from keyark.errors import InterruptedByUser
from keyark.operation import CancelToken

MIB = 1 << 20


class Collector:
    """Stands in for the sink: remembers every chunk."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}

    def add(self, kind: int, chunk_id: bytes, data: bytes | memoryview, group: tuple[int, int]) -> None:
        self.chunks[chunk_id] = bytes(data)

    def put_together(self, contents: Contents) -> bytes:
        if contents.content is None:
            return b""
        if isinstance(contents.content, bytes):
            return self.chunks[contents.content]
        return b"".join(bytes(length) if chunk is None else self.chunks[chunk] for chunk, length in contents.content)


def chunk_id(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def reader(collector: Collector) -> Iterator[ContentReader]:
    made = ContentReader(collector, chunk_id, 7, lambda: None, lambda count: None)  # type: ignore[arg-type]
    yield made
    made.close()


def read(reader: ContentReader, path: Path, facts: os.stat_result | None = None) -> Contents:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return reader.file(descriptor, facts or os.fstat(descriptor), (0, 0))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, WHOLE - 1, WHOLE, WHOLE + 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 33 * MIB])
def test_chunks_add_up_to_the_file(reader: ContentReader, collector: Collector, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    contents = read(reader, tmp_path / "file")
    assert collector.put_together(contents) == data
    assert (contents.size, contents.sha256) == (size, hashlib.sha256(data).digest())
    assert all(len(chunk) <= CHUNK_MAX for chunk in collector.chunks.values())


def test_a_stream_is_cut_as_a_file_is(reader: ContentReader, collector: Collector, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB)
    (tmp_path / "file").write_bytes(data)
    assert reader.stream(io.BytesIO(data), (0, 0)) == read(reader, tmp_path / "file")


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([], 3 * MIB),
        ([(0, 5000)], 40 * MIB),
        ([(4 * MIB, 5000)], 4 * MIB + 5000),
        ([(0, 16 * MIB), (64 * MIB, 16 * MIB)], 80 * MIB + 1),
    ],
)
def test_holes_stay_holes(
    reader: ContentReader, collector: Collector, tmp_path: Path, parts: list[tuple[int, int]], size: int
) -> None:
    with (tmp_path / "file").open("wb") as file:
        for offset, length in parts:
            file.seek(offset)
            file.write(os.urandom(length))
        file.truncate(size)
    contents = read(reader, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    assert collector.put_together(contents) == data
    assert contents.sha256 == hashlib.sha256(data).digest()
    assert sum(map(len, collector.chunks.values())) <= sum(length for _, length in parts) + 4096 * len(parts)


@pytest.mark.parametrize("size", [100, WHOLE, 40 * MIB])
def test_a_file_is_read_as_far_as_it_went_when_it_was_looked_at(
    reader: ContentReader, collector: Collector, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    facts = path.stat()
    with path.open("ab") as file:
        file.write(b"y" * (100 * MIB))  # one that grows faster than it is read would never end
    contents = read(reader, path, facts)
    assert contents.size <= max(size, 16 * MIB)
    assert collector.put_together(contents) == path.read_bytes()[: contents.size]


@pytest.mark.parametrize("now", [0, 50, 3 * MIB])
def test_a_file_that_shrank_is_what_is_left_of_it(
    reader: ContentReader, collector: Collector, tmp_path: Path, now: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * MIB))
    facts = path.stat()
    os.truncate(path, now)
    contents = read(reader, path, facts)
    assert collector.put_together(contents) == path.read_bytes()


def test_hashing_a_huge_hole_can_be_interrupted(collector: Collector, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    token = CancelToken()
    token.cancel()
    reader = ContentReader(collector, chunk_id, 7, token.check, lambda count: None)  # type: ignore[arg-type]
    with pytest.raises(InterruptedByUser):
        read(reader, tmp_path / "file")
    reader.close()
