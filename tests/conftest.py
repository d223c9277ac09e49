"""Fixtures and the Hypothesis profile: quick and deterministic here, deep by hand (HYPOTHESIS_PROFILE=deep)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import AS_ROOT, REQUIRE, Sandbox

settings.register_profile(
    "quick",
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A fresh machine, without a repository."""
    return Sandbox(tmp_path)


@pytest.fixture
def ready(sandbox: Sandbox) -> Sandbox:
    """A machine with an empty repository."""
    sandbox.init()
    return sandbox


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what cannot run here; under KEYARK_REQUIRE_SERVERS=1 nothing is skipped quietly."""
    if item.get_closest_marker("root") and not AS_ROOT:
        _unavailable("needs root")
    for marker in item.iter_markers("program"):
        for name in marker.args:
            if shutil.which(name) is None:
                _unavailable(f"{name} is not installed")


def _unavailable(reason: str) -> None:
    if REQUIRE:
        pytest.fail(f"{reason}, and KEYARK_REQUIRE_SERVERS=1 asks for it")
    pytest.skip(reason)
