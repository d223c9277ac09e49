"""Running whole processes and what they cost: wall seconds, CPU seconds, peak memory, and how quiet the machine was."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_NOTICEABLE_SECONDS = 0.2  # /proc/stat counts in hundredths: shorter runs say nothing about others


class BenchError(Exception):
    """A measured program failed, or did not do what it was measured for."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process and all its children took.

    ``rss`` is the peak memory of the largest single process, in MB (10^6 bytes). ``others`` is how many cores other
    processes kept busy meanwhile, None when the run was too short to tell.
    """

    wall: float
    cpu: float
    rss: float
    others: float | None


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Cost:
    """Run ``command`` in ``folder``. Its output goes to ``log``; BenchError with the end of it when the command fails."""
    with log.open("wb") as output:
        busy = _busy_seconds()
        started = time.perf_counter()
        # A session of its own, so that a pipe can be stopped as a whole.
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall = time.perf_counter() - started
        busy = _busy_seconds() - busy
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        end = log.read_text(errors="replace")[-2000:].strip()
        raise BenchError(f"exit code {process.returncode}: {' '.join(command)}\n{end}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy - cpu) / wall if wall >= _NOTICEABLE_SECONDS else None
    return Cost(wall, cpu, usage.ru_maxrss * 1024 / 1e6, others)


def output_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The output of a command that is not measured."""
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return done.stdout.strip()


def _busy_seconds() -> float:
    """CPU seconds that all cores together have been busy since the start of the machine."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK
