"""Diagnosing an installation: the host, the key file, the repository and what its storage enforces."""

from __future__ import annotations

import os
import platform
import resource
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from keyark.crypto.openssl import openssl_enc
from keyark.crypto.slots import is_generated_line, read_key_file
from keyark.errors import KeyarkError, ObjectExists, StorageError, UsageError
from keyark.repository.names import probe_name
from keyark.repository.places import write_private
from keyark.repository.repository import Repository
from keyark.storage.protocol import Storage
from keyark.upkeep.model import Check
from keyark.upkeep.slots import list_slots

_LIBRARIES = ("cryptography", "blake3", "zstandard", "pyfastcdc", "msgpack", "pyrage")
_TEST_TEXT = b"This file was decrypted with openssl alone: the key file is sound.\n"


def check_host() -> Iterator[Check]:
    """Python, libraries, core dumps, swap."""
    yield Check("python", "ok", f"{platform.python_version()} with SQLite {sqlite3.sqlite_version}")
    yield Check("libraries", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES))
    cores = resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    advice = "" if cores else "keys could end up in a core file"
    yield Check("core dumps", "ok" if cores else "warning", "off" if cores else "on", advice)
    swap = _swap()
    if swap is None:
        yield Check("swap", "warning", "cannot be told on this system")
    elif swap:
        yield Check(
            "swap", "warning", ", ".join(swap), "keys in memory may be written to it; encrypt it or turn it off"
        )
    else:
        yield Check("swap", "ok", "none")


def _swap() -> list[str] | None:
    try:
        with open("/proc/swaps", encoding="utf-8") as file:
            return [line.split()[0] for line in file.read().splitlines()[1:] if line.strip()]
    except OSError:
        return None


def check_key_file(path: str, test_path: str) -> Iterator[Check]:
    """The key file's form and mode; writes the file that openssl opens with it."""
    try:
        line, warning = read_key_file(path)
    except UsageError as e:
        yield Check("key file", "failed", str(e))
        return
    yield Check("key file", "ok" if warning is None else "warning", warning or f"{path}, mode 600 or stricter")
    if not is_generated_line(line):
        yield Check("test.enc", "warning", "not written: only for key files that Keyark generated")
        return
    try:
        write_private(test_path, openssl_enc(line, _TEST_TEXT))
    except OSError as e:
        yield Check("test.enc", "failed", f"cannot write {test_path}: {e.strerror}")
        return
    command = f"openssl enc -aes-256-cbc -d -in {os.path.basename(test_path)} -out test.dec -pass file:{os.path.basename(path)}"
    yield Check("test.enc", "ok", f"{test_path} written; `{command}` opens it")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a storage let us do with an object of our own."""

    overwrite: bool
    delete: bool

    @property
    def append_only(self) -> bool:
        return not self.overwrite and not self.delete

    @property
    def detail(self) -> str:
        if self.append_only:
            return "append-only: it refuses to overwrite and to delete"
        allowed = " and ".join(word for word, yes in (("overwrite", self.overwrite), ("delete", self.delete)) if yes)
        return f"not append-only: whoever holds this machine's access to it can {allowed} backups"


def probe_storage(storage: Storage) -> Probe:
    """Try to overwrite and to delete a scratch object, with the access of this run."""
    name = probe_name()
    storage.put(name, b"1")
    overwrite = delete = True
    try:
        storage.put(name, b"2", create_only=False)
        overwrite = storage.get(name) == b"2"
    except (StorageError, ObjectExists):
        overwrite = False
    try:
        storage.delete(name)
    except StorageError:
        delete = False
    return Probe(overwrite, delete)


def check_repository(repository: Repository) -> Iterator[Check]:
    """Reachable, history honest, permissions, keys, what the storage enforces."""
    keyring = repository.keyring
    yield Check(
        "repository", "ok", f"{repository.storage.location}, id {repository.id_hex[:16]}…, keyring {keyring.generation}"
    )
    try:
        history = repository.judge_history()
        if history.alarms:
            yield Check("history", "failed", history.alarms[0].what, "see `keyark verify`")
        else:
            yield Check("history", "ok", f"snapshots without a gap: {len(history.live)}")
    except KeyarkError as e:
        yield Check("history", "failed", str(e))
    slots = list_slots(repository)
    if len(slots) == 1:
        yield Check("keys", "warning", "there is only one way in", "`keyark key add` makes another")
    else:
        yield Check("keys", "ok", f"{len(slots)} ways in")
    for slot in slots:
        if slot.warning is not None:
            yield Check("keys", "warning", f"{slot.id[:8]} ({slot.kind}): {slot.warning}")
    storage = repository.storage
    if os.path.isdir(storage.location):
        mode = os.stat(storage.location).st_mode & 0o777
        status = "ok" if not mode & 0o077 else "warning"
        yield Check(
            "permissions",
            status,
            f"{storage.location} has mode {mode:o}",
            "" if status == "ok" else f"`chmod 700 {storage.location}`",
        )
    try:
        probe = probe_storage(storage)
        yield Check("storage", "ok" if probe.append_only else "warning", probe.detail)
    except KeyarkError as e:
        yield Check("storage", "failed", str(e))
