"""What users see: tables, sizes, times, progress, JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keyark.operation import Progress
from keyark.text import show

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"), (10**9, "year"))


def human_size(count: int) -> str:
    """``1.5 MiB``."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{int(value)} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{count} B"


def relative_time(time_ns: int, now_ns: int) -> str:
    """``3 hours ago``."""
    seconds = (now_ns - time_ns) / 1e9
    if seconds < 0:
        return "in the future"
    if seconds < 5:
        return "just now"
    value = seconds
    for step, unit in _STEPS:
        if value < step:
            count = int(value)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
        value /= step
    return "long ago"


def local_time(time_ns: int) -> str:
    """Local date and time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 10**9))


def duration(seconds: float) -> str:
    """``1 h 02 min``, ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def colour_wanted(stream: Any) -> bool:
    """Only on a terminal, and never with NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: Any) -> str:
    """``text`` in an ANSI style where colour is wanted."""
    return f"\x1b[{code}m{text}\x1b[0m" if colour_wanted(stream) else text


class Output:
    """Standard output and error of one run."""

    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool, no_progress: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._bar = None if no_progress or quiet or as_json or not sys.stderr.isatty() else ProgressLine()

    @property
    def shows_progress(self) -> bool:
        """Whether there is a progress line."""
        return self._bar is not None

    def print(self, text: str = "") -> None:
        """A result."""
        self.clear()
        sys.stdout.write(text + "\n")

    def say(self, text: str) -> None:
        """Something nice to know; not with ``-q`` or ``--json``."""
        if not self.quiet and not self.as_json:
            self.print(text)

    def json(self, value: Any) -> None:
        """One JSON document."""
        self.clear()
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.write(json.dumps(value, ensure_ascii=not utf8) + "\n")
        sys.stdout.flush()

    def warn(self, message: str) -> None:
        """A warning, on standard error, in one line."""
        self.clear()
        sys.stderr.write(f"{paint('warning:', '33', sys.stderr)} {one_line(message)}\n")

    def error(self, message: str) -> None:
        """An error, on standard error, in one line."""
        self.clear()
        sys.stderr.write(f"{paint('keyark:', '31', sys.stderr)} {one_line(message)}\n")

    def progress(self, progress: Progress) -> None:
        """Where the operation is."""
        if self._bar is not None:
            self._bar.update(progress)

    def clear(self) -> None:
        """Take the progress line off the terminal."""
        if self._bar is not None:
            self._bar.clear()

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
        """Aligned columns; those in ``right`` are aligned to the right."""
        all_rows = [[one_line(cell) for cell in row] for row in rows]
        widths = [
            max(len(title), *(len(row[column]) for row in all_rows)) if all_rows else len(title)
            for column, title in enumerate(titles)
        ]
        self.print(paint(_line(titles, widths, right), "1", sys.stdout))
        for row in all_rows:
            self.print(_line(row, widths, right))


def _line(cells: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    parts = [
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def one_line(text: str) -> str:
    """Text without anything that would move the cursor or start a new line."""
    return text if text.isprintable() else show(text.encode("utf-8", "surrogateescape"))


class ProgressLine:
    """One line on the terminal: bar, files, bytes, rate, time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ""
        self._started = 0.0
        self._shown = False
        self._next = 0.0

    def update(self, progress: Progress) -> None:
        now = self._clock()
        with self._lock:
            if progress.phase != self._phase:
                self._phase, self._started, self._next = progress.phase, now, 0.0
            if now < self._next:
                return
            self._next = now + 0.1
            width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 80
            line = describe(progress, now - self._started, width - 1)
            room = width - len(line) - 3
            if room > 10 and progress.current:
                current = one_line(progress.current)
                line += "  " + (current if len(current) <= room else ELLIPSIS + current[1 - room :])
            sys.stderr.write("\r\x1b[K" + encodable(line, sys.stderr)[: width - 1])
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        with self._lock:
            if self._shown:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._shown = False


_BAR = 20  # characters
ELLIPSIS = "…"
_PLAIN = str.maketrans({"█": "#", "░": ".", ELLIPSIS: "~"})


def encodable(text: str, stream: Any) -> str:
    """``text`` with its ornaments replaced where the terminal's encoding has none."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN)
    return text


def describe(progress: Progress, elapsed: float, width: int = 1000) -> str:
    """A progress report as one line of at most ``width`` characters, less of it where there is less room."""
    files = f"{progress.files_done:,}" + (f"/{progress.files_total:,}" if progress.files_total else "")
    unit = " files" if progress.phase in ("backup", "restore", "discover") else ""
    share = rate = left = ""
    if progress.bytes_total:
        share = f"{min(1.0, progress.bytes_done / progress.bytes_total):.0%}"
    if elapsed > 0.5 and progress.bytes_done:
        speed = progress.bytes_done / elapsed
        rate = f"{human_size(int(speed))}/s"
        if progress.bytes_total > progress.bytes_done and speed > 0:
            left = f"{duration((progress.bytes_total - progress.bytes_done) / speed)} left"
    size = human_size(progress.bytes_done) if progress.bytes_done or progress.phase != "discover" else ""
    # From everything down to the barest; the bar goes first, the share stays longest.
    for bar, parts in (
        (_BAR, (files + unit, size, rate, left)),
        (_BAR // 2, (files + unit, size, rate, left)),
        (0, (files + unit, size, rate, left)),
        (0, (files, rate, left)),
        (0, (files, left)),
        (0, (files,)),
    ):
        line = "  ".join(part for part in (progress.phase, _bar(progress, bar, share), *parts) if part)
        if len(line) <= width:
            return line
    return line[:width]


def _bar(progress: Progress, length: int, share: str) -> str:
    if not share or not length:
        return share
    filled = int(min(1.0, progress.bytes_done / progress.bytes_total) * length)
    return f"[{'█' * filled}{'░' * (length - filled)}] {share:>4}"
