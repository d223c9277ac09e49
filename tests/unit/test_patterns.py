"""Patterns in gitignore syntax, against absolute paths."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyark.errors import UsageError
from keyark.patterns import Patterns
from support import run


@pytest.mark.parametrize(
    ("patterns", "path", "folder", "matches"),
    [
        (["*.key"], b"/a/b/c.key", False, True),
        (["*.key"], b"/a/new\nline/c.key", False, True),  # a folder whose name holds a newline
        (["*.key"], b"/a/c.key\n", False, False),
        (["c*y"], b"/a/c.\ney", False, True),
        (["a\nb"], b"/x/a\nb", False, True),
        (["\udcff*"], b"/a/\xff.bin", False, True),
        (["cache/"], b"/a/cache", True, True),
        (["cache/"], b"/a/cache", False, False),  # a trailing slash: folders only
        (["cache/"], b"/a/cache/x", False, False),  # the walk does not come there
        (["*.tmp", "!dir"], b"/dir/x.tmp", False, True),  # what is kept is the folder, not all that is in it
        (["*", "!/dir"], b"/dir", True, False),
        (["a/**", "!a/keep"], b"/a", True, False),
        (["a/**", "!a/keep"], b"/a/keep", False, False),
        (["a/**", "!a/keep"], b"/a/drop", False, True),
        (["**/"], b"/a/b", True, True),
        (["**/"], b"/a/b", False, False),
        (["/a"], b"/a", True, True),
        (["/a"], b"/b/a", True, False),
        (["a/b"], b"/a/b", False, True),  # a slash inside anchors at the root, as in git
        (["a/b"], b"/x/a/b", False, False),
        (["**/a/b"], b"/x/a/b", False, True),
        (["a/**"], b"/a/b/c", False, True),
        (["a/**"], b"/a", True, False),
        (["*", "!*.key"], b"/x.key", False, False),
        (["*.tmp", "!keep.tmp"], b"/a/keep.tmp", False, False),
        (["!keep.tmp", "*.tmp"], b"/a/keep.tmp", False, True),  # the last match decides
        (["\\#x"], b"/a/#x", False, True),
        (["\\!x"], b"/a/!x", False, True),
        (["x\\ "], b"/a/x ", False, True),
        (["x "], b"/a/x", False, True),  # trailing blanks do not count
        (["[ab].key"], b"/b.key", False, True),
        (["a?c"], b"/a/c", False, False),
    ],
)
def test_what_matches(patterns: list[str], path: bytes, folder: bool, matches: bool) -> None:
    assert Patterns(patterns).match(path, folder=folder) is matches


@pytest.mark.parametrize(
    ("patterns", "path", "within", "covered"),
    [
        (["cache/"], b"/a/cache/x", True, True),
        (["/a", "!/a/b"], b"/a/b", True, False),
        (["/a", "!b"], b"/a/b/c", True, False),
        (["/a", "!/a/b", "c"], b"/a/b/c", True, True),
        (["/b"], b"/a/b", False, False),
    ],
)
def test_what_a_folder_says_of_what_is_in_it(patterns: list[str], path: bytes, within: bool, covered: bool) -> None:
    assert Patterns(patterns).match_within(path, folder=False) is within
    assert Patterns(patterns).covers(path, folder=False) is covered


_PARTS = ["a", "b", "c", "*", "**", "*.key", "?", "[ab]", "a*", "\\[x\\]", "x.tmp", "[!a]", "\\!n", "\\#h"]
_NAMES = ["a", "b", "c", "a.key", "x.tmp", "[x]", "!n", "#h", " s"]
_pattern = st.builds(
    lambda sign, top, parts, end: sign + top + "/".join(parts) + end,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)


def _tree(top: Path, depth: int) -> Iterator[tuple[str, bool]]:
    for number, name in enumerate(_NAMES):
        folder = depth > 0 and number % 2 == depth % 2
        if folder:
            (top / name).mkdir()
        else:
            (top / name).write_bytes(b"")
        yield name, folder
        if folder:
            for below, kind in _tree(top / name, depth - 1):
                yield f"{name}/{below}", kind


@pytest.mark.program("git")
def test_patterns_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    run(["git", "init", "-q", str(tmp_path)])
    paths = list(_tree(tmp_path, 2))
    listing = "\0".join(path for path, _ in paths)

    @given(st.lists(_pattern, min_size=1, max_size=3))
    def agree(patterns: list[str]) -> None:
        (tmp_path / ".gitignore").write_text("\n".join(patterns) + "\n")
        command = ["git", "-C", str(tmp_path), "check-ignore", "-z", "--stdin", "--no-index"]
        done = subprocess.run(command, input=listing, capture_output=True, text=True, check=False)
        chosen = Patterns(patterns)
        ours = {path for path, folder in paths if chosen.match_within(os.fsencode(f"/{path}"), folder=folder)}
        assert ours == set(done.stdout.split("\0")) - {""}

    agree()


def test_no_patterns_match_nothing_and_malformed_ones_are_a_usage_error() -> None:
    assert not Patterns([])
    assert not Patterns([]).match(b"/a", folder=False)
    with pytest.raises(UsageError, match="malformed"):
        Patterns(["!"])
