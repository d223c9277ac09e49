"""Include and exclude patterns."""

from __future__ import annotations

import pytest

from keyark.backup.excludes import Excludes
from keyark.errors import UsageError
from keyark.recovery.patterns import Selection


@pytest.mark.parametrize(
    ("include", "path", "wanted"),
    [
        ("*.key", b"/a/b/c.key", True),
        ("*.key", b"/a/b/c.crt", False),
        ("/etc/ssh", b"/etc/ssh/sshd_config", True),
        ("/etc/ssh", b"/home/etc/ssh/x", False),
        ("ssh", b"/etc/ssh/key", True),
        ("/etc/*/key", b"/etc/ssh/key", True),
        ("/etc/*/key", b"/etc/a/b/key", False),
        ("/etc/**/key", b"/etc/a/b/key", True),
        ("*.key", b"/\xff\xfe.key", True),
    ],
)
def test_includes(include: str, path: bytes, wanted: bool) -> None:
    assert Selection([include], []).wants(path, folder=False) is wanted
    assert Excludes([include]).match(path, folder=False) is wanted


def test_an_exclude_beats_an_include_and_nothing_given_is_everything() -> None:
    assert not Selection(["*.key"], ["/a"]).wants(b"/a/x.key", folder=False)
    assert Selection([], []).wants(b"/anything", folder=True)
    assert Selection([], ["/a"]).excluded(b"/a")
    assert not Selection([], ["/a"]).excluded(b"/b")


def test_a_pattern_file_that_is_missing_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Excludes([], ["/nonexistent"])
