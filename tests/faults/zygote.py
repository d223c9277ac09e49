"""Starts `keyark` fast: one process imports everything once, then forks a child of its own for every command line.

Each child is a process like any other (own memory, files and threads), so killing it is killing `keyark`; only the half second
in which Python starts is saved. Requests come as JSON lines on standard input: ``{"arguments": [...], "environment": {...}}``;
the answer to each is the child's number and, asked for by another line, its wait status.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """A running command line."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; negative for a signal. Until then the process's number is not given away, so `kill` is safe."""
        self._zygote.send("wait")
        return os.waitstatus_to_exitcode(int(self._zygote.line()))


class Zygote:
    """One command line at a time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{Path(__file__).parent.parent}"},
            text=True,
            bufsize=1,
        )
        assert self.line() == "ready"

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], errors: Path, output: Path | None = None
    ) -> Child:
        request = {"arguments": list(arguments), "environment": dict(environment), "errors": str(errors)}
        request["output"] = os.devnull if output is None else str(output)
        self.send(json.dumps(request))
        return Child(self, int(self.line()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def _load() -> None:
    from keyark.cli.main import VERBS

    for module, _ in VERBS.values():
        importlib.import_module(f"keyark.cli.verbs.{module}")
    for name in ("keyark.backup.run", "keyark.recovery.restore", "keyark.upkeep.verify", "keyark.upkeep.prune"):
        importlib.import_module(name)


def _child(request: dict[str, object]) -> None:
    from keyark.cli.main import main

    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    code = 1
    try:
        code = main(request["arguments"])  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    _load()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(request)
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    _serve()
