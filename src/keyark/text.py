"""Names and paths as text that is safe to show."""

from __future__ import annotations


def show(path: bytes) -> str:
    """A path for people: bytes that are not UTF-8, and control characters, escaped."""
    text = path.decode("utf-8", "surrogateescape")
    return "".join(
        char
        if char.isprintable()
        else f"\\x{ord(char) - 0xDC00:02x}"
        if 0xDC80 <= ord(char) <= 0xDCFF
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
