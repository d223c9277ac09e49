"""What users call a source, and which path that is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyark.backup.sources import absolute, normalised, outermost, remarks
from keyark.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/into").symlink_to("../real/sub")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("real", "real"),
        ("./real", "real"),
        ("real/", "real"),
        ("real//sub", "real/sub"),
        (".", ""),
        ("link", "link"),  # the link itself
        ("link/", "real"),  # what it points to
        ("link/.", "real"),
        ("link/sub", "link/sub"),
        ("other/into/..", "real"),  # not `other`
        ("other/into/../file", "real/file"),
        ("real/../other", "other"),
        ("absent", "absent"),
        ("real/\udcff", "real/\udcff"),
    ],
)
def test_a_path_means_what_the_kernel_takes_it_for(here: Path, given: str, meant: str) -> None:
    assert absolute(given) == os.fsencode(os.path.join(here, meant).rstrip("/"))


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="empty PATH"):
        absolute("")


def test_sources_are_normalised_once_each(here: Path) -> None:
    base = os.fsencode(here)
    assert normalised([base + b"/real/", b"/" + base + b"//real", base + b"/absent"]) == (
        base + b"/real",
        base + b"/absent",
    )
    for bad in ([], [b"relative"], [b"/nul\0"], [base + b"/absent"]):
        with pytest.raises(UsageError):
            normalised(bad)


def test_sources_below_others_are_covered_by_them() -> None:
    assert outermost([b"/a/b", b"/a-b", b"/a", b"/a/b/c", b"/ab", b"/a"]) == [b"/a-b", b"/a", b"/ab"]
    assert outermost([b"/a", b"/", b"/b/c"]) == [b"/"]


def test_a_source_that_is_a_link_draws_a_remark(here: Path) -> None:
    base = os.fsencode(here)
    (remark,) = remarks([base + b"/link", base + b"/real", base + b"/absent", base + b"/link/sub"])
    assert "symbolic link" in remark
