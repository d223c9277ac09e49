"""What is named as a source, and how a run tells what it could not back up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyark.backup import run as backup_run
from keyark.crypto.signing import SigningKey
from keyark.errors import KeyarkError, UsageError
from keyark.repository import wire
from keyark.repository.wire import ObjectType
from support import Sandbox, below, fill, keyark, picture


def command(ready: Sandbox, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    ready.base.joinpath("line").write_text(ready.line.reveal().decode() + "\n")
    ready.base.joinpath("line").chmod(0o600)
    places = {"KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    line = str(ready.base / "line")
    return keyark("-r", ready.location, "--key-file", line, *arguments, home=ready.base, **places)


def test_a_missing_source_below_another_one_is_named(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    report = ready.backup(source, source / "absent", tmp_path / "no/where/deep", tmp_path / "no/where/else")
    assert {os.fsdecode(item.path) for item in report.problems} == {
        str(source / "absent"),
        str(tmp_path / "no/where/deep"),
        str(tmp_path / "no/where/else"),
    }


def test_a_source_given_twice_or_inside_another_is_backed_up_once(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "sub/b": b"2"})
    report = ready.backup(source / "sub", source, source, source / "sub/b")
    assert (report.problems, report.total_files_processed) == ((), 2)
    ready.restore("latest", ready.base / "target")
    assert picture(below(ready.base / "target", source)) == picture(source)


def test_patterns_tags_and_names_that_are_not_utf8_are_kept_or_refused_before_anything_is_read(
    ready: Sandbox, tmp_path: Path
) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    (source / os.fsdecode(b"\xff.tmp")).write_bytes(b"2")
    ready.backup(source, excludes=("\udcff*",))
    ready.restore("latest", ready.base / "target")
    assert set(picture(below(ready.base / "target", source))) == {b"a"}
    before = ready.objects()
    for bad in ({"tags": ("\udcff",)}, {"name": "\udcff"}, {"hostname": "\udcff"}):
        with pytest.raises(UsageError, match="not valid UTF-8"):
            ready.backup(source, **bad)
    assert ready.objects() == before


def test_problems_are_named_on_stderr_in_the_snapshot_list_and_by_ls(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "sub/b": b"2"})
    missing = tmp_path / "gone"
    done = command(ready, "backup", str(source), str(missing))
    assert done.returncode == 3
    assert f"{missing}: does not exist" in done.stderr.decode()
    (listed,) = json.loads(command(ready, "snapshots", "--json").stdout)
    assert listed["problems"] == [{"path": str(missing), "what": "does not exist"}]
    assert listed["summary"]["problems"] == 1
    assert "1 object not backed up" in command(ready, "snapshots").stdout.decode()
    assert f"{missing}: does not exist" in command(ready, "ls", "latest").stderr.decode()
    assert f"{missing}: does not exist" in command(ready, "ls", "latest", str(missing.parent)).stderr.decode()
    assert command(ready, "ls", "latest", str(source)).stderr == b""


def test_a_snapshot_names_as_many_problems_as_it_has_room_for_and_counts_all(
    ready: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", {"a": b"1"})
    monkeypatch.setattr(backup_run, "_PROBLEMS", 3)
    report = ready.backup(source, *(tmp_path / f"absent {number}" for number in range(5)))
    assert len(report.problems) == 5
    with ready.open() as repository:
        (snapshot,) = repository.history("test").live
        assert len(repository.open_content(snapshot).problems) == 3
        assert repository.open_listed(snapshot).problems == 5


def test_what_no_reader_would_accept_is_not_written() -> None:
    signer = SigningKey.generate(post_quantum=False)
    with pytest.raises(KeyarkError, match="over the format's limit"):
        wire.sign_object(ObjectType.MARK, 0, {}, [bytes(wire.MAX_SIZE[ObjectType.MARK])], signer, b"r" * 32)


def test_a_closed_standard_input_is_bad_usage(ready: Sandbox) -> None:
    script = f'exec {sys.executable} -m keyark.cli.main -r "$1" backup --stdin <&-'
    environment = {"KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    done = subprocess.run(
        ["sh", "-c", script, "sh", ready.location],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        text=True,
    )
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr
