"""Local storage, its decorators, and the conformance suite itself."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from keyark.clock import SystemClock
from keyark.errors import (
    DamagedError,
    ObjectExists,
    ObjectNotFound,
    RepositoryNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    UsageError,
)
from keyark.storage.conformance import Conformance
from keyark.storage.decorators import Forwarding, Logging, ReadOnly, Retrying
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage, translate
from keyark.storage.location import open_storage, without_credentials
from keyark.storage.protocol import check_name
from support import AS_ROOT, FakeClock


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "store"), create=True)


def test_local_storage_conforms(local: LocalStorage) -> None:
    results = dict(Conformance(local).run())
    assert len(results) >= 11
    assert {name: failure for name, failure in results.items() if failure} == {}
    assert list(local.list()) == [], "it cleans up"


def test_local_storage_conforms_where_there_are_no_hard_links(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    local.put("probe", b"")
    assert not local.capabilities().create_only
    assert {name: failure for name, failure in Conformance(local).run() if failure} == {}


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("put", "create_only_refuses_a_second_put"),
        ("get", "ranges"),
        ("list", "list_shows_names_and_sizes_below_a_prefix"),
        ("delete", "delete_removes"),
    ],
)
def test_the_conformance_suite_finds_a_broken_storage(local: LocalStorage, broken: str, check: str) -> None:
    class Broken(Forwarding):
        def put(self, name: str, data: object, **options: object) -> None:  # type: ignore[override]
            super().put(name, data, **({**options, "create_only": False} if broken == "put" else options))  # type: ignore[arg-type]

        def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
            return super().get(name, 0 if broken == "get" else start, length)

        def list(self, prefix: str = ""):  # type: ignore[no-untyped-def]
            return iter(list(super().list(prefix))[: 1 if broken == "list" else None])

        def delete(self, name: str) -> None:
            if broken != "delete":
                super().delete(name)

    assert dict(Conformance(Broken(local)).run())[check] is not None


def test_the_conformance_program_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "keyark.storage.conformance", str(tmp_path / "x")]
    assert subprocess.run(command, check=True, capture_output=True).stdout.count(b"ok ") >= 11


def test_files_and_folders_are_private(local: LocalStorage) -> None:
    old = os.umask(0)
    try:
        local.put("a/b/c", b"x")
    finally:
        os.umask(old)
    root = Path(local.path)
    assert {oct(path.stat().st_mode & 0o777) for path in (root / "a", root / "a/b")} == {"0o700"}
    assert (root / "a/b/c").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", ".hidden", "a//b", "a/", "a\0b", "a/.tmp-x", "ü"]
)
def test_names_that_are_not_plain_are_refused(local: LocalStorage, name: str) -> None:
    with pytest.raises(StorageError):
        check_name(name)
    with pytest.raises(StorageError):
        local.get(name)


def test_links_planted_in_the_storage_are_not_followed(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"outside")
    (Path(local.path) / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedError):
        local.get("link")
    with pytest.raises(ObjectExists):
        local.put("link", b"x")
    local.put("link", b"mine", create_only=False)
    assert (tmp_path / "outside").read_bytes() == b"outside"
    os.mkfifo(Path(local.path) / "fifo")
    with pytest.raises(DamagedError):
        local.get("fifo")


def test_an_interrupted_put_leaves_nothing(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        local.put("x", b"data")
    assert os.listdir(local.path) == []


def test_every_put_is_synced_before_it_is_named_and_its_folder_after(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        events.append("sync " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        real_fsync(descriptor)

    def link(*arguments: str, **options: bool) -> None:
        events.append("link")
        real_link(*arguments, **options)

    local.put("first", b"")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    local.put("x", b"data")
    assert events == ["sync file", "link", "sync folder"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (2, ObjectNotFound),
        (17, ObjectExists),
        (28, StorageFull),
        (122, StorageFull),
        (13, StorageDenied),
        (30, StorageDenied),
        (5, StorageError),
    ],
)
def test_errors_of_the_system_become_ours(number: int, kind: type[StorageError]) -> None:
    assert type(translate(OSError(number, os.strerror(number)), "x")) is kind


def test_a_folder_without_permission_is_denied() -> None:
    with tempfile.TemporaryDirectory(prefix="keyark-test-") as folder:
        locked = Path(folder) / "locked"
        locked.mkdir(mode=0o500)
        Path(folder).chmod(0o755)
        if AS_ROOT:  # root may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(StorageDenied):
                LocalStorage(str(locked / "sub"), create=True)
        finally:
            if AS_ROOT:
                os.seteuid(0)


def test_locations(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound):
        open_storage(str(tmp_path / "absent"))
    assert open_storage(f"file://{tmp_path}/with%20space", create=True).location == f"{tmp_path}/with space"
    for location, hint in (
        ("", "empty"),
        ("s3://key:secret@bucket/x?token=abc", "no s3 storage yet"),
        ("gopher://x", "unknown"),
        ("file://host/x", "file:///path"),
    ):
        with pytest.raises(UsageError, match=hint) as caught:
            open_storage(location)
        assert "secret" not in str(caught.value)
        assert "token" not in str(caught.value)
    assert without_credentials("sftp://me:pw@host:22/p?x=y") == "sftp://host:22/p"


def test_read_only_refuses_changes(local: LocalStorage) -> None:
    local.put("x", b"1")
    storage = ReadOnly(local)
    assert storage.get("x") == b"1"
    for call in (lambda: storage.put("y", b""), lambda: storage.delete("x")):
        with pytest.raises(StorageDenied):
            call()


def test_logging_names_objects_and_never_shows_content(local: LocalStorage, caplog: pytest.LogCaptureFixture) -> None:
    storage = Logging(local, logging.getLogger("test"))
    with caplog.at_level(logging.DEBUG, "test"):
        storage.put("x", b"content")
        storage.get("x")
        list(storage.list())
        storage.delete("x")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["put", "get", "list", "delete"]
    assert "content" not in caplog.text


def test_retrying_waits_longer_each_time_and_gives_up(local: LocalStorage) -> None:
    pauses: list[float] = []

    class Clock(SystemClock):
        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)

    def fail(operation: str, name: str) -> None:
        raise StorageError("down")

    with pytest.raises(StorageError, match="down"):
        Retrying(FaultInjecting(local, before=fail), Clock()).get("x")
    assert pauses == [0.2, 0.4, 0.8, 1.6]
    with pytest.raises(ObjectNotFound):
        Retrying(local, Clock()).get("absent")
    assert len(pauses) == 4, "what is not there will not come"


def test_a_create_only_put_whose_answer_was_lost_succeeds_and_a_foreign_object_does_not(local: LocalStorage) -> None:
    lost = []

    def lose(name: str) -> bool:
        lost.append(name)
        return len(lost) == 1

    storage = Retrying(FaultInjecting(local, lose_answer=lose), FakeClock())
    storage.put("x", [b"da", b"ta"])
    assert local.get("x") == b"data"
    with pytest.raises(ObjectExists):
        storage.put("x", b"data")


# -- durability --------------------------------------------------------------------------------------------------------


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which they are synced from now on."""
    paths: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_every_new_folder_is_synced_into_its_parent_also_those_that_a_killed_process_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = synced(monkeypatch)
    LocalStorage(str(tmp_path / "a/b"), create=True)
    assert paths == [str(tmp_path), str(tmp_path / "a")]
    (tmp_path / "a/b/packs/ab").mkdir(parents=True)  # and killed before it synced anything
    paths.clear()
    LocalStorage(str(tmp_path / "a/b")).put("packs/ab/x", b"1")
    assert str(tmp_path / "a/b") in paths
    assert str(tmp_path / "a/b/packs") in paths
    assert paths[-1] == str(tmp_path / "a/b/packs/ab")


