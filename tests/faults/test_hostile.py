"""Snapshots and storages that mean harm: nothing leaves the target, nothing is unpacked without bound, all of it is named."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faults.forge import Forger, row
from keyark.errors import IntegrityError
from keyark.repository.blocks import Block, BlockBuilder
from keyark.repository.chunkids import DATA
from keyark.repository.compression import Codec, parse_compression
from keyark.repository.index import IndexedPack, indexed
from keyark.repository.tree import BLOCK, CHAR, DIR, FIFO, FILE, SYMLINK
from support import Sandbox, fill

SWAPPER = """
import contextlib, itertools, os, sys

inner, outside = sys.argv[1:]
for n in itertools.count():
    path = f"{inner}/{n % 30}"
    with contextlib.suppress(OSError):
        os.rename(path, f"{path}.moved{n}")
        os.symlink(outside, path)
"""
LIMIT = 512 << 20  # bytes of memory that a process meeting a hostile repository may need


def outside_of(base: Path) -> Path:
    outside = base / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    return outside


def restore_or_refuse(ready: Sandbox, snapshot: str, **options: object) -> bool:
    """True when the restore reported damage; everything else that went wrong is an error of the test."""
    try:
        report = ready.restore(snapshot, ready.base / "target", **options)
    except IntegrityError:
        return True
    return any(problem.integrity for problem in report.problems)


@pytest.mark.parametrize(
    "name",
    [b"..", b".", b"", b"../outside/new", b"/etc/cron.d/x", b"a/b", b"a\0b", b"x" * 256, "text", 5, None],
)
@pytest.mark.parametrize("kind", [FILE, DIR, SYMLINK])
def test_names_that_lead_elsewhere_are_refused_and_named_by_verify(ready: Sandbox, name: object, kind: int) -> None:
    outside = outside_of(ready.base)
    forger = Forger(ready)
    content: object = {FILE: None, DIR: [forger.segment(forger.file(b"x", b"1"))], SYMLINK: b"/etc/passwd"}[kind]
    snapshot = forger.snapshot(forger.segment(row(name, kind, content)))  # type: ignore[arg-type]
    assert restore_or_refuse(ready, snapshot)
    assert os.listdir(ready.base / "target") == []
    assert os.listdir(outside) == ["precious"]
    report = ready.verify()
    assert not report.sound
    assert any(snapshot in finding.snapshots for finding in report.findings)


def test_names_twice_and_out_of_order_are_refused_also_across_segments(ready: Sandbox) -> None:
    for rows in ([b"a", b"a"], [b"b", b"a"]):
        forger = Forger(ready)
        assert restore_or_refuse(ready, forger.snapshot(forger.segment(*(forger.file(name, name) for name in rows))))
        forger = Forger(ready)
        segments = [forger.segment(forger.file(name, name)) for name in rows]
        assert restore_or_refuse(ready, forger.snapshot(*segments))
        shutil.rmtree(ready.base / "target")


def test_a_link_and_then_a_folder_of_that_name_do_not_lead_out_of_the_target(ready: Sandbox) -> None:
    """Two snapshots into one target: the first plants links, the second holds folders and files under their names."""
    outside = outside_of(ready.base)
    forger = Forger(ready)
    links = [row(name, SYMLINK, os.fsencode(outside)) for name in (b"a", b"b")]
    first = forger.snapshot(forger.segment(*links, row(b"c", SYMLINK, os.fsencode(outside / "precious"))))
    forger = Forger(ready)
    inner = forger.segment(forger.file(b"precious", b"overwritten"))
    second = forger.snapshot(
        forger.segment(row(b"a", DIR, [inner]), forger.file(b"b", b"overwritten"), forger.file(b"c", b"overwritten"))
    )
    for policy in ("always", "if-changed", "never"):
        ready.restore(first, ready.base / "target", overwrite="always")
        ready.restore(second, ready.base / "target", overwrite=policy)
        assert (outside / "precious").read_bytes() == b"precious"
        assert os.listdir(outside) == ["precious"]
        shutil.rmtree(ready.base / "target")


def test_links_swapped_in_by_another_process_during_a_restore_lead_nowhere(ready: Sandbox) -> None:
    outside = outside_of(ready.base)
    source = fill(ready.base / "source", {f"{n % 30}/{n}": os.urandom(200) for n in range(900)})
    ready.backup(source)
    target = ready.base / "target"
    inner = target / str(source).lstrip("/")
    swapper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SWAPPER,
            str(inner),
            str(outside),
        ]
    )
    try:
        for _ in range(4):
            for policy in ("always", "if-changed"):
                report = ready.restore("latest", target, overwrite=policy)
                assert all(not problem.integrity for problem in report.problems)
    finally:
        swapper.kill()
        swapper.wait()
    assert list(inner.rglob("*.moved*")), "the other process did get in"
    assert os.listdir(outside) == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"


# -- bombs -------------------------------------------------------------------------------------------------------------


def limited(ready: Sandbox, *arguments: str) -> tuple[int, str, int]:
    """Run `keyark` under a memory limit; exit code, errors, and its peak memory in bytes."""
    key = ready.base / "key"
    key.write_bytes(ready.line.reveal() + b"\n")
    key.chmod(0o600)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(ready.base),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "KEYARK_STATE_DIR": ready.places.state_dir,
        "KEYARK_CACHE_DIR": str(ready.base / "another cache"),
        "KEYARK_KEY_FILE": str(key),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [sys.executable, "-m", "keyark.cli.main", "-r", ready.location, *arguments],
        capture_output=True,
        check=False,
        timeout=100,
        env=environment,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return done.returncode, done.stderr, (after if after > before else 0) << 10


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP, Codec.BZIP2, Codec.LZMA])
def test_a_block_that_unpacks_to_gigabytes_is_refused(ready: Sandbox, codec: Codec) -> None:
    import bz2
    import lzma
    import zlib

    import zstandard

    zeros = bytes(1 << 20)
    count = 1024 if codec is Codec.ZSTD else 64  # MiB
    if codec is Codec.ZSTD:
        compressor: object = zstandard.ZstdCompressor(level=1, write_content_size=True).compressobj(size=count << 20)
    elif codec is Codec.GZIP:
        compressor = zlib.compressobj(9, wbits=31)
    else:
        compressor = bz2.BZ2Compressor() if codec is Codec.BZIP2 else lzma.LZMACompressor()
    packed = b"".join(compressor.compress(zeros) for _ in range(count)) + compressor.flush()  # type: ignore[attr-defined]
    for raw_length in (4 + 4 + 100, 0xFFFFFFFF):
        forger = Forger(ready)
        chunk = forger.chunk(b"\0" * 100)
        forger._chunks[DATA].clear()
        block = Block((chunk,), struct.pack(">BII", codec, raw_length, len(packed)), packed, 100)
        pack = forger.pack(DATA, block)
        forger.extra_packs = [IndexedPack(pack.sha256, pack.kind, pack.size, 100, pack.blocks)]
        bomb = row(b"bomb", FILE, chunk, size=100)
        snapshot = forger.snapshot(forger.segment(bomb, forger.file(b"sound", b"1")))
        assert restore_or_refuse(ready, snapshot)
        assert (ready.base / "target/sound").read_bytes() == b"1"
        assert not (ready.base / "target/bomb").exists()
        shutil.rmtree(ready.base / "target")
        assert not ready.verify().sound


def test_sizes_and_counts_that_cannot_be_cost_neither_time_nor_memory(ready: Sandbox) -> None:
    huge = (1 << 63) - 1
    forger = Forger(ready)
    chunk = forger.chunk(b"x" * 100)
    rows = [
        row(b"1", FILE, [[None, huge - 100], [chunk, 100]], size=huge),
        row(b"2", FILE, [[chunk, 1 << 50]], size=1 << 50),
        row(b"3", FILE, chunk, size=1 << 50),
        row(b"4", FILE, [[chunk, 100]] * 1000 + [[chunk, 0]], size=100_000),
        row(b"5", FILE, bytes(32), size=5),
        forger.file(b"6", b"sound"),
    ]
    snapshot = forger.snapshot(forger.segment(*rows))
    target = ready.base / "target"
    stop = threading.Timer(10, lambda: None)
    stop.start()
    begun = time.monotonic()
    report = ready.restore(snapshot, target, include=["/2", "/3", "/4", "/5", "/6"])
    assert time.monotonic() - begun < 30
    stop.cancel()
    assert {problem.path for problem in report.problems} == {b"/2", b"/3", b"/4", b"/5"}
    assert os.listdir(target) == ["6"]
    assert not ready.verify().sound


def test_a_hole_larger_than_any_disk_can_be_interrupted(ready: Sandbox) -> None:
    from keyark.errors import InterruptedByUser
    from keyark.operation import CancelToken, Context
    from keyark.recovery.model import RestoreRequest
    from keyark.recovery.restore import restore

    forger = Forger(ready)
    size = 1 << 42
    snapshot = forger.snapshot(forger.segment(row(b"hole", FILE, [[None, size]], size=size)))
    cancel = CancelToken()
    timer = threading.Timer(0.5, cancel.cancel)
    timer.start()
    context = Context(clock=ready.clock, cancel=cancel)
    with ready.open() as repository:
        try:
            report = restore(repository, RestoreRequest(snapshot, os.fsencode(ready.base / "target")), context)
        except InterruptedByUser:
            return
        assert report.problems, "a file system that takes no such size refuses it outright"
    timer.cancel()


@pytest.mark.parametrize("top", ["keys", "marks", "snapshots", "packlists", "index", "wraps", "packs", "README.txt"])
def test_an_object_of_a_terabyte_is_a_finding_and_not_the_end(ready: Sandbox, top: str) -> None:
    source = fill(ready.base / "source", {"a": os.urandom(2000)})
    ready.backup(source)
    names = ready.objects(top) if top != "README.txt" else [top]
    path = Path(ready.location) / (names[0] if names else f"marks/{'0' * 64}")
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.truncate(1 << 40)
    code, errors, peak = limited(ready, "verify", "--read-data")
    assert code == 13, errors
    assert path.name[:40] in errors
    assert peak < LIMIT + (256 << 20)


@pytest.mark.root
def test_what_no_system_call_takes_is_a_problem_of_that_object_and_not_of_the_restore(ready: Sandbox) -> None:
    forger = Forger(ready)
    rows = [
        row(b"a link", SYMLINK, b"nul\0inside"),
        row(b"a owner", FIFO, None, uid=1 << 40),
        row(b"a time", FIFO, None, mtime=-(1 << 63)),
        row(b"block", BLOCK, os.makedev(7, 250)),
        row(b"char", CHAR, os.makedev(1, 3)),
        row(b"device", CHAR, (1 << 63) - 1),
        row(b"fifo", FIFO, None),
        row(b"folder", DIR, [forger.segment(forger.file(b"x", b"1"))], uid=1 << 40),
        forger.file(b"sound", b"1"),
        row(b"xattr", FIFO, None, extra={"x": {b"security.nonsense": b"1", b"user.\0": b"2"}}),
    ]
    report = ready.restore(forger.snapshot(forger.segment(*rows)), ready.base / "target")
    assert {"block", "char", "fifo", "sound", "folder"} <= set(os.listdir(ready.base / "target"))
    assert {b"/a link", b"/a owner", b"/xattr"} <= {problem.path for problem in report.problems}
    assert not [name for name in os.listdir(ready.base / "target") if name.startswith(".")]


@pytest.mark.parametrize("number", [0, 7777, 1 << 32, (1 << 63) - 1])
def test_key_generations_that_cannot_be_stop_nobody_else(ready: Sandbox, number: int) -> None:
    source = fill(ready.base / "source", {"a": os.urandom(2000)})
    sound = ready.backup(source)
    forger = Forger(ready)
    chunk = forger.chunk(b"x")
    forger.key_number = number
    builder = BlockBuilder()
    builder.add(chunk, b"x")
    pack = forger.pack(DATA, builder.compress(parse_compression("zstd")))
    forger.index([indexed(pack)])
    forger.repository.close()
    (source / "b").write_bytes(os.urandom(100))
    ready.backup(source)
    report = ready.verify()
    named = {item.object.partition("/")[0] for item in report.findings if item.fatal}
    assert named == (set() if number == 7777 else {"packs", "index"})  # perhaps of a keyring still on its way to us
    assert ready.restore(sound.snapshot_id, ready.base / "target").problems == ()
    assert ready.verify(repair_index=True).index_repaired == (number != 7777)
