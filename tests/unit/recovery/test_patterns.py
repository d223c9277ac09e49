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
        ("*.key", b"/new\nline/a.key", True),
    ],
)
def test_includes(include: str, path: bytes, wanted: bool) -> None:
    assert Selection([include], []).wants(path, folder=False) is wanted


def test_an_exclude_beats_an_include_and_nothing_given_is_everything() -> None:
    assert not Selection(["*.key"], ["/a"]).wants(b"/a/x.key", folder=False)
    assert Selection([], []).wants(b"/anything", folder=True)
    assert Selection([], ["/a"]).excluded(b"/a")
    assert not Selection([], ["/a"]).excluded(b"/b")


def test_includes_cover_what_is_in_a_folder_but_for_what_is_taken_back() -> None:
    chosen = Selection(["/etc/ssh", "!*.pub"], [])
    assert chosen.wants(b"/etc/ssh/sub/key", folder=False)
    assert not chosen.wants(b"/etc/ssh/sub/key.pub", folder=False)
    assert not chosen.wants(b"/etc/other", folder=False)


def test_nothing_in_an_excluded_folder_comes_back() -> None:
    chosen = Selection([], ["/a", "!/a/b"])
    assert not chosen.wants(b"/a/b", folder=False)
    assert not chosen.wants(b"/a/b/c", folder=False)


def test_a_pattern_file_that_is_missing_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Excludes([], ["/nonexistent"])
