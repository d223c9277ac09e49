"""Canaries planted in sources, passphrases, key files and the environment turn up nowhere but where they were planted."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.driver import install
from support import fill

VERBOSE = ("--debug", "-v")


class Watch:
    """Runs `keyark` in a world of its own and remembers everything it said and showed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.canaries: dict[str, bytes] = {}
        self.said: list[tuple[str, bytes]] = []
        for folder in ("home", "tmp", "state", "cache"):
            (base / folder).mkdir()
        install(base / "plugin")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(base / "home"),
            "TMPDIR": str(base / "tmp"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(base / "plugin"), os.environ.get("PYTHONPATH")])),
            "KEYARK_STATE_DIR": str(base / "state"),
            "KEYARK_CACHE_DIR": str(base / "cache"),
            "VAULT_TOKEN": self.canary("environment"),
            "AWS_SECRET_ACCESS_KEY": self.canary("cloud key"),
        }

    def canary(self, where: str) -> str:
        text = "CANARY" + os.urandom(12).hex()
        self.canaries[where] = text.encode()
        return text

    def run(self, *arguments: str, kill_after: float | None = None) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyark.cli.main", *VERBOSE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.base / "home",
        )
        if kill_after is not None:
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        else:
            self._look_at(process)
        output, errors = process.communicate(timeout=60)
        command = " ".join(arguments)
        self.said += [(f"output of {command}", output), (f"errors of {command}", errors)]
        return process.returncode

    def _look_at(self, process: subprocess.Popen[bytes]) -> None:
        """What other users of the machine see while it runs."""
        while process.poll() is None:
            for name in ("cmdline", "comm", "status", "wchan"):
                try:
                    self.said.append((f"/proc/PID/{name}", Path(f"/proc/{process.pid}/{name}").read_bytes()))
                except OSError:
                    return
            time.sleep(0.05)

    def assert_nothing_leaked(self, *folders: Path, names_too: bool = True) -> None:
        files = [(str(path), path.read_bytes()) for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert files
        for where, data in [*files, *self.said]:
            for label, secret in self.canaries.items():
                if label == "file name" and not where.startswith(str(self.base)):
                    continue  # names are shown to whoever holds the key
                forms = (secret, secret.hex().encode(), base64.b64encode(secret)[:-4], secret[::-1])
                assert not any(form in data for form in forms), f"the {label} turned up in {where}"


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_canaries_turn_up_nowhere(watch: Watch) -> None:
    base = watch.base
    name = watch.canary("file name")
    source = fill(
        base / "source",
        {
            "small.key": watch.canary("small file").encode(),
            f"{name}/{name}.pem": b"-----BEGIN PRIVATE KEY-----\n" + watch.canary("private key").encode(),
            "large.key": watch.canary("large file").encode() * 40_000,
            ".env": b"PASSWORD=" + watch.canary("dot env").encode(),
        },
    )
    (source / "link").symlink_to(watch.canary("link target"))
    os.setxattr(source / "small.key", "user.note", watch.canary("attribute").encode())
    secrets = fill(
        base / "given",
        {
            "password": watch.canary("passphrase").encode() + b"\n",
            "paper": watch.canary("second passphrase").encode() + b"\n",
            "third": watch.canary("third passphrase").encode() + b"\n",
            "wrong": watch.canary("wrong passphrase").encode() + b"\n",
        },
    )
    for path in secrets.iterdir():
        path.chmod(0o600)
    repository, key = base / "repository", base / "given/master.key"
    password = ("--password-file", str(secrets / "password"))
    paper = ("--password-command", f"cat {secrets / 'paper'}")
    key_file = ("--key-file", str(key))
    wrong = str(secrets / "wrong")

    def expect(codes: tuple[int, ...], *arguments: str) -> None:
        code = watch.run("-r", str(repository), *arguments)
        assert code in codes, (arguments, code, watch.said[-1][1])

    ways = ("--new-password-file", str(secrets / "password"), "--recovery-passphrase-file", str(secrets / "paper"))
    expect((0,), "init", *ways, "--key-derivation", "PBKDF2-SHA256", "--iterations", "1000")
    expect((0,), "backup", str(source))
    expect((0,), *password, "--json", "snapshots")
    expect((0,), *password, "ls", "latest")
    expect((0,), *password, "key", "add", "--new-key-file", str(key))
    watch.canaries["master key"] = key.read_bytes().strip()
    expect((0,), *paper, "--json", "verify", "--read-data")
    expect((0,), *paper, "key", "rotate")
    expect((0,), *key_file, "find", "*.key")
    expect((0, 1), *key_file, "doctor")
    expect((0,), "--json", "backup", str(source))
    expect((0,), *password, "writer", "add", "host", "-o", str(base / "given/host.credential"))
    # What goes wrong says more than what goes well.
    expect((12,), "--password-file", wrong, "ls", "latest")
    for option in ("--identity", "--key-file", "--credential", "--config"):
        expect((2, 12, 13, 15), option, wrong, "ls", "latest")
    expect((2,), *password, "restore", "latest", "--target", str(base / "given"))
    for path in sorted((repository / "packs").rglob("*/*")):
        data = path.read_bytes()
        path.write_bytes(data[:1500] + bytes(len(data) - 1500))
    expect((13,), *password, "restore", "latest", "--target", str(base / "target"))
    expect((13,), *password, "verify", "--read-data")
    cmdlines = [data for where, data in watch.said if where == "/proc/PID/cmdline"]
    assert len(cmdlines) > 15
    # Credentials in a location stand on the command line, where the user put them, and nowhere else.
    watch._look_at = lambda process: None  # type: ignore[method-assign]
    location = f"s3://user:{watch.canary('location')}@host/x?token={watch.canary('query')}"
    assert watch.run("-r", location, "snapshots") == 2
    watch.said = [("messages", data) for _, data in watch.said]
    watch.assert_nothing_leaked(repository, base / "state", base / "cache", base / "home", base / "tmp")


def test_killed_processes_leave_no_secret_behind(watch: Watch) -> None:
    base = watch.base
    files = {f"{number}": watch.canary(f"file {number}").encode() * 2000 for number in range(30)}
    source = fill(base / "source", files)
    key = base / "master.key"
    here = ("-r", str(base / "repository"))
    assert watch.run(*here, "init", "--new-key-file", str(key), "--i-accept-a-single-key") == 0
    for attempt in range(4):
        (source / "0").write_bytes(watch.canary("changed file").encode() * (2000 + attempt))
        watch.run(*here, "backup", str(source), kill_after=0.25 + 0.15 * attempt)
    assert watch.run(*here, "backup", str(source)) == 0
    watch.run(*here, "--key-file", str(key), "verify", "--read-data", kill_after=0.6)
    watch.run(*here, "--key-file", str(key), "key", "rotate", kill_after=0.6)
    watch.canaries["master key"] = key.read_bytes().strip()
    watch.assert_nothing_leaked(base / "repository", base / "state", base / "cache", base / "home", base / "tmp")


def test_an_error_nobody_foresaw_shows_no_secret_in_its_traceback(watch: Watch) -> None:
    (watch.base / "plugin/keyark_faulty.py").write_text(
        "from keyark.storage.local import LocalStorage\n"
        "class Broken(LocalStorage):\n"
        "    def list(self, prefix=''):\n"
        "        raise RuntimeError('a bug')\n"
        "def open_faulty(location, *, create=False, options=None):\n"
        "    return Broken(location.partition('://')[2], create=create)\n"
    )
    password = watch.base / "password"
    password.write_text(watch.canary("passphrase"))
    password.chmod(0o600)
    (watch.base / "repository").mkdir()
    code = watch.run("-r", f"faulty://{watch.base / 'repository'}", "--password-file", str(password), "snapshots")
    assert code == 1
    assert b"RuntimeError" in watch.said[-1][1]
    assert b"internal error" in watch.said[-1][1]
    (watch.base / "state/x").touch()
    watch.assert_nothing_leaked(watch.base / "state")


def test_no_core_is_dumped_and_nobody_else_may_trace(tmp_path: Path) -> None:
    """Read from the outside, in the middle of a run."""
    watch = Watch(tmp_path)
    key = tmp_path / "master.key"
    here = ("-r", str(tmp_path / "repository"))
    assert watch.run(*here, "init", "--new-key-file", str(key), "--i-accept-a-single-key") == 0
    source = fill(tmp_path / "source", {"a": b"1"})
    slow = f"faulty://{tmp_path / 'repository'}?delay=0.4&operations=put"
    process = subprocess.Popen(
        [sys.executable, "-m", "keyark.cli.main", "-r", slow, "backup", "-q", str(source)], env=watch.environment
    )
    time.sleep(1.2)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    process.kill()
    process.wait()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]
    program = (
        "import ctypes; from keyark.cli.main import harden; harden(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    dumpable = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=watch.environment)
    assert dumpable.stdout.strip() == b"0"
