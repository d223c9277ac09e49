"""A storage driver for the scheme ``faulty``, found by its entry point: real processes of `keyark` meet its faults.

``faulty:///path?kill=7&when=after&operations=put,delete`` dies by SIGKILL before or after the seventh put or delete. Further
options: ``fail=N``, ``lose=N`` (a put that is reported as failed although it happened), ``delay=SECONDS``, ``shuffle=SEED``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from keyark.storage.faults import (
    CHANGES,
    BeforeCall,
    FaultInjecting,
    NthCall,
    delay,
    fail,
    fail_nth,
    shuffle_listings,
)
from keyark.storage.local import LocalStorage


def die(operation: str, name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def open_faulty(location: str, *, create: bool = False, options: Mapping[str, str] | None = None) -> FaultInjecting:
    parts = urlsplit(location)
    given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    operations = frozenset(given["operations"].split(",")) if "operations" in given else CHANGES
    before: list[BeforeCall] = []
    after: list[BeforeCall] = []
    if "kill" in given:
        target = after if given.get("when") == "after" else before
        target.append(NthCall(int(given["kill"]), operations, die))
    if "fail" in given:
        before.append(fail_nth(int(given["fail"]), operations))
    if "lose" in given:
        after.append(NthCall(int(given["lose"]), operations, fail))
    if "delay" in given:
        before.append(delay(float(given["delay"]), operations))

    def every(hooks: list[BeforeCall]) -> BeforeCall:
        def call(operation: str, name: str) -> None:
            for hook in hooks:
                hook(operation, name)

        return call

    return FaultInjecting(
        LocalStorage(unquote(parts.path), create=create),
        before=every(before),
        after=every(after),
        on_list=shuffle_listings(int(given["shuffle"])) if "shuffle" in given else None,
    )


def install(folder: Path) -> Path:
    """Make a folder that, on PYTHONPATH, provides this module and its entry point; returns it."""
    facts = folder / "keyark_faulty-1.0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: keyark-faulty\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[keyark.storage]\nfaulty = keyark_faulty:open_faulty\n")
    (folder / "keyark_faulty.py").write_bytes(Path(__file__).read_bytes())
    return folder
