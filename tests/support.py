"""What many tests share: a sandbox with repository, keys and state of its own, and ways to compare trees."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keyark.backup.model import BackupReport, BackupRequest
from keyark.backup.run import backup
from keyark.clock import SystemClock
from keyark.crypto.slots import KeyFileSlot, generate_key_line
from keyark.operation import Context
from keyark.recovery.model import RestoreReport, RestoreRequest
from keyark.recovery.restore import restore
from keyark.repository.create import InitReport, InitRequest, NewSlot, init_repository
from keyark.repository.credentials import Credential, Credentials
from keyark.repository.open import open_repository
from keyark.repository.places import Places
from keyark.repository.repository import Repository
from keyark.secret import Secret
from keyark.storage.local import LocalStorage
from keyark.storage.protocol import Storage
from keyark.upkeep.model import VerifyReport, VerifyRequest
from keyark.upkeep.verify import verify

REQUIRE = os.environ.get("KEYARK_REQUIRE_SERVERS") == "1"
AS_ROOT = os.geteuid() == 0
# What makes coverage see processes that tests start.
COVERAGE = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}


class FakeClock(SystemClock):
    """A wall clock that tests set; sleeping takes no time."""

    def __init__(self, now_ns: int = 1_800_000_000 * 10**9) -> None:
        self.time_ns = now_ns

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        return

    def pass_days(self, days: float) -> None:
        self.time_ns += int(days * 24 * 3600 * 10**9)


@dataclass
class Sandbox:
    """One machine and one repository."""

    base: Path
    clock: SystemClock = field(default_factory=FakeClock)
    line: Secret = field(default_factory=generate_key_line)
    warnings: list[str] = field(default_factory=list)

    @property
    def location(self) -> str:
        return str(self.base / "repository")

    @property
    def places(self) -> Places:
        return self.places_of("machine")

    def places_of(self, machine: str) -> Places:
        return Places(str(self.base / machine / "state"), str(self.base / machine / "cache"))

    @property
    def context(self) -> Context:
        return Context(warn=self.warnings.append, clock=self.clock)

    def storage(self) -> LocalStorage:
        return LocalStorage(self.location)

    def init(self, *slots: NewSlot, **options: object) -> InitReport:
        chosen = slots or (NewSlot(KeyFileSlot(self.line), "master"),)
        request = InitRequest(chosen, accept_single_key=True, hostname="host", **options)  # type: ignore[arg-type]
        return init_repository(LocalStorage(self.location, create=True), request, self.places, self.context)

    @property
    def key(self) -> Credentials:
        return Credentials(key_lines=(self.line,))

    def open(
        self,
        credentials: Credentials | Credential | None = None,
        *,
        machine: str = "machine",
        storage: Storage | None = None,
        **options: bool,
    ) -> Repository:
        if isinstance(credentials, Credential):
            credentials = Credentials(credential=credentials)
        chosen = credentials if credentials is not None else self.key
        return open_repository(storage or self.storage(), chosen, self.places_of(machine), self.context, **options)

    def backup(
        self,
        *paths: Path,
        credentials: Credentials | Credential | None = None,
        machine: str = "machine",
        storage: Storage | None = None,
        accept_rollback: bool = False,
        **options: object,
    ) -> BackupReport:
        request = BackupRequest(paths=tuple(os.fsencode(path) for path in paths), **options)  # type: ignore[arg-type]
        chosen = credentials if credentials is not None else Credentials()
        with self.open(chosen, machine=machine, storage=storage, accept_rollback=accept_rollback) as repository:
            return backup(repository, request, self.context)

    def restore(
        self,
        snapshot: str | None,
        target: Path,
        *,
        machine: str = "machine",
        storage: Storage | None = None,
        **options: object,
    ) -> RestoreReport:
        accept = bool(options.pop("accept_rollback", False))
        with self.open(machine=machine, storage=storage, accept_rollback=accept) as repository:
            request = RestoreRequest(snapshot, os.fsencode(target), **options)  # type: ignore[arg-type]
            return restore(repository, request, self.context)

    def verify(
        self, credentials: Credentials | Credential | None = None, *, read_data: bool = True, **options: object
    ) -> VerifyReport:
        with self.open(credentials) as repository:
            return verify(repository, VerifyRequest(read_data=read_data, **options), self.context)  # type: ignore[arg-type]

    def objects(self, top: str = "") -> list[str]:
        return sorted(info.name for info in self.storage().list(f"{top}/" if top else ""))


def below(target: Path, source: Path) -> Path:
    """Where a source lands below a restore's target."""
    return target / str(source).lstrip("/")


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, making folders as needed."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def picture(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree that a restore must bring back."""
    result: dict[bytes, tuple[object, ...]] = {}
    links: dict[tuple[int, int], bytes] = {}
    root = os.fsencode(folder)
    for parent, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = os.path.join(parent, name)
            facts = os.lstat(path)
            kind = stat.S_IFMT(facts.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                content = facts.st_rdev
            first = links.setdefault((facts.st_dev, facts.st_ino), os.path.relpath(path, root))
            names = os.listxattr(path, follow_symlinks=False)
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in names}
            size = facts.st_size if kind == stat.S_IFREG else 0
            result[os.path.relpath(path, root)] = (
                kind,
                stat.S_IMODE(facts.st_mode),
                facts.st_uid,
                facts.st_gid,
                facts.st_mtime_ns,
                size,
                content,
                first if kind != stat.S_IFDIR else None,
                attributes,
            )
    return result


def keyark(
    *arguments: str, home: Path, stdin: bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own, with an empty environment."""
    return subprocess.run(
        [sys.executable, "-m", "keyark.cli.main", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        check=False,
        timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **COVERAGE, **environment},
    )


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(mode))


def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a helper program; its failure fails the test."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


@contextlib.contextmanager
def memory_disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs on ``folder``, made with these mount options (``size=6m``, ``nr_inodes=100``)."""
    folder.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", options, "keyark-test", str(folder)])
    try:
        yield folder
    finally:
        run(["umount", str(folder)])
