"""Forked processes that share the work of one operation.

Python threads cannot share work that consists of many small system calls; forked processes can, and start in a few
milliseconds. A child runs one function over one end of a socket and ends when that returns or its parent goes away. It never
returns into its parent's code, and Ctrl-C is its parent's to handle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from keyark.errors import KeyarkError

COUNT = 2  # processes that one operation uses


def can_fork() -> bool:
    """Whether there are cores for children and no other thread runs: a fork would leave it behind, its locks held."""
    return (os.cpu_count() or 1) > 1 and threading.active_count() == 1 and sys.platform == "linux"


class Child:
    """One forked process, seen from its parent. ``others`` are children that exist already; ``what`` names it in errors."""

    def __init__(self, work: Callable[[socket.socket], None], others: Sequence[Child], what: str) -> None:
        self._what = what
        self._ended, self._status = False, 0
        self.socket, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                for other in (*others, self):
                    other.socket.close()
                work(theirs)
                status = 0
            except BaseException:  # noqa: BLE001 - the parent sees the end, and says so
                status = 1
            finally:
                os._exit(status)
        theirs.close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turn a broken connection into an error that says how the process ended."""
        try:
            yield
        except ConnectionError as e:
            status = self.close()
            how = f"was killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "failed"
            raise KeyarkError(f"a process of this {self._what} {how}; nothing is lost, run it again") from e

    def receive(self, length: int) -> bytes:
        """Exactly ``length`` bytes; KeyarkError when the process ended before."""
        with self.watched():
            data = self.socket.recv(length, socket.MSG_WAITALL)
            if len(data) != length:
                raise ConnectionResetError
        return data

    def close(self) -> int:
        """Wait for the process, which ends since its connection does; returns its wait status."""
        self.socket.close()
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ChildProcessError):
                self._status = os.waitpid(self._pid, 0)[1]
        return self._status
