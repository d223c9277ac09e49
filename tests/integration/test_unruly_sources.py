"""Sources that fail, move, grow and are swapped while they are read: the run goes on and says what it could not take."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyark.clock import SystemClock
from support import COVERAGE, FakeClock, Sandbox, below, fill, picture

FILES_OPEN = 256  # a descriptor limit far below the depth of the folders here


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Another process that repeats something until it is killed."""
    child = os.fork()
    if child == 0:
        while True:
            try:
                action()
            except OSError:
                continue
            except BaseException:
                os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def backup_command(ready: Sandbox, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    places = {"KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    return subprocess.run(
        [*prefix, sys.executable, "-m", "keyark.cli.main", "-r", ready.location, "backup", *arguments],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **COVERAGE, **places},
        text=True,
    )


def failing(ready: Sandbox, source: Path, path: Path, calls: str) -> subprocess.CompletedProcess[str]:
    """A backup during which some system calls on one object fail with EIO."""
    ready.base.joinpath("trace").unlink(missing_ok=True)
    trace = str(ready.base / "trace")
    strace = ("strace", "-f", "-qq", "-o", trace, "-P", str(path), "-e", f"inject={calls}:error=EIO")
    return backup_command(ready, str(source), prefix=strace)


def restored(ready: Sandbox, source: Path) -> dict[bytes, tuple[object, ...]]:
    target = ready.base / "target"
    shutil.rmtree(target, ignore_errors=True)
    report = ready.restore("latest", target, verify=True)
    assert report.problems == ()
    return picture(below(target, source))


@pytest.mark.program("strace")
@pytest.mark.parametrize(
    ("what", "calls", "lost"),
    [
        ("a", "read,readv,pread64,preadv", {b"a"}),
        ("big", "read,readv,pread64,preadv", {b"big"}),
        ("d", "getdents64", {b"d/x"}),
        ("d", "flistxattr,fgetxattr", set()),  # the folder comes back, without its attributes
        ("a", "flistxattr,fgetxattr", set()),
    ],
)
def test_a_medium_error_costs_only_what_it_hits(
    ready: Sandbox, tmp_path: Path, what: str, calls: str, lost: set[bytes]
) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "big": os.urandom(3 << 20), "d/x": b"2", "z": b"3"})
    os.setxattr(source / what, "user.note", b"1")
    done = failing(ready, source, source / what, calls)
    assert done.returncode == 3, done.stderr
    assert f"{source / what}: " in done.stderr
    assert "Input/output error" in done.stderr
    assert set(picture(source)) - set(restored(ready, source)) == lost


def test_files_swapped_for_links_pipes_and_folders_are_neither_followed_nor_waited_for(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {f"{number:03}": os.urandom(3000) for number in range(300)})
    fill(tmp_path, {"outside": b"SECRET outside the source", "elsewhere/x": b"SECRET elsewhere"})
    state = {"turn": 0}

    def swap() -> None:
        state["turn"] += 1
        name, new = source / f"{state['turn'] * 7 % 300:03}", tmp_path / "new"
        kind = state["turn"] % 5
        if kind == 0:
            os.mkfifo(new)
        elif kind == 1:
            new.symlink_to(tmp_path / "outside")
        elif kind == 2:
            new.symlink_to(tmp_path / "elsewhere")
        elif kind == 3:
            new.write_bytes(b"file again")
        else:
            name.unlink()
            return
        new.rename(name)

    for _ in range(4):
        with meanwhile(swap):
            started = time.monotonic()
            report = ready.backup(source, force=True)
            assert time.monotonic() - started < 60
        assert {item.what for item in report.problems} <= {
            "vanished",
            "changed while being read",
            "replaced by something else while being read",
        }
        target = ready.base / "target"
        shutil.rmtree(target, ignore_errors=True)
        ready.restore("latest", target, verify=True)
        for path in below(target, source).iterdir():
            assert path.is_symlink() or not path.is_file() or b"SECRET" not in path.read_bytes()
        (tmp_path / "new").unlink(missing_ok=True)


