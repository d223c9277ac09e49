"""Restoring into targets that are not empty, not ours alone, too small, or unable to hold everything."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyark.backup import smallfiles
from keyark.errors import StorageFull
from support import Sandbox, below, fill, memory_disk, picture, run

NOBODY = 65534


@pytest.mark.program("setfacl")
def test_a_default_acl_of_the_target_gives_nobody_rights_to_what_is_restored(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"secret.key": b"1", "sub/other.key": b"2"})
    (source / "secret.key").chmod(0o640)
    ready.backup(source)
    target = ready.base / "target"
    target.mkdir()
    run(["setfacl", "-d", "-m", "u:1234:rwx", str(target)])
    assert ready.restore("latest", target).problems == ()
    assert picture(below(target, source)) == picture(source)


@pytest.mark.parametrize("policy", ["always", "if-changed"])
def test_metadata_of_what_is_there_already_is_put_right(ready: Sandbox, tmp_path: Path, policy: str) -> None:
    source = fill(tmp_path / "source", {"private.key": b"1", "folder/x": b"2"})
    (source / "private.key").chmod(0o600)
    ready.backup(source)
    ready.restore("latest", ready.base / "target")
    restored = below(ready.base / "target", source)
    (restored / "private.key").chmod(0o644)  # size and time are still those of the snapshot
    os.setxattr(restored / "folder", "user.added", b"later")
    assert ready.restore("latest", ready.base / "target", overwrite=policy).problems == ()
    assert picture(restored) == picture(source)


def test_if_changed_links_again_what_was_one_file(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"shared", "m": b"alone"})
    os.link(source / "a", source / "b")
    os.link(source / "a", source / "c")
    ready.backup(source)
    ready.restore("latest", ready.base / "target")
    restored = below(ready.base / "target", source)
    (restored / "b").unlink()
    shutil.copy2(restored / "a", restored / "b")
    (restored / "c").unlink()
    report = ready.restore("latest", ready.base / "target", overwrite="if-changed")
    assert report.files_skipped == 2  # a and m
    assert picture(restored) == picture(source)


def test_names_of_a_hard_linked_file_come_back_when_the_first_one_cannot(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"shared"})
    os.mkfifo(source / "pipe a")
    for number in "bc":
        os.link(source / "a", source / number)
        os.link(source / "pipe a", source / f"pipe {number}")
    ready.backup(source)
    restored = below(ready.base / "target", source)
    fill(restored, {"a/in the way": b"", "pipe a/in the way": b""})
    report = ready.restore("latest", ready.base / "target", overwrite="always")
    assert {os.path.basename(item.path) for item in report.problems} == {b"a", b"pipe a"}
    assert (restored / "b").read_bytes() == b"shared"
    assert (restored / "b").stat().st_ino == (restored / "c").stat().st_ino
    assert (restored / "pipe b").stat().st_ino == (restored / "pipe c").stat().st_ino
    assert stat.S_ISFIFO((restored / "pipe b").stat().st_mode)


@pytest.mark.root
def test_where_the_target_cannot_link_a_copy_is_made_and_named(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a/one": b"shared", "b/.keep": b""})
    os.link(source / "a/one", source / "b/two")
    ready.backup(source)
    restored = below(ready.base / "target", source)
    with memory_disk(restored / "b", "size=1m"):
        report = ready.restore("latest", ready.base / "target", overwrite="always")
        assert (restored / "b/two").read_bytes() == b"shared"
        (problem,) = report.problems
        assert problem.path == os.fsencode(source / "b/two")
        assert problem.what.startswith("restored as a copy")


@pytest.mark.root
def test_a_target_without_inodes_left_is_full(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{number}": b"x" for number in range(60)})
    ready.backup(source)
    with (
        memory_disk(ready.base / "target", "size=8m,nr_inodes=40") as target,
        pytest.raises(StorageFull, match="is full"),
    ):
        ready.restore("latest", target)


def test_an_empty_folder_in_the_place_of_a_file_makes_room(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"file": b"1"})
    ready.backup(source)
    (below(ready.base / "target", source) / "file").mkdir(parents=True)
    assert ready.restore("latest", ready.base / "target", overwrite="always").problems == ()
    assert picture(below(ready.base / "target", source)) == picture(source)


def test_values_that_no_system_call_takes_are_problems_of_their_object(
    ready: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "hostile": b"2", "z": b"3"})
    (source / "link").symlink_to("x")
    real = smallfiles.encode_file

    def forged(name: bytes, found: os.stat_result, *rest: Any, **more: Any) -> bytes:
        if name == b"hostile":  # what a stolen writer's credential could sign
            fields = ("st_mode", "st_nlink", "st_gid", "st_mtime_ns")
            found = SimpleNamespace(st_uid=1 << 40, **{field: getattr(found, field) for field in fields})  # type: ignore[assignment]
        return real(name, found, *rest, **more)

    monkeypatch.setattr(smallfiles, "encode_file", forged)
    monkeypatch.setattr(os, "readlink", lambda path, **options: b"nul\0inside")
    ready.backup(source)
    monkeypatch.undo()
    report = ready.restore("latest", ready.base / "target")
    assert {os.path.basename(item.path) for item in report.problems} == {b"hostile", b"link"}
    assert {os.fsdecode(path) for path in picture(below(ready.base / "target", source))} == {"a", "z"}


@pytest.mark.root
def test_whoever_owns_a_folder_of_the_target_cannot_turn_a_restore_onto_other_files(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1500):
        os.mkfifo(source / f"{number:04}", 0o666)
        os.chmod(source / f"{number:04}", 0o666)
        os.chown(source / f"{number:04}", NOBODY, NOBODY)
    ready.backup(source)
    victim = tmp_path / "victim"
    victim.write_bytes(b"root's")
    victim.chmod(0o600)
    shared = below(ready.base / "target", source)
    shared.mkdir(parents=True)
    os.chown(shared, NOBODY, NOBODY)
    folder = os.open(shared, os.O_RDONLY)
    attacker = os.fork()
    if attacker == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        while True:
            _swap_links(folder, os.fsencode(victim))
    try:
        ready.restore("latest", ready.base / "target", overwrite="always")
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
        os.close(folder)
    facts = victim.stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid, victim.read_bytes()) == (0o600, 0, b"root's")


def _swap_links(folder: int, victim: bytes) -> None:
    for name in os.listdir(folder):
        if not name.startswith(".keyark-"):
            continue
        try:
            os.unlink(name, dir_fd=folder)
            os.symlink(victim, name, dir_fd=folder)
        except OSError:
            continue


@pytest.mark.root
def test_folders_swapped_for_links_during_a_restore_lead_nowhere(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{number:02}/{inner}": b"1" for number in range(40) for inner in range(8)})
    ready.backup(source)
    outside = fill(tmp_path / "outside", {"kept": b"1"})
    outside.chmod(0o777)
    shared = below(ready.base / "target", source)
    fill(shared, {f"{number:02}/old": b"" for number in range(40)})
    for folder in (shared, *shared.iterdir()):
        os.chown(folder, NOBODY, NOBODY)
    before = picture(outside)
    opened = os.open(shared, os.O_RDONLY)
    attacker = os.fork()
    if attacker == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        while True:
            _swap_folders(opened, os.fsencode(outside))
    try:
        for _ in range(5):
            ready.restore("latest", ready.base / "target", overwrite="always", verify=True)
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
        os.close(opened)
    assert picture(outside) == before
    assert outside.stat().st_mode & 0o7777 == 0o777


def _swap_folders(parent: int, outside: bytes) -> None:
    for number in range(40):
        name, aside = b"%02d" % number, b"%02d.aside" % number
        try:
            os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
            os.symlink(outside, name, dir_fd=parent)
            os.unlink(name, dir_fd=parent)
            os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            continue


def test_a_killed_restore_leaves_nothing_half_done_under_its_name(ready: Sandbox, tmp_path: Path) -> None:
    files = {f"{number:03}": os.urandom(200_000) for number in range(150)}
    source = fill(tmp_path / "source", {**files, "large": os.urandom(40 << 20)})
    ready.backup(source)
    taken = picture(source)
    ready.base.joinpath("line").write_bytes(ready.line.reveal() + b"\n")
    ready.base.joinpath("line").chmod(0o600)
    places = {"KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    command = [sys.executable, "-m", "keyark.cli.main", "-r", ready.location, "--key-file", str(ready.base / "line")]
    unfinished = 0
    for attempt in range(6):
        target = ready.base / f"target {attempt}"
        process = subprocess.Popen(
            [*command, "restore", "latest", "--target", str(target)],
            env={**os.environ, **places},
            stdout=subprocess.DEVNULL,
        )
        reached = below(target, source)
        while process.poll() is None and not (reached.exists() and len(os.listdir(reached)) > attempt * 25):
            time.sleep(0.001)
        process.kill()
        process.wait()
        found = picture(reached)
        unfinished += len(found) < len(taken)
        for name, facts in found.items():
            if not name.startswith(b".keyark-"):
                assert facts == taken[name]
    assert unfinished
    again = ready.restore("latest", ready.base / "target 0", overwrite="if-changed", verify=True)
    assert again.problems == ()
    found = picture(below(ready.base / "target 0", source))
    assert {name: facts for name, facts in found.items() if not name.startswith(b".keyark-")} == taken
