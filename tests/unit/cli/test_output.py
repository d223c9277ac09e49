"""Global options, sizes, times, progress."""

from __future__ import annotations

import io

import pytest

from keyark.cli.globals import split_arguments
from keyark.cli.render import describe, duration, encodable, human_size, one_line, plural, relative_time
from keyark.errors import UsageError
from keyark.operation import Progress


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPOSITORY", "KEY_FILE", "PASSWORD_FILE", "CREDENTIAL", "IDENTITY", "CONFIG"):
        monkeypatch.delenv(f"KEYARK_{name}", raising=False)


def test_global_options_are_taken_from_anywhere() -> None:
    options, rest = split_arguments(["-r", "/a", "backup", "--json", "/x", "--key-file=k", "-q", "--tag", "--json"])
    assert (options.repository, options.json, options.key_file, options.quiet) == (["/a"], True, "k", True)
    assert rest == ["backup", "/x", "--tag", "--json"], "what follows a verb's option is its value"
    options, rest = split_arguments(["ls", "--", "--json", "-r"])
    assert not options.json
    assert rest == ["ls", "--", "--json", "-r"]
    assert split_arguments(["-r/path"])[0].repository == ["/path"]
    assert split_arguments(["-r", "/a", "--repo", "/b"])[0].repository == ["/a", "/b"]


def test_a_missing_or_unwanted_value_is_a_usage_error() -> None:
    for bad in (["-r"], ["--json=yes"], ["backup", "--key-file"]):
        with pytest.raises(UsageError):
            split_arguments(bad)


def test_a_key_on_the_command_line_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYARK_KEY_FILE", "/master")
    monkeypatch.setenv("KEYARK_REPOSITORY", "/r")
    assert split_arguments(["ls"])[0].key_file == "/master"
    options, _ = split_arguments(["--credential", "c", "ls"])
    assert (options.key_file, options.repository) == (None, ["/r"])


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (9 << 50, "9216.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (86400 * 3, "3 days ago"),
        (86400 * 400, "1 year ago"),
        (-60, "in the future"),
    ],
)
def test_relative_times(seconds: int, text: str) -> None:
    assert relative_time(0, seconds * 10**9) == text


def test_durations_and_plurals() -> None:
    assert [duration(value) for value in (1.25, 75, 3725)] == ["1.2 s", "1 min 15 s", "1 h 02 min"]
    assert [plural(value, "file") for value in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


def test_progress_shows_share_rate_and_time_left() -> None:
    line = describe(Progress("backup", 5, 10, 50 << 20, 100 << 20, "/x"), 2.0)
    for part in ("50%", "5/10 files", "50.0 MiB", "25.0 MiB/s", "2.0 s left", "█"):
        assert part in line
    assert describe(Progress("backup", 5), 0.1) == "backup  5 files  0 B"


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 200])
def test_progress_fits_any_width_and_keeps_the_share_longest(width: int) -> None:
    line = describe(Progress("backup", 43, 360, 800 << 20, 1100 << 20), 6.0, width)
    assert len(line) <= width
    assert ("73%" in line) == (width >= 20)
    assert ("left" in line) == (width >= 40)
    assert ("█" in line) == (width >= 80)


def test_ornaments_have_plain_stand_ins() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert encodable("[█░]  …/x", ascii_only) == "[#.]  ~/x"
    assert encodable("[█░]", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "[█░]"


def test_nothing_that_moves_the_cursor_gets_through() -> None:
    assert one_line("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
