"""What a machine remembers, and the local cache."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from keyark.errors import StorageError, UsageError
from keyark.repository.cache import Cache
from keyark.repository.index import IndexedPack
from keyark.repository.packs import BlockPlace
from keyark.repository.places import Places, write_private

R, C, W = b"r" * 32, b"c" * 16, b"w" * 16


def test_pins_only_move_forward(tmp_path: Path) -> None:
    state = Places(str(tmp_path / "s"), str(tmp_path / "c")).state(R)
    state.advance_pins((2, b"k" * 32), {(C, W): (5, b"a" * 32)})
    state.advance_pins((1, b"old" + bytes(29)), {(C, W): (4, b"b" * 32), (C, b"x" * 16): (1, b"c" * 32)})
    pins = state.read_pins()
    assert pins.keyring == (2, b"k" * 32)
    assert pins.heads == {(C, W): (5, b"a" * 32), (C, b"x" * 16): (1, b"c" * 32)}
    assert Path(state.folder).stat().st_mode & 0o777 == 0o700
    assert (Path(state.folder) / "pins.json").stat().st_mode & 0o777 == 0o600


def test_damaged_pins_are_an_error_that_says_what_they_are_for(tmp_path: Path) -> None:
    state = Places(str(tmp_path / "s"), str(tmp_path / "c")).state(R)
    for text in ("{", "[]", '{"keyring": 1, "heads": {}}'):
        (Path(state.folder) / "pins.json").write_text(text)
        with pytest.raises(UsageError):
            state.read_pins()


def test_the_lock_is_held_by_one_thread_and_is_reentrant(tmp_path: Path) -> None:
    state = Places(str(tmp_path / "s"), str(tmp_path / "c")).state(R)
    counter = [0]

    def work() -> None:
        for _ in range(200):
            with state.locked(), state.locked():
                value = counter[0]
                counter[0] = value + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [800]


def test_locations_are_remembered(tmp_path: Path) -> None:
    places = Places(str(tmp_path / "s"), str(tmp_path / "c"))
    assert places.repository_at("/x") is None
    places.state(R)
    places.remember("/x", R)
    assert places.repository_at("/x") == R


def test_a_place_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="KEYARK_STATE_DIR"):
        Places(str(tmp_path / "file/s"), str(tmp_path / "c")).state(R)


def test_private_files_replace_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_private(str(path), b"1")
    write_private(str(path), b"2")
    assert path.read_bytes() == b"2"
    assert [item.name for item in tmp_path.iterdir()] == ["f"]
    assert path.stat().st_mode & 0o777 == 0o600


def a_pack(number: int, chunks: int) -> IndexedPack:
    ids = b"".join(bytes([number, item]) * 16 for item in range(chunks))
    return IndexedPack(bytes([number]) * 32, 0, 100, 90, (BlockPlace(10, 50, chunks, ids),))


def test_the_cache_locates_chunks_in_usable_packs_only(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), R)
    cache.add_index("index/a", C, [a_pack(1, 3), a_pack(2, 2)])
    cache.add_index(None, C, [a_pack(3, 1)])
    nums = {pack.sha256[0]: pack.num for pack in cache.packs(C)}
    assert cache.locate([b"\x01\x02" * 16], {nums[1]}) == {b"\x01\x02" * 16: (nums[1], 2)}
    assert cache.locate([b"\x01\x02" * 16], {nums[2]}) == {}
    assert cache.unindexed(C) == [b"\x03" * 32]
    cache.add_index("index/b", C, [a_pack(3, 1)])
    assert cache.unindexed(C) == []
    assert cache.known_indexes() == {"index/a", "index/b"}
    assert Path(cache.path).stat().st_mode & 0o777 == 0o600
    cache.close()


def test_a_cache_of_another_repository_or_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), R)
    cache.add_index("index/a", C, [a_pack(1, 3)])
    cache.close()
    other = Cache(str(tmp_path), b"x" * 32)
    assert other.known_indexes() == set()
    other.close()
    Path(other.path).write_bytes(b"garbage" * 1000)
    fresh = Cache(str(tmp_path), R)
    assert list(fresh.packs(C)) == []
    fresh.close()


def test_index_objects_that_contradict_each_other_make_a_pack_unusable_until_it_was_asked(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), R)
    honest, lie = a_pack(1, 3), replace(a_pack(1, 3), blocks=a_pack(7, 3).blocks)
    cache.add_index("index/a", C, [honest])
    cache.add_index("index/b", C, [lie])
    assert cache.disputed(C) == [honest.sha256]
    assert list(cache.packs(C)) == []
    cache.add_index(None, C, [honest], trusted=True)
    (pack,) = cache.packs(C)
    cache.add_index("index/c", C, [lie])
    assert list(cache.packs(C)) == [pack], "what the pack says itself stands against any index object"
    assert cache.locate([b"\x07\x00" * 16], {pack.num}) == {}
    cache.close()


def test_what_a_vanished_index_object_said_is_forgotten_and_no_number_is_given_twice(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), R)
    cache.add_index("index/a", C, [a_pack(1, 3), a_pack(2, 1)])
    cache.add_index("index/b", C, [a_pack(2, 1)])
    cache.add_index("index/c", C, [a_pack(3, 1)])
    used = {pack.num for pack in cache.packs(C)}
    cache.forget_indexes(["index/a"], C)
    assert cache.known_indexes() == {"index/c"}, "what also spoke of its packs is loaded anew"
    assert [pack.sha256[0] for pack in cache.packs(C)] == [3]
    cache.forget_indexes(["index/c"], C)
    cache.add_index("index/d", C, [a_pack(4, 1)])
    assert not used & {pack.num for pack in cache.packs(C)}
    cache.close()


def test_an_entry_of_one_compartment_says_nothing_about_another(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), R)
    cache.add_index("index/evil", b"x" * 16, [replace(a_pack(1, 3), blocks=a_pack(7, 3).blocks)])
    cache.add_index("index/a", C, [a_pack(1, 3)])
    (pack,) = cache.packs(C)
    assert cache.locate([b"\x01\x02" * 16], {pack.num}) == {b"\x01\x02" * 16: (pack.num, 2)}
    assert cache.disputed(C) == []
    cache.close()
