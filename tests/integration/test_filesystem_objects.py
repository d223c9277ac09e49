"""The whole file system object comes back."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keyark.errors import UsageError
from support import Sandbox, below, fill, picture, run


def round_trip(ready: Sandbox, source: Path, **options: object) -> Path:
    report = ready.backup(source, **options)
    assert report.problems == ()
    target = ready.base / "target"
    restored = ready.restore("latest", target, verify=True)
    assert restored.problems == ()
    return below(target, source)


def same(source: Path, restored: Path) -> None:
    assert picture(restored) == picture(source)


def test_files_of_every_size_class_come_back(ready: Sandbox, tmp_path: Path) -> None:
    rng = os.urandom
    source = fill(
        tmp_path / "source",
        {
            "empty": b"",
            "one": b"x",
            "small": rng(4000),
            "whole limit": rng((512 << 10) - 1),
            "chunked": rng(512 << 10),
            "large": rng(20 << 20),
            "repeated": b"0123456789abcdef" * (1 << 18),
        },
    )
    same(source, round_trip(ready, source))


def test_modes_times_and_empty_folders_come_back(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "b": b"2", "sub/c": b"3"})
    (source / "empty").mkdir()
    (source / "a").chmod(0o4755)
    (source / "b").chmod(0o000)
    (source / "sub").chmod(0o1700)
    for number, path in enumerate([source / "a", source / "b", source / "sub/c", source / "sub", source / "empty"]):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789 + number))
    os.utime(source / "a", ns=(0, -5_000_000_001))  # before 1970
    same(source, round_trip(ready, source))


def test_symbolic_and_hard_links_come_back(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a/first": b"shared", "b/other": b"alone"})
    os.link(source / "a/first", source / "b/second")
    os.link(source / "a/first", source / "third")
    (source / "link").symlink_to("a/first")
    (source / "dangling").symlink_to("/nowhere/at all")
    (source / "loop").symlink_to("loop")
    os.link(source / "dangling", source / "dangling too", follow_symlinks=False)
    restored = round_trip(ready, source)
    same(source, restored)
    assert (restored / "third").stat().st_ino == (restored / "a/first").stat().st_ino


def test_names_that_are_not_utf8_or_printable_come_back(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (b"\xff\xfe.key", b"new\nline", b"esc\x1b[31m", "ümlaut".encode(), b"-rf", b" ", b"a" * 255):
        with open(os.path.join(os.fsencode(source), name), "wb") as file:
            file.write(name)
    same(source, round_trip(ready, source))


def test_a_path_longer_than_path_max_comes_back(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    descriptor = os.open(source, os.O_RDONLY)
    for _ in range(40):  # 40 x 201 bytes: no single path string reaches the bottom
        os.mkdir(b"d" * 200, dir_fd=descriptor)
        below_it = os.open(b"d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below_it
    with open(os.open(b"deep.key", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
        file.write(b"at the bottom")
    os.close(descriptor)
    restored = round_trip(ready, source)
    descriptor = os.open(restored, os.O_RDONLY)
    for _ in range(40):
        below_it = os.open(b"d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below_it
    with open(os.open(b"deep.key", os.O_RDONLY, dir_fd=descriptor), "rb") as file:
        assert file.read() == b"at the bottom"
    os.close(descriptor)


def test_thousands_of_nested_folders_do_not_exhaust_the_stack_or_descriptors(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    descriptor = os.open(source, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir(b"n", dir_fd=descriptor)
        below_it = os.open(b"n", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below_it
    os.close(descriptor)
    report = ready.backup(source)
    assert report.problems == ()
    restored = ready.restore("latest", ready.base / "target")
    assert restored.problems == ()
    assert restored.dirs_restored >= 3000
    subprocess.run(["rm", "-rf", source, ready.base / "target"], check=True)


def test_a_sparse_file_of_20_gb_stays_sparse_in_bounded_memory(ready: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "disk.img").open("wb") as file:
        file.write(b"head")
        file.seek(7 << 30)
        file.write(b"middle" * 1000)
        file.truncate(20 << 30)
    with (source / "hole.img").open("wb") as file:
        file.truncate(1 << 20)
    script = (  # VmHWM, since ru_maxrss is inherited from the process that started this one
        "import sys; from keyark.cli.main import main; code = main(sys.argv[1:]);"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1], file=sys.stderr); sys.exit(code)"
    )
    environment = {**os.environ, "KEYARK_STATE_DIR": ready.places.state_dir, "KEYARK_CACHE_DIR": ready.places.cache_dir}
    done = subprocess.run(
        [sys.executable, "-c", script, "-r", ready.location, "backup", str(source)],
        capture_output=True,
        check=True,
        env=environment,
        text=True,
    )
    assert int(done.stderr.split()[-1]) < 200 << 10  # KiB
    restored = ready.restore("latest", ready.base / "target")
    assert restored.problems == ()
    back = below(ready.base / "target", source)
    for name in ("disk.img", "hole.img"):
        old, new = (source / name).stat(), (back / name).stat()
        assert (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)
        assert new.st_blocks <= old.st_blocks + 16
    with (back / "disk.img").open("rb") as file:
        assert file.read(8) == b"head\0\0\0\0"
        file.seek((7 << 30) - 1)
        assert file.read(6002) == b"\0" + b"middle" * 1000 + b"\0"


@pytest.mark.root
@pytest.mark.program("setfacl")
def test_owners_attributes_acls_and_devices_come_back(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"owned": b"1", "acl": b"2", "attr": b"3", "dir/x": b"4"})
    os.chown(source / "owned", 12345, 23456)
    os.setxattr(source / "attr", "user.note", b"bytes \x00\xff")
    os.setxattr(source / "attr", "trusted.keyark", b"root only")
    os.setxattr(source / "attr", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    run(["setfacl", "-m", "u:1234:rw,g:4321:r", str(source / "acl")])
    run(["setfacl", "-d", "-m", "u:1234:rwx", str(source / "dir")])
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(source / "block", 0o660 | stat.S_IFBLK, os.makedev(7, 200))
    (source / "link").symlink_to("owned")
    os.chown(source / "link", 77, 88, follow_symlinks=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(source / "sock"))  # sockets are left out: nothing in them could come back
    try:
        restored = round_trip(ready, source)
    finally:
        listener.close()
    expected = picture(source)
    del expected[b"sock"]
    assert picture(restored) == expected


@pytest.mark.root
def test_owners_come_back_by_name_before_number(
    ready: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "source", {"file": b"1"})
    os.chown(source / "file", 2, 2)  # bin on every Debian
    ready.backup(source)
    import pwd

    real = pwd.getpwnam

    def moved(name: str) -> pwd.struct_passwd:
        entry = real(name)
        return (
            pwd.struct_passwd((*entry[:2], 4242, *entry[3:])) if name == entry.pw_name and entry.pw_uid == 2 else entry
        )

    monkeypatch.setattr(pwd, "getpwnam", moved)
    ready.restore("latest", ready.base / "target")
    facts = (below(ready.base / "target", source) / "file").stat()
    assert (facts.st_uid, facts.st_gid) == (4242, 2)


@pytest.mark.root
def test_unreadable_vanished_and_changing_files_are_named_and_the_rest_goes_on(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"a": b"1", "growing": b"x" * (1 << 20), "z": b"2"})
    missing = tmp_path / "never there"
    from keyark.backup import contents, walker
    from keyark.backup.frames import Frame

    real = contents.ContentReader.file

    def growing(
        self: contents.ContentReader, descriptor: int, facts: os.stat_result, group: tuple[int, int]
    ) -> contents.Contents:
        if facts.st_size >= 1 << 20:  # each time it is read, so that reading it once more does not help
            with (source / "growing").open("ab") as file:
                file.write(b"more")
        return real(self, descriptor, facts, group)

    listed = walker.Walker._file

    def vanishing(self: walker.Walker, frame: Frame, name: bytes, entry: os.DirEntry[str]) -> None:
        if name == b"z":
            (source / "z").unlink()
        listed(self, frame, name, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents.ContentReader, "file", growing)
        patch.setattr(walker.Walker, "_file", vanishing)
        report = ready.backup(source, missing)
    problems = {os.fsdecode(item.path): item.what for item in report.problems}
    assert problems == {
        str(source / "growing"): "changed while being read",
        str(source / "z"): "vanished",
        str(missing): "does not exist",
    }
    with ready.open() as repository:
        (snapshot,) = repository.history("test").live
        recorded = repository.open_content(snapshot).problems
        assert {os.fsdecode(path) for path, _ in recorded} == set(problems)
    restored = ready.restore("latest", ready.base / "target")
    assert restored.problems == ()
    assert (below(ready.base / "target", source) / "a").read_bytes() == b"1"


def test_excludes_follow_gitignore_syntax(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(
        tmp_path / "source",
        {
            "keep.key": b"",
            "drop.tmp": b"",
            "sub/drop.tmp": b"",
            "sub/keep.tmp": b"",
            "cache/x": b"",
            "sub/cache/y": b"",
            "only/here": b"",
        },
    )
    patterns = tmp_path / "patterns"
    patterns.write_text("# comment\n\ncache/\n")
    ready.backup(source, excludes=("*.tmp", "!keep.tmp", f"{source}/only"), exclude_files=(str(patterns),))
    ready.restore("latest", ready.base / "target")
    found = {os.fsdecode(path) for path in picture(below(ready.base / "target", source))}
    assert found == {"keep.key", "sub", "sub/keep.tmp"}


def test_a_folder_with_a_valid_cachedir_tag_is_left_out_but_for_the_tag(ready: Sandbox, tmp_path: Path) -> None:
    tag = b"Signature: 8a477f597d28d172789f06886806bc55\n"
    source = fill(
        tmp_path / "source",
        {"cache/CACHEDIR.TAG": tag, "cache/big": b"x", "fake/CACHEDIR.TAG": b"no signature", "fake/kept": b"y"},
    )
    ready.backup(source)
    ready.restore("latest", ready.base / "target")
    found = {os.fsdecode(path) for path in picture(below(ready.base / "target", source))}
    assert found == {"cache", "cache/CACHEDIR.TAG", "fake", "fake/CACHEDIR.TAG", "fake/kept"}


@pytest.mark.root
def test_one_file_system_does_not_enter_mounts(ready: Sandbox, tmp_path: Path) -> None:
    source = fill(tmp_path / "source", {"here": b"1"})
    (source / "mounted").mkdir()
    run(["mount", "-t", "tmpfs", "keyark-test", str(source / "mounted")])
    try:
        (source / "mounted/there").write_bytes(b"2")
        ready.backup(source, one_file_system=True)
        ready.backup(source)
    finally:
        run(["umount", str(source / "mounted")])
    with ready.open() as repository:
        ids = [item.id.hex() for item in sorted(repository.history("test").live, key=lambda item: item.head.sequence)]
    ready.restore(ids[0], ready.base / "one")
    ready.restore(ids[1], ready.base / "all")
    assert {os.fsdecode(p) for p in picture(below(ready.base / "one", source))} == {"here", "mounted"}
    assert {os.fsdecode(p) for p in picture(below(ready.base / "all", source))} == {"here", "mounted", "mounted/there"}


def test_the_repository_itself_is_never_backed_up(ready: Sandbox) -> None:
    fill(ready.base / "machine", {"x": b"1"})
    ready.backup(ready.base)
    ready.backup(ready.base)
    ready.restore("latest", ready.base / "target")
    found = {os.fsdecode(path) for path in picture(below(ready.base / "target", ready.base))}
    assert not any(path.startswith("repository") for path in found)
    assert "machine/x" in found


def test_a_single_file_and_several_sources_land_under_their_own_paths(ready: Sandbox, tmp_path: Path) -> None:
    fill(tmp_path, {"one/file.key": b"1", "two/file.key": b"2", "two/other": b"3"})
    ready.backup(tmp_path / "one/file.key", tmp_path / "two")
    ready.restore("latest", ready.base / "target")
    found = {os.fsdecode(path) for path in picture(below(ready.base / "target", tmp_path))}
    assert found == {"one", "one/file.key", "two", "two/file.key", "two/other"}


def test_nothing_to_back_up_is_a_usage_error(ready: Sandbox, tmp_path: Path) -> None:
    before = ready.objects()
    with pytest.raises(UsageError, match="does not exist; nothing was backed up"):
        ready.backup(tmp_path / "absent")
    assert ready.objects() == before
