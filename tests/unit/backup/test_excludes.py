"""Excludes, given directly and in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyark.backup.excludes import Excludes
from keyark.errors import UsageError


def test_lines_of_a_file_are_patterns_as_gitignore_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "patterns"
    file.write_bytes(
        b"\xef\xbb\xbf*.first\r\n# comment\r\n\r\n  \n\\#hash\n #blank\nform\x0cfeed\nu\xe2\x80\xa8u\n\xff*\n"
    )
    excludes = Excludes(["*.given"], [str(file)])
    assert excludes.lines == ("*.given", "*.first", "\\#hash", " #blank", "form\x0cfeed", "u\u2028u", "\udcff*")
    for path in (b"/a.given", b"/a.first", b"/#hash", b"/form\x0cfeed", b"/\xffx"):
        assert excludes.match(path, folder=False), path
    assert not excludes.match(b"/# comment", folder=False)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the exclude file"):
        Excludes([], [str(tmp_path)])


def test_nothing_given_excludes_nothing() -> None:
    assert not Excludes([])
    assert not Excludes(["# only a comment", ""]).match(b"/a", folder=True)
