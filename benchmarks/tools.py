"""The tools that are compared, each with its repository, caches and home in one folder of its own on the same tmpfs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from measure import BenchError, Cost, output_of, run
from sources import Source, count

_OURS = ("KEYARK_", "RESTIC_", "BORG_", "XDG_", "AGE_", "ZSTD_", "TAR_", "TMPDIR", "PYTHON")
_PASSWORD = "benchmark"  # of repositories that live for minutes and hold random data


class Tool:
    """One tool. ``steps`` are first, second, restore, verify and list; a tool may lack some."""

    name: str

    def __init__(self, folder: Path, program: str) -> None:
        self.base = folder / f"tool-{self.name}"
        self.program = program
        self.repository = self.base / "repository"
        self.out = self.base / "out"
        # Nothing of the caller's own configuration counts, and bytecode may be written: a user's machine has it.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environment |= {"HOME": str(self.base / "home"), "TMPDIR": str(self.base / "tmp")}

    def command(self, step: str, source: Source) -> list[str] | None:
        """The command line of a step; None when the tool has no such thing."""
        raise NotImplementedError

    def versions(self) -> str:
        """Name and version, as its users know it."""
        raise NotImplementedError

    def init(self) -> None:
        """Make an empty repository."""
        raise NotImplementedError

    def fresh(self) -> None:
        """Everything from before is gone, an empty repository is there."""
        self.wipe()
        for name in ("home", "tmp", "out"):
            (self.base / name).mkdir(parents=True)
        self.init()

    def wipe(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def run(self, *command: str) -> Cost:
        return run(command, self.environment, self.out, self.base / "log")

    def step(self, step: str, source: Source) -> Cost | None:
        """Run a step and measure it. A restore goes to an empty folder and must bring every file back."""
        command = self.command(step, source)
        if command is None:
            return None
        cost = self.run(*command)
        if step == "restore":
            found = count(self.out)
            if found != (source.files, source.size):
                raise BenchError(
                    f"{self.name} restored {found} files and bytes in place of {(source.files, source.size)}"
                )
            shutil.rmtree(self.out)
            self.out.mkdir()
        return cost

    def repository_size(self) -> int:
        return count(self.repository)[1]


class Keyark(Tool):
    """Backups go with the writer's credential that `init` left on the machine, everything else with the key file."""

    name = "keyark"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, program)
        self.key = self.base / "master.key"
        self.environment |= {
            "KEYARK_REPOSITORY": str(self.repository),
            "KEYARK_STATE_DIR": str(self.base / "state"),
            "KEYARK_CACHE_DIR": str(self.base / "cache"),
        }

    def init(self) -> None:
        self.run(self.program, "init", "--new-key-file", str(self.key), "--i-accept-a-single-key")

    def command(self, step: str, source: Source) -> list[str] | None:
        key = ["--key-file", str(self.key)]
        match step:
            case "first" | "second":
                return [self.program, "backup", "-q", "--compression", "zstd:3", str(source.path)]
            case "restore":
                return [self.program, *key, "restore", "-q", "latest", "--target", str(self.out)]
            case "verify":
                return [self.program, *key, "verify", "-q", "--read-data"]
            case "list":
                return [self.program, *key, "snapshots"]
        return None

    def versions(self) -> str:
        return f"{output_of([self.program, '--version'])} (Python {sys.version.split()[0]})"

    def verbs(self) -> list[str]:
        """Every verb that `keyark --help` names."""
        lines = output_of([self.program, "--help"], self.environment).split("\n")
        verbs = lines[lines.index("Verbs:") + 1 :]
        return [line.split()[0] for line in verbs[: verbs.index("")]]


class Restic(Tool):
    """Repository format 2. Its compression has no levels: auto, the default, is its zstd default, which equals level 3."""

    name = "restic"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, program)
        self.environment |= {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": str(self.base / "cache"),
        }

    def init(self) -> None:
        self.run(self.program, "init", "-q", "--repository-version", "2")

    def command(self, step: str, source: Source) -> list[str] | None:
        match step:
            case "first" | "second":
                return [self.program, "backup", "-q", "--compression", "auto", str(source.path)]
            case "restore":
                return [self.program, "restore", "-q", "latest", "--target", str(self.out)]
            case "verify":
                return [self.program, "check", "-q", "--read-data"]
            case "list":
                return [self.program, "snapshots"]
        return None

    def versions(self) -> str:
        return " ".join(output_of([self.program, "version"], self.environment).split()[:2])


class Borg(Tool):
    """Encryption ``repokey`` (AES-CTR with HMAC-SHA-256) or ``repokey-blake2``; the first is faster where SHA is in hardware."""

    name = "borg"
    encryption = "repokey"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder, program)
        self.backups = 0
        self.environment |= {
            "BORG_REPO": str(self.repository),
            "BORG_PASSPHRASE": _PASSWORD,
            "BORG_BASE_DIR": str(self.base / "home"),
        }

    def init(self) -> None:
        self.backups = 0
        self.run(self.program, "init", "--encryption", self.encryption)

    def command(self, step: str, source: Source) -> list[str] | None:
        match step:
            case "first" | "second":
                self.backups += 1
                return [self.program, "create", "--compression", "zstd,3", f"::{self.backups}", str(source.path)]
            case "restore":
                return [self.program, "extract", f"::{self.backups}"]  # into the current folder
            case "verify":
                return [self.program, "check", "--verify-data"]
            case "list":
                return [self.program, "list"]
        return None

    def versions(self) -> str:
        return f"{output_of([self.program, '--version'], self.environment)} ({self.encryption})"


class Pipe(Tool):
    """`tar | zstd -3 -T0 | age`: no history, no index, no deduplication. The bar all the same."""

    name = "pipe"

    def init(self) -> None:
        self.repository.mkdir()
        self.run("age-keygen", "-o", str(self.base / "identity"))
        self.recipient = output_of(["age-keygen", "-y", str(self.base / "identity")])

    def command(self, step: str, source: Source) -> list[str] | None:
        archive = shlex.quote(str(self.repository / "archive.age"))
        match step:
            case "first":
                path = shlex.quote(str(source.path).lstrip("/"))
                return self._bash(f"tar -C / -c {path} | zstd -3 -T0 -q | age -r {self.recipient} -o {archive}")
            case "restore":
                identity = shlex.quote(str(self.base / "identity"))
                return self._bash(f"age -d -i {identity} {archive} | zstd -d -q | tar -x")
        return None

    @staticmethod
    def _bash(line: str) -> list[str]:
        return ["bash", "-o", "pipefail", "-c", line]

    def versions(self) -> str:
        tar = output_of(["tar", "--version"]).split("\n")[0].split()[-1]
        zstd = output_of(["zstd", "--version"]).split(" v")[1].split(",")[0]
        return f"tar {tar} | zstd {zstd} -3 -T0 | age {output_of(['age', '--version'])}"
