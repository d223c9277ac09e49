"""What a machine keeps about a repository: pinned history and its own credential (state), and disposable caches."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from keyark.errors import StorageError, UsageError
from keyark.storage.local import make_folders, translate


def write_private(path: str, data: bytes) -> None:
    """Replace ``path`` durably: temporary file of mode 600, fsync, rename, fsync of the folder."""
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".tmp-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Pins:
    """The furthest history this machine has seen of one repository."""

    keyring: tuple[int, bytes] | None = None
    heads: dict[tuple[bytes, bytes], tuple[int, bytes]] = field(default_factory=dict)  # (compartment, writer) -> head


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of this installation. ``state_dir`` is kept, ``cache_dir`` may be deleted at any time."""

    state_dir: str
    cache_dir: str

    def state(self, repository: bytes) -> RepositoryState:
        """This machine's state about one repository; the folder is made on first use."""
        return RepositoryState(_folder(self.state_dir, repository))

    def cache(self, repository: bytes) -> str:
        """The cache folder of one repository, made on first use."""
        return _folder(self.cache_dir, repository)

    def repository_at(self, location: str) -> bytes | None:
        """The id of the repository that this machine last used at ``location``."""
        value = _read_json(os.path.join(self.state_dir, _LOCATIONS))
        try:
            return None if value is None or location not in value else bytes.fromhex(value[location])
        except (TypeError, ValueError) as e:
            raise UsageError(f"{os.path.join(self.state_dir, _LOCATIONS)} is damaged; check and delete it") from e

    def remember(self, location: str, repository: bytes) -> None:
        """Remember which repository is at ``location``."""
        if self.repository_at(location) == repository:
            return
        path = os.path.join(self.state_dir, _LOCATIONS)
        value = _read_json(path) or {}
        value[location] = repository.hex()
        write_state(path, json.dumps(value, indent=1).encode())


_MAX_UNCONFIRMED = 64  # snapshots of runs that died; older ones are forgotten
_LOCATIONS = "locations.json"


