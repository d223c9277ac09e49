"""Restoring many small files with forked processes: each takes a share of the blocks, checks and writes what lies in them."""

from __future__ import annotations

import mmap
import selectors
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgpack

from keyark import errors
from keyark.children import Child
from keyark.errors import KeyarkError

LEAST = 2000  # files; below, starting processes costs more than it gives

# A share's work: told whether to stop, it sends what happened, one message after the other.
Send = Callable[[list[Any]], None]
Work = Callable[[Callable[[], bool], Send], None]


class Crew:
    """Processes at work on one share each, while their parent goes on. ``received`` gets what they send."""

    def __init__(self, shares: Sequence[Work], received: Callable[[list[Any]], None]) -> None:
        self._received = received
        self._stop = mmap.mmap(-1, 1)
        self._children: list[Child] = []
        try:
            for work in shares:
                self._children.append(Child(partial(_run, work, self._stopped), self._children, "restore"))
        except BaseException:
            self.close()
            raise

    def _stopped(self) -> bool:
        return self._stop[0] != 0

    def finish(self, check: Callable[[], None]) -> None:
        """Wait for the end of all shares; ``check`` may raise to stop them. An error of ours that ended a share is raised here."""
        try:
            with selectors.DefaultSelector() as selector:
                for child in self._children:
                    selector.register(child.socket, selectors.EVENT_READ, child)
                while selector.get_map():
                    for key, _ in selector.select(timeout=0.5):
                        if not _receive(key.data, self._received):
                            selector.unregister(key.fileobj)
                    check()
        finally:
            self.close()

    def close(self) -> None:
        """Stop what is still at work, and wait for it."""
        self._stop[0] = 1
        for child in self._children:
            child.close()


def _run(work: Work, stopped: Callable[[], bool], connection: socket.socket) -> None:
    """In a child: do the work, then send an empty message."""

    def send(error: str | None, value: Any) -> None:
        packed = msgpack.packb([error, value], use_bin_type=True)
        connection.sendall(len(packed).to_bytes(4, "big") + packed)

    try:
        work(stopped, partial(send, None))
    except KeyarkError as e:
        send(type(e).__name__, str(e))
    connection.sendall(bytes(4))


def _receive(child: Child, received: Callable[[list[Any]], None]) -> bool:
    """Take one message; False after the last one."""
    length = int.from_bytes(child.receive(4), "big")
    if not length:
        return False
    error, value = msgpack.unpackb(child.receive(length))
    if error is not None:
        raise getattr(errors, error, KeyarkError)(value)
    received(value)
    return True
