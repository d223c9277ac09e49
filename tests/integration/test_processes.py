"""The forked processes of a backup and a restore: killed, orphaned, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import Sandbox, below, fill, picture


def start(ready: Sandbox, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    command = [sys.executable, "-m", "keyark.cli.main", "-r", ready.location, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def children(pid: int) -> list[int]:
    try:
        return [int(item) for item in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_children(process: subprocess.Popen[bytes]) -> list[int]:
    while process.poll() is None:
        found = children(process.pid)
        if len(found) == 2:
            return found
        time.sleep(0.002)
    raise AssertionError(process.communicate()[1])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", {f"{n % 60}/{n}": os.urandom(n % 3000) for n in range(12_000)})


def test_a_killed_reader_process_ends_the_backup_with_one_line_and_the_next_run_completes(
    ready: Sandbox, source: Path
) -> None:
    process = start(ready, "backup", "-q", str(source))
    os.kill(wait_for_children(process)[1], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.count(b"\n") == 1
    assert b"killed by signal 9" in errors
    assert ready.verify().sound
    ready.backup(source)
    report = ready.restore("latest", ready.base / "target")
    assert report.problems == ()
    assert picture(below(ready.base / "target", source)) == picture(source)


def test_a_killed_process_of_a_restore_leaves_only_whole_files_and_another_run_completes_it(
    ready: Sandbox, source: Path
) -> None:
    ready.backup(source)
    key = ready.base / "test.key"
    key.write_bytes(ready.line.reveal())
    key.chmod(0o600)
    target = ready.base / "target"
    process = start(ready, "--key-file", str(key), "restore", "-q", "latest", "--target", str(target))
    os.kill(wait_for_children(process)[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert b"killed by signal 9" in errors
    restored = below(target, source)
    for path in restored.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (source / path.relative_to(restored)).read_bytes()
    assert ready.restore("latest", target, overwrite="if-changed").problems == ()
    assert picture(restored) == picture(source)


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_the_processes_of_a_killed_run_end_by_themselves(ready: Sandbox, source: Path, verb: str) -> None:
    if verb == "backup":
        process = start(ready, "backup", "-q", str(source))
    else:
        ready.backup(source)
        key = ready.base / "test.key"
        key.write_bytes(ready.line.reveal())
        process = start(ready, "--key-file", str(key), "restore", "-q", "latest", "--target", str(ready.base / "t"))
    found = wait_for_children(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in found)
    assert ready.verify().sound
