"""What a search for this host's keys leaves out: kernel file systems, caches, software and the test keys it ships."""

from __future__ import annotations

import os
import re
from collections.abc import Container

_NAMES = frozenset(
    {
        b".cache", b".keyark", b"node_modules", b"site-packages", b"dist-packages", b"__pycache__", b".git", b".hg", b".svn",
        b".tox", b".rustup", b"overlay2", b"containerd", b"snapd", b"lost+found", b"ca-certificates", b".hypothesis",
        b".mypy_cache", b".pytest_cache", b".ruff_cache",
    }
)  # fmt: skip
_PATHS = frozenset(
    {
        b"/var/lib/dpkg", b"/var/lib/apt", b"/var/lib/docker/image", b"/var/lib/docker/buildkit", b"/etc/alternatives",
        b"/var/lib/containers/storage/overlay", b"/var/cache", b"/usr/share", b"/usr/src", b"/usr/include",
    }
)  # fmt: skip
_RUNTIME = re.compile(rb"(lib)?python\d(\.\d+)?|gems|\.(pyenv|rbenv|nvm|npm|gradle|m2|cargo/registry)")
_TESTS = re.compile(
    rb"(unit|integration|regression|lib)?[_-]?tests?|__tests__|test[_-]?data|fixtures?|spec|examples?", re.IGNORECASE
)
# Below these lies software, whose test folders hold other people's keys. Elsewhere a folder may be called what it likes.
_SOFTWARE = re.compile(rb"/(usr|opt|snap|nix|gnu)(/|$)")
_REPOSITORY = frozenset({b"keys", b"wraps", b"packs", b"snapshots"})
_KERNEL = frozenset(
    """
    autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue nsfs proc pstore
    rpc_pipefs securityfs selinuxfs squashfs sysfs tracefs
    """.split()  # noqa: SIM905 - a list of words
)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def kernel_mounts() -> frozenset[bytes]:
    """Where file systems are mounted that hold no files of anybody: /proc, /sys and their like, and read-only images."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return frozenset({b"/proc", b"/sys", b"/dev"})
    found = set()
    for line in lines:
        before, _, after = line.partition(b" - ")
        place, kind = before.split()[4], after.split()[0]
        if kind.decode("ascii", "replace") in _KERNEL:
            found.add(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), place))
    return frozenset(found)


def is_noise(path: bytes, name: bytes, *, in_software: bool) -> bool:
    """Whether a folder is left out, by its path and name; ``in_software`` says that it lies in a program's source tree."""
    if name in _NAMES or path in _PATHS or _RUNTIME.fullmatch(name):
        return True
    return _TESTS.fullmatch(name) is not None and (in_software or _SOFTWARE.match(path) is not None)


def is_closed(names: Container[bytes]) -> bool:
    """Whether a folder with these entries is a cache or a repository of Keyark's, whose content is sealed."""
    return b"CACHEDIR.TAG" in names or all(name in names for name in _REPOSITORY)


def is_source_tree(names: Container[bytes]) -> bool:
    """Whether a folder with these entries is the top of a program's source tree."""
    return (
        b".git" in names
        or b".hg" in names
        or b"pyproject.toml" in names
        or b"go.mod" in names
        or b"Cargo.toml" in names
    )


def within(path: bytes, folder: bytes) -> bool:
    """Whether ``path`` is ``folder`` or lies in it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def parents_are_software(path: bytes) -> bool:
    """Whether a folder above ``path`` is the top of a source tree."""
    parent = os.path.dirname(path)
    while parent not in (b"/", b""):
        if any(os.path.lexists(os.path.join(parent, mark)) for mark in (b".git", b".hg")):
            return True
        parent = os.path.dirname(parent)
    return False
