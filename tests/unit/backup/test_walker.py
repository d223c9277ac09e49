"""The way to the sources."""

from __future__ import annotations

import pytest

from keyark.backup.walker import source_trie


@pytest.mark.parametrize(
    ("paths", "trie"),
    [
        ([b"/a/b", b"/a/c"], {b"a": {b"b": None, b"c": None}}),
        ([b"/a/b", b"/a"], {b"a": None}),
        ([b"/a", b"/a/b/c"], {b"a": None}),
        ([b"/a-b", b"/a/b", b"/a"], {b"a-b": None, b"a": None}),
        ([b"/", b"/a"], None),
    ],
)
def test_sources_as_nested_names(paths: list[bytes], trie: object) -> None:
    assert source_trie(paths) == trie
