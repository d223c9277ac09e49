"""Real key files and whole trees, byte for byte, checked by other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cryptography_vectors
import pytest

from keyark.recovery.browse import list_entries
from support import Sandbox, below, picture, run

VECTORS = Path(os.path.dirname(cryptography_vectors.__file__))
SUITES = ("AES-256-GCM", "ChaCha20-Poly1305", "AES-256-GCM-SIV", "multi-layer")
CODECS = ("zstd:1", "zstd:19", "gzip:6", "bzip2:9", "lzma:1", "none", "auto")


def rsync_differences(source: Path, restored: Path) -> str:
    return run(["rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", f"{source}/", f"{restored}/"]).stdout


def test_thousands_of_real_key_files_come_back_byte_for_byte(ready: Sandbox) -> None:
    report = ready.backup(VECTORS)
    assert report.total_files_processed > 2000
    restored = ready.restore("latest", ready.base / "target", verify=True)
    assert restored.problems == ()
    assert picture(below(ready.base / "target", VECTORS)) == picture(VECTORS)
    assert ready.verify().sound


@pytest.mark.root
@pytest.mark.program("rsync")
def test_etc_comes_back_and_rsync_finds_no_difference(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "etc"  # a copy, since other tests may change accounts and the like
    run(["cp", "-a", "/etc", str(source)])
    ready.backup(source)
    assert ready.restore("latest", ready.base / "target", verify=True).problems == ()
    assert rsync_differences(source, below(ready.base / "target", source)) == ""


@pytest.mark.program("rsync")
def test_a_python_environment_comes_back_and_rsync_finds_no_difference(ready: Sandbox) -> None:
    source = Path(sys.prefix) / "lib"
    ready.backup(source, compression="zstd:1")
    assert ready.restore("latest", ready.base / "target").problems == ()
    assert rsync_differences(source, below(ready.base / "target", source)) == ""


@pytest.mark.program("sha256sum")
def test_recorded_sha256_sums_are_what_sha256sum_computes(ready: Sandbox, tmp_path: Path) -> None:
    source = VECTORS / "asymmetric"
    ready.backup(source)
    with ready.open() as repository:
        entries = list(list_entries(repository, "latest", os.fsencode(source), recursive=True, context=ready.context))
    files = [entry for entry in entries if entry.type == "file"]
    manifest = tmp_path / "sums"
    manifest.write_bytes(b"".join(f"{entry.sha256}  ".encode() + entry.path + b"\n" for entry in files))
    done = subprocess.run(["sha256sum", "--quiet", "-c", manifest], check=True, capture_output=True, text=True)
    assert len(files) > 100
    assert done.stdout == ""


def test_changing_suite_and_codec_never_makes_old_data_unreadable(ready: Sandbox, tmp_path: Path) -> None:
    parts = sorted(path for path in (VECTORS / "asymmetric").iterdir() if path.is_dir())
    source = tmp_path / "source"
    source.mkdir()
    names = []
    for number, (suite, codec) in enumerate(
        [*((suite, "zstd:3") for suite in SUITES), *((SUITES[0], codec) for codec in CODECS)]
    ):
        shutil.copytree(parts[number % len(parts)], source / str(number))
        (source / str(number) / "unique").write_bytes(os.urandom(600_000))
        names.append(ready.backup(source, suite=suite, compression=codec).snapshot_id)
    assert ready.verify().sound
    for number, snapshot in enumerate(names):
        target = ready.base / f"target {number}"
        assert ready.restore(snapshot, target, verify=True).problems == ()
        assert len(list(below(target, source).iterdir())) == number + 1
    assert picture(below(ready.base / f"target {len(names) - 1}", source)) == picture(source)


def test_an_unchanged_backup_stores_almost_nothing_and_opens_no_file(
    ready: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.backup(VECTORS / "asymmetric")
    size = sum(info.size for info in ready.storage().list())
    from keyark.backup import contents

    def refuse(*_: object) -> None:
        raise AssertionError("an unchanged file was opened")

    monkeypatch.setattr(contents.ContentReader, "file", refuse)
    report = ready.backup(VECTORS / "asymmetric")
    assert report.files_unmodified == report.total_files_processed
    assert (report.files_new, report.files_changed) == (0, 0)
    assert report.data_added < 1000  # at most the time of a folder above the sources, in which other tests work
    assert sum(info.size for info in ready.storage().list()) - size < 20_000


def test_a_stream_comes_back_as_a_file(ready: Sandbox, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as stream:
        ready.backup(stdin=stream, stdin_name=b"vault.snap")
    ready.restore("latest", ready.base / "target", verify=True)
    assert (ready.base / "target/vault.snap").read_bytes() == data
