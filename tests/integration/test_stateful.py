"""A state machine against a plain dict: change, back up, forget, prune, rotate, restore, verify, lose the cache."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyark.upkeep.forget import forget
from keyark.upkeep.model import ForgetRequest, PruneRequest
from keyark.upkeep.prune import prune
from keyark.upkeep.slots import rotate
from support import Sandbox, below

NAMES = st.sampled_from(["a", "b", "dir/c", "dir/d", "dir/sub/e", "f.key"])


def content(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


class Machine(RuleBasedStateMachine):
    """What the sandbox should hold, beside what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="keyark-test-"))
        self.sandbox = Sandbox(self.base)
        self.sandbox.init()
        self.source = self.base / "source"
        self.source.mkdir()
        self.files: dict[str, bytes] = {}
        self.snapshots: list[tuple[str, dict[str, bytes]]] = []
        self.restores = 0

    def teardown(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    @rule(name=NAMES, seed=st.integers(0, 5), size=st.sampled_from([0, 1, 3000, 600_000]))
    def write(self, name: str, seed: int, size: int) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(seed, size))
        self.files[name] = content(seed, size)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.source / name).unlink()
        del self.files[name]

    @rule(compression=st.sampled_from(["zstd:3", "none", "gzip:1"]))
    def back_up(self, compression: str) -> None:
        self.sandbox.clock.time_ns += 60 * 10**9  # type: ignore[attr-defined]
        report = self.sandbox.backup(self.source, compression=compression)
        assert report.snapshot_id is not None
        self.snapshots.append((report.snapshot_id, dict(self.files)))

    @precondition(lambda self: self.snapshots)
    @rule(keep=st.integers(1, 3))
    def forget_old(self, keep: int) -> None:
        with self.sandbox.open() as repository:
            forget(repository, ForgetRequest(keep_last=keep, accept_rate=True), self.sandbox.context)
        self.snapshots = self.snapshots[-keep:]

    @rule(grace=st.sampled_from([0, 10**9]))
    def prune(self, grace: int) -> None:
        with self.sandbox.open() as repository:
            prune(repository, PruneRequest(grace_seconds=grace), self.sandbox.context)

    @rule()
    def rotate_keys(self) -> None:
        with self.sandbox.open() as repository:
            rotate(repository, self.sandbox.context)

    @rule()
    def lose_the_cache(self) -> None:
        shutil.rmtree(self.sandbox.places.cache_dir, ignore_errors=True)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        snapshot, expected = data.draw(st.sampled_from(self.snapshots))
        self.restores += 1
        target = self.base / f"target {self.restores}"
        report = self.sandbox.restore(snapshot, target, verify=True)
        assert report.problems == ()
        back = below(target, self.source)
        found = {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()}
        assert found == expected
        shutil.rmtree(target)

    @rule()
    def verify(self) -> None:
        report = self.sandbox.verify()
        assert report.sound, report.findings

    @invariant()
    def the_listing_is_what_was_done(self) -> None:
        with self.sandbox.open() as repository:
            live = {item.id.hex() for item in repository.history("test").live}
        assert live == {snapshot for snapshot, _ in self.snapshots}


Machine.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None, derandomize=True)
TestRepositoryAgainstADict = Machine.TestCase
