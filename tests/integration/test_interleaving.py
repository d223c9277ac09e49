"""Two real backups and a real prune, their storage operations interleaved as Hypothesis says."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from keyark.backup.model import BackupReport
from keyark.errors import ConflictError
from keyark.repository.credentials import Credentials, load_credential
from keyark.storage.faults import FaultInjecting
from keyark.storage.local import LocalStorage
from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.writers import add_writer
from support import Sandbox, fill


class Schedule:
    """Lets one actor's storage operation through at a time, in the order that was drawn."""

    def __init__(self, order: list[int]) -> None:
        self._order = order
        self._turn = 0
        self._condition = threading.Condition()
        self._waiting: dict[int, int] = {}
        self._alive: set[int] = set()

    def start(self, actors: dict[int, Callable[[], None]]) -> None:
        self._alive = set(actors)
        threads = [threading.Thread(target=self._run, args=item) for item in actors.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()

    def _run(self, actor: int, action: Callable[[], None]) -> None:
        try:
            action()
        finally:
            with self._condition:
                self._alive.discard(actor)
                self._condition.notify_all()

    def _next(self) -> int:
        """Whose turn it is: the drawn actor, or the next one that is still alive."""
        alive = sorted(self._alive)
        return alive[self._order[self._turn % len(self._order)] % len(alive)]

    def gate(self, actor: int) -> Callable[[str, str], None]:
        def wait(operation: str, name: str) -> None:
            with self._condition:
                self._waiting[actor] = self._waiting.get(actor, 0) + 1
                # An actor may be computing: after a while the others go on without it, as with any suspended process.
                if not self._condition.wait_for(lambda: self._next() == actor, timeout=0.02):
                    self._turn += 1
                self._turn += 1
                self._condition.notify_all()

        return wait


def _prepare(base: Path) -> Sandbox:
    sandbox = Sandbox(base)
    sandbox.init()
    shared = fill(base / "shared", {"big": b"shared content " * 70_000})
    sandbox.backup(shared)
    sandbox.backup(fill(base / "other", {"x": b"other"}))
    with sandbox.open() as repository:
        add_writer(
            repository, "second", str(base / "second.credential"), compartment="default", context=sandbox.context
        )
        forget(repository, ForgetRequest(keep_last=1), sandbox.context)
    return sandbox


@settings(max_examples=25)
@given(order=st.lists(st.integers(0, 2), min_size=10, max_size=60))
def test_whatever_the_order_a_reported_backup_restores(order: list[int]) -> None:
    base = Path(tempfile.mkdtemp(prefix="keyark-test-"))
    try:
        sandbox = _prepare(base)
        second = Credentials(credential=load_credential(str(base / "second.credential")))
        fill(base / "shared", {"own": os.urandom(4000)})
        schedule = Schedule(order)
        done: list[BackupReport] = []
        failures: list[BaseException] = []

        def storage(actor: int) -> FaultInjecting:
            return FaultInjecting(LocalStorage(sandbox.location), before=schedule.gate(actor))

        def back_up(actor: int, credentials: Credentials, machine: str) -> Callable[[], None]:
            def action() -> None:
                try:
                    done.append(
                        sandbox.backup(
                            base / "shared", credentials=credentials, machine=machine, storage=storage(actor)
                        )
                    )
                except ConflictError:
                    return
                except BaseException as e:
                    failures.append(e)

            return action

        def sweep() -> None:
            try:
                with sandbox.open(storage=storage(2)) as repository:
                    prune(repository, PruneRequest(grace_seconds=-1), sandbox.context)
            except BaseException as e:
                failures.append(e)

        schedule.start({0: back_up(0, Credentials(), "machine"), 1: back_up(1, second, "second"), 2: sweep})
        assert failures == []
        assert done
        for number, report in enumerate(done):
            restored = sandbox.restore(report.snapshot_id, base / f"target {number}", verify=True)
            assert restored.problems == ()
            assert restored.files_restored == 2
        verified = sandbox.verify()
        assert verified.sound, verified.findings
    finally:
        shutil.rmtree(base, ignore_errors=True)
