"""What a backup looks up of folders that it knows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from keyark.backup.sink import ChunkSink
from support import Sandbox, fill


def looked_up(ready: Sandbox, source: Path) -> int:
    """How many chunks a backup of ``source`` asks the cache for."""
    asked: list[bytes] = []
    known = ChunkSink.known

    def counting(self: ChunkSink, ids: Iterable[bytes]) -> dict[bytes, int]:
        wanted = list(ids)
        asked.extend(wanted)
        return known(self, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkSink, "known", counting)
        assert ready.backup(source).problems == ()
    return len(asked)


def test_a_folder_whose_files_are_those_of_last_time_looks_none_of_them_up(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {**{f"{n}": os.urandom(50) for n in range(300)}, "below/changing": b"1"})
    ready.backup(source)
    (source / "below/changing").write_bytes(b"2")
    # The new chunk, and the tree of each folder from it up to the root.
    assert looked_up(ready, source) <= 2 + len(source.parts)
    assert ready.restore("latest", ready.base / "target").problems == ()


def test_beside_a_changed_file_the_others_are_looked_up_and_counted(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{n}": os.urandom(50) for n in range(300)})
    ready.backup(source)
    (source / "7").write_bytes(b"changed")
    assert looked_up(ready, source) >= 299
    assert ready.verify().sound
    assert ready.restore("latest", ready.base / "target").problems == ()