def test_exists_means_that_it_is_durable(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put("a/x", b"1")
    paths = synced(monkeypatch)
    with pytest.raises(ObjectExists):
        local.put("a/x", b"1")
    assert paths[-1] == str(Path(local.path) / "a")


def test_a_folder_that_cannot_be_synced_fails_the_put(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put("a/x", b"1")
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(5, os.strerror(5))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="Input/output"):
        local.put("a/y", b"1")
    with pytest.raises(StorageError, match="Input/output"):
        local.put("a/x", b"1")


def test_a_link_whose_answer_the_network_lost_counts_as_made(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(*arguments: str, **options: bool) -> None:
        real(*arguments, **options)
        raise FileExistsError(17, "exists")  # NFS sends the request once more

    monkeypatch.setattr(os, "link", link)
    local.put("x", b"data")
    assert local.get("x") == b"data"
    assert os.listdir(local.path) == ["x"]


def test_a_folder_that_was_unmounted_is_unreachable_and_not_empty(local: LocalStorage, tmp_path: Path) -> None:
    local.put("a/x", b"1")
    os.rename(local.path, tmp_path / "moved")
    calls = [
        lambda: local.get("a/x"),
        lambda: local.stat("a/x"),
        lambda: local.delete("a/x"),
        lambda: local.put("b/y", b"2"),
        lambda: list(local.list("a/")),
    ]
    for mount_point_is_there in (False, True):
        if mount_point_is_there:
            os.mkdir(local.path)
        for call in calls:
            with pytest.raises(StorageError, match="gone or was unmounted"):
                call()
        assert not os.path.exists(local.path) or os.listdir(local.path) == []


def test_leftovers_of_killed_puts_are_no_objects_and_go_when_they_are_old(local: LocalStorage) -> None:
    local.put("a/x", b"1")
    for name, age in (("a/.tmp-old", 90_000), (".tmp-old", 90_000), ("a/.tmp-young", 10), ("a/.other", 90_000)):
        path = Path(local.path) / name
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert [info.name for info in local.list()] == ["a/x"]
    assert local.remove_leftovers(SystemClock().now_ns() - 86_400 * 10**9) == 2
    assert sorted(os.listdir(Path(local.path) / "a")) == [".other", ".tmp-young", "x"]
    with pytest.raises(StorageDenied):
        ReadOnly(local).remove_leftovers(0)


def test_a_delete_whose_answer_was_lost_is_done(local: LocalStorage) -> None:
    class Lossy(Forwarding):
        def delete(self, name: str) -> None:
            super().delete(name)
            raise StorageError("the connection broke before the answer")

    local.put("x", b"1")
    Retrying(Lossy(local), FakeClock()).delete("x")
    with pytest.raises(ObjectNotFound):
        Retrying(local, FakeClock()).delete("x")
