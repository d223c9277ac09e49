"""Writers, a pruner and a verifier at work on one repository, each in processes of its own. What was reported done restores."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from faults.driver import install
from faults.zygote import Zygote
from keyark.clock import SystemClock
from keyark.upkeep.writers import add_writer
from support import Sandbox, below, picture

WRITERS = 8
SECONDS = float(os.environ.get("KEYARK_SECONDS", "12"))
CONFLICT, DAMAGED = 11, 13


class Stage:
    """A repository with eight writers, of whom some share a compartment, an operator, and what they did."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sandbox = Sandbox(base, clock=SystemClock())
        self.sandbox.init()
        (base / "master.key").write_bytes(self.sandbox.line.reveal() + b"\n")
        (base / "master.key").chmod(0o600)
        install(base / "plugin")
        self.done: dict[str, tuple[Path, object]] = {}  # snapshot -> its source and what it must bring back
        self.trouble: list[str] = []
        self.counts = {"backups": 0, "conflicts": 0, "prunes": 0, "packs deleted": 0, "verifications": 0}
        self.stored_again = 0
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.ready = threading.Barrier(WRITERS + 3)  # writers, pruner, verifier, and the test itself
        with self.sandbox.open() as repository:
            for number in range(WRITERS):
                name, shared = f"w{number}", None if number < 4 else "w0"
                add_writer(repository, name, str(base / name), compartment=shared, context=self.sandbox.context)
            add_writer(repository, "op", str(base / "op"), operator=True, context=self.sandbox.context)

    def environment(self, machine: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base / machine),
            "PYTHONPATH": os.pathsep.join([str(self.base / "plugin"), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
            "KEYARK_STATE_DIR": str(self.base / machine / "state"),
            "KEYARK_CACHE_DIR": str(self.base / machine / "cache"),
        }

    def actor(self, name: str, machine: str, work: object) -> threading.Thread:
        def run() -> None:
            zygote = Zygote(self.environment(machine))
            self.ready.wait(timeout=240)
            errors, output = self.base / f"{name}.errors", self.base / f"{name}.output"

            def keyark(*arguments: str) -> tuple[int, str, str]:
                child = zygote.start(
                    ["-r", self.sandbox.location, *arguments], self.environment(machine), errors, output
                )
                code = child.wait()
                return code, output.read_text(), errors.read_text()

            try:
                while not self.stop.is_set():
                    work(keyark)  # type: ignore[operator]
            except Exception as e:
                self.trouble.append(f"{name}: {e!r}")
            finally:
                zygote.close()

        return threading.Thread(target=run, name=name)

    def writer(self, number: int) -> threading.Thread:
        rng = random.Random(number)
        source = self.base / f"source {number}"
        source.mkdir()
        common = random.Random(99)  # what the writers of one compartment share

        def work(keyark: object) -> None:
            for _ in range(3):
                (source / f"{rng.randrange(10)}").write_bytes(rng.randbytes(rng.randrange(10, 30_000)))
            (source / "common").write_bytes(random.Random(common.randrange(4)).randbytes(200_000))
            expected = picture(source)
            code, output, errors = keyark(
                "--credential", str(self.base / f"w{number}"), "--json", "backup", str(source)
            )  # type: ignore[operator]
            with self.lock:
                if code == 0:
                    self.done[json.loads(output.splitlines()[-1])["snapshot_id"]] = (source, expected)
                    self.counts["backups"] += 1
                    self.stored_again += "storing them again" in errors
                elif code == CONFLICT:
                    self.counts["conflicts"] += 1
                else:
                    self.trouble.append(f"writer {number}: {code} {errors}")

        return self.actor(f"writer {number}", f"machine {number}", work)

    def pruner(self) -> threading.Thread:
        def work(keyark: object) -> None:
            operator = ("--credential", str(self.base / "op"))
            for arguments in (["forget", "--keep-last", "3", "--accept-rate"], ["prune", "--grace-hours", "0.003"]):
                code, output, errors = keyark(*operator, "--json", *arguments)  # type: ignore[operator]
                # A snapshot that is being replaced, because packs it needs were pruned, may miss its list for an instant.
                if code and not (code == DAMAGED and "cannot prune: packlists/" in errors):
                    self.trouble.append(f"pruner: {arguments[0]} {code} {errors}")
                elif arguments[0] == "prune" and not code:
                    self.counts["prunes"] += 1
                    self.counts["packs deleted"] += json.loads(output)["packs_deleted"]

        return self.actor("pruner", "operator", work)

    def verifier(self) -> threading.Thread:
        def work(keyark: object) -> None:
            code, output, errors = keyark(
                "--key-file", str(self.base / "master.key"), "--json", "verify", "--read-data"
            )  # type: ignore[operator]
            self.counts["verifications"] += 1
            if code == 0:
                return
            if code != DAMAGED or not output:
                self.trouble.append(f"verifier: {code} {errors}")
                return
            live = {item.id.hex() for item in self.history()}
            for finding in json.loads(output.splitlines()[-1])["findings"]:
                touched = set(finding.get("snapshots", ())) & set(self.done) & live
                # Not reported done: between its snapshot and its look back a backup may miss what a prune took.
                if finding["fatal"] and (touched or not finding.get("snapshots")):
                    self.trouble.append(f"verifier: {finding}")

        return self.actor("verifier", "auditor", work)

    def history(self) -> list[object]:
        with self.sandbox.open() as repository:
            return list(repository.history("test").live)


@pytest.mark.timeout(0)
def test_eight_writers_a_pruner_and_a_verifier(tmp_path: Path) -> None:
    """Longer by hand: KEYARK_SECONDS=300."""
    stage = Stage(tmp_path)
    threads = [*map(stage.writer, range(WRITERS)), stage.pruner(), stage.verifier()]
    for thread in threads:
        thread.start()
    stage.ready.wait(timeout=240)  # on a busy machine it takes long until all have started
    time.sleep(SECONDS)
    for _ in range(120):
        if (stage.counts["backups"] > WRITERS and stage.counts["packs deleted"]) or stage.trouble:
            break
        time.sleep(1)
    stage.stop.set()
    for thread in threads:
        thread.join()
    print(stage.counts, "stored again:", stage.stored_again)
    assert not stage.trouble, stage.trouble[:5]
    assert stage.counts["backups"] > WRITERS
    assert stage.counts["packs deleted"] > 0
    report = stage.sandbox.verify(read_data=True)
    live = {item.id.hex() for item in stage.history()}  # type: ignore[attr-defined]
    assert not [item for item in report.findings if item.fatal and set(item.snapshots) & set(stage.done)], (
        report.findings
    )
    restored = 0
    for snapshot, (source, expected) in stage.done.items():
        if snapshot not in live:
            continue
        target = tmp_path / "target"
        assert stage.sandbox.restore(snapshot, target, verify=True).problems == ()
        assert picture(below(target, source)) == expected
        shutil.rmtree(target)
        restored += 1
    print("restored", restored)
    assert restored >= WRITERS