def _read_json(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise UsageError(f"cannot read {path}: {e}") from e


def write_state(path: str, data: bytes) -> None:
    """As `write_private`, with errors of ours: a full disk under the state is exit code 14 like one under the repository."""
    try:
        write_private(path, data)
    except OSError as e:
        raise translate(e, path) from e


def _folder(base: str, repository: bytes) -> str:
    path = os.path.join(os.path.abspath(base), repository.hex()[:32])
    try:
        make_folders(path)
    except OSError as e:
        raise StorageError(f"cannot make {path}: {e.strerror}; set KEYARK_STATE_DIR or --cache-dir") from e
    return path


_process_lock = threading.RLock()
_held: set[str] = set()  # folders whose lock this process holds


class RepositoryState:
    """Pins, the machine's writer credential and its current epoch, in one folder of mode 700."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.credential_path = os.path.join(folder, "writer.credential")
        self._reseal_path = os.path.join(folder, "reseal.json")
        self._pins_path = os.path.join(folder, "pins.json")
        self._unconfirmed_path = os.path.join(folder, "unconfirmed.json")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Serialise the short steps (enrolment, commit) of processes of this machine; never held during a transfer.

        Re-entrant within the process.
        """
        with _process_lock:
            if self.folder in _held:
                yield
                return
            descriptor = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _held.add(self.folder)
                yield
            finally:
                _held.discard(self.folder)
                os.close(descriptor)

    def read_pins(self) -> Pins:
        """What this machine has seen; empty when it has seen nothing."""
        value = _read_json(self._pins_path)
        if value is None:
            return Pins()
        try:
            keyring = value["keyring"]
            return Pins(
                None if keyring is None else (int(keyring[0]), bytes.fromhex(keyring[1])),
                {
                    (bytes.fromhex(key[:32]), bytes.fromhex(key[33:])): (int(head[0]), bytes.fromhex(head[1]))
                    for key, head in value["heads"].items()
                },
            )
        except (KeyError, TypeError, ValueError, IndexError) as e:
            raise UsageError(
                f"{self._pins_path} is damaged; it protects against rolled-back repositories. Check the repository id, "
                "then delete the file"
            ) from e

    def advance_pins(self, keyring: tuple[int, bytes], heads: dict[tuple[bytes, bytes], tuple[int, bytes]]) -> None:
        """Remember the furthest of what was known and what is given."""
        with self.locked():
            known = self.read_pins()
            merged = dict(known.heads)
            for key, head in heads.items():
                if key not in merged or merged[key][0] < head[0]:
                    merged[key] = head
            highest = keyring if known.keyring is None or known.keyring[0] < keyring[0] else known.keyring
            if highest == known.keyring and merged == known.heads:
                return
            value = {
                "keyring": [highest[0], highest[1].hex()],
                "heads": {f"{c.hex()}/{w.hex()}": [n, sha.hex()] for (c, w), (n, sha) in merged.items()},
            }
            write_state(self._pins_path, json.dumps(value, indent=1).encode())

    def oldest_unconfirmed(self, chain: tuple[bytes, bytes], first: int) -> bytes | None:
        """The oldest snapshot, numbered ``first`` or later, that a run of this machine stored and never reported done."""
        with self.locked():
            found = sorted((number, item) for key, number, item in self._unconfirmed() if key == chain)
        return next((item for number, item in found if number >= first), None)

    def note_unconfirmed(self, chain: tuple[bytes, bytes], head: tuple[int, bytes]) -> None:
        """A snapshot is about to be stored; until `confirm` its run may die before it has looked back."""
        with self.locked():
            self._write_unconfirmed([*self._unconfirmed(), (chain, *head)])

    def made(self, chain: tuple[bytes, bytes], head: tuple[int, bytes]) -> bool:
        """Whether this machine may have made a snapshot: not when it is newer than all that it remembers of the chain."""
        if any((key, number, item) == (chain, *head) for key, number, item in self._unconfirmed()):
            return True  # read before the pins: what is confirmed meanwhile is in those
        known = self.read_pins().heads.get(chain)
        return known is None or known[0] >= head[0]

    def confirm(self, chain: tuple[bytes, bytes], snapshot: bytes) -> None:
        """A snapshot was reported done, or another replaces it."""
        with self.locked():
            self._write_unconfirmed([row for row in self._unconfirmed() if (row[0], row[2]) != (chain, snapshot)])

    def _unconfirmed(self) -> list[tuple[tuple[bytes, bytes], int, bytes]]:
        rows = _read_json(self._unconfirmed_path) or []
        try:
            return [((bytes.fromhex(c), bytes.fromhex(w)), int(n), bytes.fromhex(sha)) for c, w, n, sha in rows]
        except (TypeError, ValueError) as e:
            raise UsageError(f"{self._unconfirmed_path} is damaged; delete it") from e

    def _write_unconfirmed(self, rows: list[tuple[tuple[bytes, bytes], int, bytes]]) -> None:
        kept = rows[-_MAX_UNCONFIRMED:]
        value = [[c.hex(), w.hex(), number, sha.hex()] for (c, w), number, sha in kept]
        write_state(self._unconfirmed_path, json.dumps(value).encode())

    def read_reseal(self) -> dict[str, Any] | None:
        """The re-sealing under way from this machine: for each compartment the epoch that data is sealed to anew."""
        value: dict[str, Any] | None = _read_json(self._reseal_path)
        return value

    def write_reseal(self, value: dict[str, Any] | None) -> None:
        """Remember a re-sealing under way; None when it is done."""
        if value is not None:
            write_private(self._reseal_path, json.dumps(value).encode())
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._reseal_path)

    def read_epoch(self, writer: bytes) -> dict[str, Any] | None:
        """The current epoch of a writer on this machine, as `keyark.repository.epochs` stored it."""
        value: dict[str, Any] | None = _read_json(self._epoch_path(writer))
        return value

    def write_epoch(self, writer: bytes, value: dict[str, Any]) -> None:
        write_state(self._epoch_path(writer), json.dumps(value).encode())

    def _epoch_path(self, writer: bytes) -> str:
        return os.path.join(self.folder, f"epoch-{writer.hex()}.json")
