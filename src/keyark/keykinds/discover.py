"""Finding the key material of this host, by path and by content."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyark.errors import UsageError
from keyark.keykinds.recognise import COMPANION, GNUPG, HEAD, Kind, is_companion, recognise
from keyark.operation import Context, Progress

DEFAULT_ROOTS = (b"/etc", b"/root", b"/home", b"/opt", b"/srv", b"/usr/local/etc", b"/var/lib", b"/var/www")
MAX_SIZE = 8 << 20  # bytes; no key file is larger
_SKIPPED_NAMES = frozenset(
    {
        b".cache", b".keyark", b"node_modules", b"site-packages", b"dist-packages", b"__pycache__", b".git", b".hg", b".svn",
        b".tox", b".rustup", b"overlay2", b"containerd", b"snapd", b"lost+found", b"ca-certificates",
    }
)  # fmt: skip
_SKIPPED_PATHS = (b"/var/lib/dpkg", b"/var/lib/apt", b"/var/lib/docker", b"/var/lib/containers", b"/etc/alternatives")
_RUNTIME = re.compile(rb"python\d(\.\d+)?|gems|\.(pyenv|rbenv|nvm|npm|gradle|m2)")  # software that ships test keys
_GNUPG_MARKS = (b"private-keys-v1.d", b"secring.gpg")


@dataclass(frozen=True, slots=True)
class DiscoverRequest:
    """Where to look. Empty roots mean the usual places of this host; ``skip`` are folders that are never entered."""

    roots: tuple[bytes, ...] = ()
    skip: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundKey:
    """Key material: a file, or a folder that belongs together."""

    path: bytes
    kind: Kind
    exposed: bool  # others than its owner can read it


@dataclass(frozen=True, slots=True)
class DiscoverReport:
    """What was found, in order of path."""

    found: tuple[FoundKey, ...]
    files_seen: int
    unreadable: int

    @property
    def paths(self) -> tuple[bytes, ...]:
        return tuple(item.path for item in self.found)


def discover(request: DiscoverRequest, context: Context) -> DiscoverReport:
    """Look for key material. Unreadable folders are counted, not errors; UsageError for a root that does not exist."""
    roots = _roots(request.roots)
    search = _Search(request, context)
    for root in roots:
        search.folder(root)
    unique = {item.path: item for item in search.found}
    return DiscoverReport(tuple(unique[path] for path in sorted(unique)), search.seen, search.unreadable)


def _roots(wanted: Sequence[bytes]) -> list[bytes]:
    for root in wanted:
        if not os.path.isdir(root):
            raise UsageError(f"{os.fsdecode(root)} is not a folder")
    roots = list(wanted) or [root for root in (*DEFAULT_ROOTS, *_homes()) if os.path.isdir(root)]
    resolved = sorted({os.path.realpath(root) for root in roots})
    kept: list[bytes] = []
    for root in resolved:
        if not any(root == other or root.startswith(other.rstrip(b"/") + b"/") for other in kept):
            kept.append(root)
    return kept


def _homes() -> Iterator[bytes]:
    """Home folders of people and services; those that are the root or a system folder are left out."""
    home = os.environb.get(b"HOME")
    if home and home.startswith(b"/") and home != b"/":
        yield home
    for entry in pwd.getpwall():
        folder = os.fsencode(entry.pw_dir)
        if folder.count(b"/") >= 2 and not folder.startswith((b"/usr/", b"/bin", b"/sbin", b"/proc", b"/run", b"/dev")):
            yield folder


class _Search:
    def __init__(self, request: DiscoverRequest, context: Context) -> None:
        self._skip = {os.path.realpath(path) for path in request.skip}
        self._context = context
        self.found: list[FoundKey] = []
        self.seen = 0
        self.unreadable = 0

    def folder(self, root: bytes) -> None:
        todo = [root]
        while todo:
            self._context.cancel.check()
            path = todo.pop()
            if path in self._skip or path in _SKIPPED_PATHS:
                continue
            try:
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self.unreadable += 1
                continue
            names = {entry.name for entry in entries}
            if any(mark in names for mark in _GNUPG_MARKS) and self._gnupg(path):
                continue
            self._files(path, entries)
            todo += [
                entry.path
                for entry in entries
                if entry.name not in _SKIPPED_NAMES
                and not _RUNTIME.fullmatch(entry.name)
                and entry.is_dir(follow_symlinks=False)
            ]

    def _gnupg(self, path: bytes) -> bool:
        keys = os.path.join(path, b"private-keys-v1.d")
        try:
            holds_keys = os.path.exists(os.path.join(path, b"secring.gpg")) or bool(os.listdir(keys))
            mode = os.stat(path).st_mode
        except OSError:
            return False
        if holds_keys:
            self.found.append(FoundKey(path, GNUPG, bool(mode & 0o077)))
        return holds_keys

    def _files(self, folder: bytes, entries: Sequence[os.DirEntry[bytes]]) -> None:
        companions, private = [], False
        for entry in entries:
            try:
                if not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                if not 0 < facts.st_size <= MAX_SIZE:
                    continue
                head = _head(entry.path)
            except OSError:
                self.unreadable += 1
                continue
            self.seen += 1
            kind = recognise(entry.path, head)
            if kind is not None:
                private = True
                self.found.append(FoundKey(entry.path, kind, bool(stat.S_IMODE(facts.st_mode) & 0o044)))
            elif is_companion(entry.path, head):
                companions.append(FoundKey(entry.path, COMPANION, exposed=False))
        if private:
            self.found += companions
        self._context.progress(Progress("discover", self.seen, 0, 0, 0, os.fsdecode(folder)))


def _head(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, HEAD)
    finally:
        os.close(descriptor)