def test_folders_that_vanish_or_become_links_are_named_and_not_followed(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {f"{number:02}/{inner}": b"1" for number in range(60) for inner in range(5)})
    fill(tmp_path, {"outside/secret": b"SECRET"})
    state = {"turn": 0}

    def swap() -> None:
        state["turn"] += 1
        name = source / f"{state['turn'] % 60:02}"
        name.rename(tmp_path / "aside")
        name.symlink_to(tmp_path / "outside")
        name.unlink()
        (tmp_path / "aside").rename(name)

    for _ in range(6):
        with meanwhile(swap):
            report = ready.backup(source, force=True)
        if (tmp_path / "aside").exists():
            number = next(
                n for n in range(60) if (source / f"{n:02}").is_symlink() or not (source / f"{n:02}").exists()
            )
            name = source / f"{number:02}"
            name.unlink(missing_ok=True)
            (tmp_path / "aside").rename(name)
        found = restored(ready, source)
        assert not any(path.endswith(b"secret") for path in found)
        lost = {os.path.basename(item.path) for item in report.problems}
        for name, facts in found.items():
            if stat.S_ISDIR(int(str(facts[0]))) and name not in lost:
                assert {name + b"/%d" % inner for inner in range(5)} <= set(found)


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def nested(top: Path, depth: int) -> None:
    """Folders in folders, with a file before and one after the next folder in each."""
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for level in range(depth):
        for name in (b"a", b"z"):
            with open(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
                file.write(b"%d" % level)
        os.mkdir(b"n", dir_fd=descriptor)
        inner = os.open(b"n", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_folders_may_lie_deeper_than_files_may_be_open(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    nested(source, FILES_OPEN * 3)
    with few_descriptors(FILES_OPEN):
        report = ready.backup(source)
        assert report.problems == ()
        assert report.total_files_processed == FILES_OPEN * 6
        back = ready.restore("latest", ready.base / "target", verify=True)
    assert (back.problems, back.files_restored) == ((), FILES_OPEN * 6)
    subprocess.run(["rm", "-rf", source, ready.base / "target"], check=True)


def test_a_socket_or_the_repository_named_as_a_source_is_not_passed_over_in_silence(
    ready: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    monkeypatch.chdir(source)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        inside = ready.backup(source)
        report = ready.backup(source / "socket", source / "a", Path(ready.location))
    assert inside.problems == ()
    problems = {os.fsdecode(item.path): item.what for item in report.problems}
    assert problems.keys() == {str(source / "socket"), ready.location}


@pytest.mark.parametrize("when", [10**9 * 10_413_792_000, -(10**9) * 2_000_000_000])
def test_times_far_in_the_future_or_past_stop_nothing(ready: Sandbox, tmp_path: Path, when: int) -> None:
    source = fill(tmp_path / "source", {"far": b"1", "near": b"2", "folder/x": b"3"})
    (source / "link").symlink_to("far")
    for name in ("far", "folder", "link"):
        os.utime(source / name, ns=(when, when), follow_symlinks=False)
    taken = picture(source)
    report = ready.backup(source)
    assert report.problems == ()
    assert restored(ready, source) == taken
    assert ready.backup(source).files_unmodified == 3


def test_a_rewrite_right_after_a_backup_is_seen_whatever_is_done_to_its_time(ready: Sandbox, tmp_path: Path) -> None:
    ready.clock = SystemClock()
    source = fill(tmp_path / "source", {"key": b"00000000"})
    path = source / "key"
    for number in range(12):
        content = b"%08d" % number
        before = path.stat()
        path.write_bytes(content)
        ready.backup(source)  # at once: the file system's clock may not have ticked since
        path.write_bytes(content[::-1])
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))  # as `touch -r` does
        ready.backup(source)
        target = ready.base / f"target {number}"
        ready.restore("latest", target)
        assert (below(target, source) / "key").read_bytes() == content[::-1]


def test_a_clock_that_was_set_back_hides_no_change(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"key": b"old"})
    assert isinstance(ready.clock, FakeClock)
    ready.clock.time_ns = time.time_ns() + 10**9 * 3600
    ready.backup(source)
    ready.clock.time_ns = time.time_ns() - 10**9 * 3600 * 24 * 365
    (source / "key").write_bytes(b"new")
    ready.backup(source)
    found = [facts for path, facts in restored(ready, source).items() if path == b"key"]
    assert found == [picture(source)[b"key"]]
