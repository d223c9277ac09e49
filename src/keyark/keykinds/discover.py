"""Finding the key material of this host, by path and by content."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyark.errors import UsageError
from keyark.keykinds.kinds import ACCOUNTS, COMPANION, GNUPG, Kind
from keyark.keykinds.noise import is_closed, is_noise, is_source_tree, kernel_mounts, parents_are_software, within
from keyark.keykinds.recognise import HEAD, TEXT_HEAD, is_companion, recognise
from keyark.operation import Context, Progress

DEFAULT_ROOTS = (b"/etc", b"/root", b"/home", b"/opt", b"/srv", b"/usr/local/etc", b"/var/lib", b"/var/www")
MAX_SIZE = 8 << 20  # bytes; no key file is larger
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
    """What was found, in order of path; ``left_out`` are folders that were not entered: caches, software, test keys."""

    found: tuple[FoundKey, ...]
    files_seen: int
    unreadable: int
    left_out: tuple[bytes, ...] = ()

    @property
    def paths(self) -> tuple[bytes, ...]:
        return tuple(item.path for item in self.found)


def discover(request: DiscoverRequest, context: Context) -> DiscoverReport:
    """Look for key material. Unreadable folders are counted, not errors; UsageError for a root that does not exist."""
    roots = _roots(request.roots)
    search = _Search(request, context)
    for root in roots:
        search.tree(root)
    unique = {item.path: item for item in search.found}
    return DiscoverReport(
        tuple(unique[path] for path in sorted(unique)), search.seen, search.unreadable, tuple(sorted(search.left_out))
    )


def _roots(wanted: Sequence[bytes]) -> list[bytes]:
    for root in wanted:
        if not os.path.isdir(root):
            raise UsageError(f"{os.fsdecode(root)} is not a folder")
    roots = list(wanted) or [root for root in (*DEFAULT_ROOTS, *_homes()) if os.path.isdir(root)]
    resolved = sorted({os.path.realpath(root) for root in roots})
    kept: list[bytes] = []
    for root in resolved:
        if not any(within(root, other) for other in kept):
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
        self._kernel = kernel_mounts()
        self._context = context
        self.found: list[FoundKey] = []
        self.left_out: list[bytes] = []
        self.seen = 0
        self.unreadable = 0

    def tree(self, root: bytes) -> None:
        """Search a folder and everything below it; the folder itself is entered whatever it is called."""
        todo = [(root, parents_are_software(root))]
        while todo:
            self._context.cancel.check()
            path, in_software = todo.pop()
            if path in self._skip or (path in self._kernel and path != root):
                continue
            try:
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self.unreadable += 1
                continue
            names = {entry.name for entry in entries}
            if path != root and is_closed(names):
                self.left_out.append(path)
                continue
            if any(mark in names for mark in _GNUPG_MARKS) and self._gnupg(path):
                continue
            self._files(path, entries)
            inside = in_software or is_source_tree(names)
            todo += [(below, inside) for below in self._folders(entries, in_software=inside)]

    def _folders(self, entries: Sequence[os.DirEntry[bytes]], *, in_software: bool) -> Iterator[bytes]:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            if is_noise(entry.path, entry.name, in_software=in_software):
                self.left_out.append(entry.path)
            else:
                yield entry.path

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
            kind = recognise(entry.path, head, facts.st_size)
            if kind is not None:
                private = True
                self.found.append(FoundKey(entry.path, kind, _is_exposed(kind, facts.st_mode)))
            elif is_companion(entry.path, head):
                companions.append(FoundKey(entry.path, COMPANION, exposed=False))
        if private:
            self.found += companions
        self._context.progress(Progress("discover", self.seen, 0, 0, 0, os.fsdecode(folder)))


def _is_exposed(kind: Kind, mode: int) -> bool:
    # /etc/shadow belongs to a group of its own on purpose.
    return bool(stat.S_IMODE(mode) & (0o004 if kind is ACCOUNTS else 0o044))


def _head(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.read(descriptor, HEAD)
        if len(head) == HEAD and b"-----BEGIN " in head:
            head += os.read(descriptor, TEXT_HEAD - HEAD)
        return head
    finally:
        os.close(descriptor)
