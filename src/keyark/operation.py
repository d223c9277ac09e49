"""What every operation gets beside its request: progress, cancellation, a recorder, a clock.

An operation is a plain function ``operation(repository, request, context) -> report``. Request and report are frozen
dataclasses. Operations never print and never exit; the command line, the Python API, and later the REST API and the
durable engine call the same functions with contexts of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from keyark.clock import Clock, SystemClock
from keyark.errors import InterruptedByUser


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of how far an operation is. Totals are 0 while unknown."""

    phase: str
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    current: str = ""


class Recorder(Protocol):
    """Told before and after every operation; may refuse by raising (an audit log fails closed)."""

    def before(self, operation: str, facts: Mapping[str, Any]) -> None: ...

    def after(self, operation: str, facts: Mapping[str, Any], error: BaseException | None) -> None: ...


class NullRecorder:
    """Records nothing."""

    def before(self, operation: str, facts: Mapping[str, Any]) -> None:
        return

    def after(self, operation: str, facts: Mapping[str, Any], error: BaseException | None) -> None:
        return


class CancelToken:
    """Set from a signal handler or another thread; operations check it often."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise InterruptedByUser once cancelled."""
        if self._event.is_set():
            raise InterruptedByUser("interrupted; what was stored stays and the next run picks it up")


def no_progress(progress: Progress) -> None:
    """Shows nothing."""
    return


def _no_warning(message: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Context:
    """Everything an operation needs that is not part of the request.

    ``warn`` receives one-line messages that the user should see while the operation goes on. ``resume`` returns the
    state last given to ``heartbeat`` by an earlier attempt, or None; ``heartbeat`` raises when the run was cancelled or
    its lease is lost; ``attempt`` counts from 1.
    """

    progress: Callable[[Progress], None] = no_progress
    warn: Callable[[str], None] = _no_warning
    cancel: CancelToken = field(default_factory=CancelToken)
    recorder: Recorder = field(default_factory=NullRecorder)
    clock: Clock = field(default_factory=SystemClock)
    attempt: int = 1
    saved_state: Any = None
    save_state: Callable[[Any], None] | None = None

    @property
    def shows_progress(self) -> bool:
        """Whether anybody looks at the progress: only then are totals worth counting."""
        return self.progress is not no_progress

    def resume(self) -> Any:
        return self.saved_state

    def heartbeat(self, state: Any = None) -> None:
        self.cancel.check()
        if self.save_state is not None:
            self.save_state(state)
