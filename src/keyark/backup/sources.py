"""What is named as a source, before anything is walked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from keyark.errors import UsageError
from keyark.text import show


def absolute(path: str) -> bytes:
    """The absolute path of what a user calls ``path``, as the kernel would find it.

    A symbolic link at the end is the source itself, unless a slash follows it. UsageError for an empty path.
    """
    if not path:
        raise UsageError("an empty PATH names nothing; write . for the current folder")
    parts = path.split("/")
    if parts[-1] in ("", ".", ".."):
        return os.fsencode(os.path.realpath(path))
    if ".." in parts:  # after a link, `..` is not what stands before it in the text
        return os.fsencode(os.path.join(os.path.realpath(os.path.dirname(path)), parts[-1]))
    return os.fsencode(os.path.abspath(path))


def normalised(paths: Sequence[bytes]) -> tuple[bytes, ...]:
    """Absolute paths in one spelling. UsageError when there is none, or when nothing that they name exists."""
    if not paths:
        raise UsageError("nothing to back up: give a PATH")
    for path in paths:
        if not path.startswith(b"/") or b"\0" in path:
            raise UsageError(f"{show(path)} is not an absolute path")
    found = tuple(dict.fromkeys(os.path.normpath(path).replace(b"//", b"/") for path in paths))
    if not any(os.path.lexists(path) for path in found):
        raise UsageError(f"{', '.join(map(show, found))}: does not exist; nothing was backed up")
    return found


def outermost(paths: Iterable[bytes]) -> list[bytes]:
    """The paths that lie below none of the others."""
    found: list[bytes] = []
    for path in sorted(set(paths), key=lambda path: path.rstrip(b"/") + b"/"):
        if not found or not path.startswith(found[-1].rstrip(b"/") + b"/"):
            found.append(path)
    return found


def remarks(paths: Sequence[bytes]) -> list[str]:
    """What a user may not expect of a source."""
    found = []
    for path in paths:
        try:
            link = stat.S_ISLNK(os.lstat(path).st_mode)
        except OSError:
            continue
        if link:
            found.append(
                f"{show(path)}: a symbolic link; it is backed up as one. Write {show(path)}/ for what it points to"
            )
    return found
