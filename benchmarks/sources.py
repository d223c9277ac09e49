"""The data that is backed up: the same on every run, from fixed seeds and from a folder of the system."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FILES_PER_FOLDER = 50
_SMALLEST, _LARGEST = 32, 4096  # bytes of a secret
_PEM = (b"-----BEGIN PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----\n")
_WRITE = 4_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to back up."""

    path: Path
    files: int  # regular files
    size: int  # their bytes


def prepare(folder: Path, name: str, facts: dict[str, object], make: Callable[[Path], None]) -> Source:
    """Make a source, or take the one that an earlier run with --keep left, if it was made from the same ``facts``."""
    path, stamp = folder / name, folder / f"{name}.json"
    wanted = json.dumps(facts, sort_keys=True)
    if not stamp.exists() or stamp.read_text() != wanted:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        make(path)
        stamp.write_text(wanted)
    return Source(path, *count(path))


def count(path: Path) -> tuple[int, int]:
    """Regular files below ``path`` and their bytes."""
    files = size = 0
    for facts in _files(path):
        files += 1
        size += facts.st_size
    return files, size


def _files(path: Path | str) -> Iterator[os.stat_result]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.stat(follow_symlinks=False)


def secrets(path: Path, files: int, seed: int = 1) -> None:
    """Distinct secrets of 32 B to 4 KB, evenly spread, 50 to a folder: tokens, and from 128 bytes on private keys in PEM's form."""
    rng = random.Random(seed)
    for number in range(files):
        folder = path / f"{number // FILES_PER_FOLDER:05d}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir()
        with open(folder / f"{number:07d}.key", "wb") as file:
            file.write(_secret(rng, rng.randint(_SMALLEST, _LARGEST)))


def _secret(rng: random.Random, size: int) -> bytes:
    text = base64.b64encode(rng.randbytes(size))  # more than enough of it
    if size < 128:
        return text[:size]
    room = size - len(_PEM[0]) - len(_PEM[1])
    lines = b"\n".join(text[start : start + 64] for start in range(0, room, 64))
    return _PEM[0] + lines[: room - 1] + b"\n" + _PEM[1]


def real_tree(path: Path, origin: Path, size: int) -> None:
    """Copy whole folders of ``origin`` until ``size`` bytes are reached, in the order of the SHA-256 of their names.

    So a part of a large tree is taken from all over it, and the same part each time. Modes, times and links are kept.
    """
    folders = sorted(
        (os.path.relpath(folder, origin) for folder, _, _ in os.walk(origin)),
        key=lambda name: hashlib.sha256(os.fsencode(name)).digest(),
    )
    copied: dict[tuple[int, int], str] = {}  # of files with several names
    done = 0
    for name in folders:
        target = path / name
        target.mkdir(parents=True, exist_ok=True)
        with os.scandir(origin / name) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                if done + facts.st_size > size:
                    continue  # perhaps a smaller one still fits
                done += _copy(entry, facts, str(target / entry.name), copied)
        if done >= size * 0.999:
            return


def _copy(entry: os.DirEntry[str], facts: os.stat_result, target: str, copied: dict[tuple[int, int], str]) -> int:
    key = (facts.st_dev, facts.st_ino)
    if key in copied:
        os.link(copied[key], target)
        return 0
    shutil.copy2(entry.path, target, follow_symlinks=False)
    if facts.st_nlink > 1:
        copied[key] = target
    return 0 if entry.is_symlink() else facts.st_size


def random_bytes(path: Path, size: int) -> None:
    """One file of random bytes: nothing to compress, nothing to deduplicate."""
    rng = random.Random(3)
    with open(path / "random", "wb") as file:
        file.writelines(rng.randbytes(min(_WRITE, size - start)) for start in range(0, size, _WRITE))
