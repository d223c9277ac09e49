"""One machine, one repository, real processes of `keyark`, and what must hold after each of them was killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.driver import install
from faults.zygote import Child, Zygote
from keyark.clock import SystemClock
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, VerifyReport
from support import Sandbox, below, picture

# What a process that was killed may leave, and nothing else.
GARBAGE = (
    "in no snapshot; left by an interrupted backup",
    "of a slot that was removed, or whose making was interrupted",
    "sealed to somebody who was removed, or whose making was interrupted",
    "only needed by a snapshot that a later one replaces",
    "a later snapshot replaces this one",
)
KILLED = -signal.SIGKILL
KEEP = 2  # snapshots that a forget leaves


@dataclass
class Rig:
    """A sandbox with a source that changes, and a picture of what every snapshot must bring back."""

    base: Path
    rng: random.Random
    disk: Path | None = None  # where repository, state and caches lie, when not in ``base``
    sandbox: Sandbox = field(init=False)
    pictures: dict[str, object] = field(default_factory=dict)  # snapshot id -> what its restore must look like
    restored: int = 0
    zygote: Zygote | None = None
    errors: str = ""

    def __post_init__(self) -> None:
        self.sandbox = Sandbox(self.disk or self.base, clock=SystemClock())
        self.key_file = self.base / "master.key"
        self.source = self.base / "source"
        self.source.mkdir(parents=True)
        self.plugin = install(self.base / "plugin")
        self.sandbox.init()
        self.key_file.write_bytes(self.sandbox.line.reveal() + b"\n")
        self.key_file.chmod(0o600)
        for number in range(20):
            self._write(f"{number % 4}/{number}.key", self.rng.randrange(20, 4000))
        self._write("large", 700_000)
        self.backed_up()

    def _write(self, name: str, size: int) -> None:
        path = self.source / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.rng.randbytes(size))

    def change_source(self) -> None:
        """Some files change, one comes, one may go."""
        for _ in range(5):
            number = self.rng.randrange(40)
            self._write(f"{number % 4}/{number}.key", self.rng.randrange(20, 4000))
        if self.rng.random() < 0.5:
            self._write("large", self.rng.randrange(600_000, 900_000))
        if self.rng.random() < 0.5:
            next(iter(sorted(self.source.rglob("*.key")))).unlink()

    # -- processes -------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.plugin), os.environ.get("PYTHONPATH")])),
            "KEYARK_STATE_DIR": self.sandbox.places.state_dir,
            "KEYARK_CACHE_DIR": self.sandbox.places.cache_dir,
            "KEYARK_KEY_FILE": str(self.key_file),
        }

    def options(self, faults: str | None = None) -> list[str]:
        return ["-r", self.sandbox.location if faults is None else f"faulty://{self.sandbox.location}?{faults}"]

    def start(self, arguments: Sequence[str], faults: str | None = None) -> Child:
        """Start `keyark` in a process of its own."""
        self.zygote = self.zygote or Zygote(self.environment())
        return self.zygote.start([*self.options(faults), *arguments], self.environment(), self.base / "errors")

    def run(self, arguments: Sequence[str], faults: str | None = None) -> int:
        """Run to its end, however it comes; returns the exit code (-9 after SIGKILL)."""
        code = self.start(arguments, faults).wait()
        self.errors = (self.base / "errors").read_text()
        return code

    def run_wrapped(self, wrapper: Sequence[str], arguments: Sequence[str]) -> int:
        """As `run`, started by another program."""
        command = [*wrapper, sys.executable, "-m", "keyark.cli.main", *self.options(), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=self.environment(), check=False, timeout=120
        )
        self.errors = done.stderr.decode()
        return KILLED if done.returncode == 128 + signal.SIGKILL else done.returncode

    def close(self) -> None:
        if self.zygote is not None:
            self.zygote.close()

    def done(self, arguments: Sequence[str]) -> None:
        """Run and expect success."""
        code = self.run(arguments)
        assert code == 0, (arguments, code, self.errors)

    # -- what must hold --------------------------------------------------------------------------------------------

    def live(self) -> list[str]:
        with self.sandbox.open() as repository:
            return [item.id.hex() for item in repository.history("test").live]

    def backed_up(self) -> None:
        """Back up in this process; the newest snapshot then stands for the source as it is."""
        report = self.sandbox.backup(self.source)
        assert report.snapshot_id is not None
        self.pictures[report.snapshot_id] = picture(self.source)

    def forgotten(self, keep: int = KEEP) -> None:
        with self.sandbox.open() as repository:
            forget(repository, ForgetRequest(keep_last=keep, accept_rate=True), self.sandbox.context)
        for gone in set(self.pictures) - set(self.live()):
            del self.pictures[gone]

    def check(self, *, may_be_gone: bool = False, tolerated: Callable[[str], bool] = lambda _: False) -> VerifyReport:
        """Verify is clean or names only garbage; every snapshot that was there restores byte for byte.

        ``may_be_gone``: a forget was under way, so older snapshots may be forgotten already, but not the newest ones.
        A snapshot that nobody reported (its process died behind the put) must hold the source as it is now.
        """
        report = self.sandbox.verify(read_data=True)
        fatal = [item for item in report.findings if item.fatal and not tolerated(item.object)]
        assert not fatal, fatal
        notices = [item.what for item in report.findings if not item.fatal]
        strange = [what for what in notices if not any(allowed in what for allowed in GARBAGE)]
        assert not strange, strange
        live = self.live()
        required = list(self.pictures)[-KEEP:] if may_be_gone else list(self.pictures)
        assert set(required) <= set(live), "a snapshot is lost"
        for snapshot in live:
            expected = self.pictures.setdefault(snapshot, picture(self.source))
            assert self.restore(snapshot) == expected, f"{snapshot} came back changed"
        return report

    def restore(self, snapshot: str) -> object:
        self.restored += 1
        target = self.base / "target"
        report = self.sandbox.restore(snapshot, target, verify=True)
        assert report.problems == ()
        found = picture(below(target, self.source))
        shutil.rmtree(target)
        return found

    def leftovers(self) -> list[Path]:
        return list(Path(self.sandbox.location).rglob(".tmp-*"))


@dataclass(frozen=True)
class Action:
    """Something to be killed: what must be there before, the command, and what to check once it ran to its end."""

    name: str
    arguments: Callable[[Rig], list[str]]
    prepare: Callable[[Rig], None]
    may_be_gone: bool = False
    breaks_index: bool = False


def _enough_snapshots(rig: Rig) -> None:
    while len(rig.pictures) < KEEP + 2:
        rig.change_source()
        rig.backed_up()


def _something_to_prune(rig: Rig) -> None:
    _enough_snapshots(rig)
    rig.forgotten()


def _break_index(rig: Rig) -> None:
    names = rig.sandbox.objects("index")
    torn = Path(rig.sandbox.location) / names[0]
    torn.write_bytes(torn.read_bytes()[:50])
    for name in names[1:2]:
        (Path(rig.sandbox.location) / name).unlink()


ACTIONS = {
    action.name: action
    for action in (
        Action("backup", lambda rig: ["backup", "-q", str(rig.source)], Rig.change_source),
        Action(
            "forget",
            lambda _: ["forget", "-q", "--keep-last", str(KEEP), "--accept-rate"],
            _enough_snapshots,
            may_be_gone=True,
        ),
        Action("prune", lambda _: ["prune", "-q"], _something_to_prune),
        Action("rotate", lambda _: ["key", "rotate"], lambda _: None),
        Action("reseal", lambda _: ["key", "rotate", "--reseal"], _something_to_prune),
        Action("repair", lambda _: ["verify", "-q", "--repair-index"], _break_index, breaks_index=True),
    )
}


def settle(rig: Rig, action: Action) -> None:
    """After a kill: everything holds, and the same command then runs to its end and leaves everything in order."""
    rig.check(
        may_be_gone=action.may_be_gone,
        tolerated=(lambda name: name.startswith("index/")) if action.breaks_index else (lambda _: False),
    )
    rig.done(action.arguments(rig))
    if action.may_be_gone:
        live = set(rig.live())
        rig.pictures = {key: value for key, value in rig.pictures.items() if key in live}
        assert len(rig.pictures) == KEEP
    rig.check()
    if len(rig.pictures) > KEEP + 3:
        rig.forgotten()
