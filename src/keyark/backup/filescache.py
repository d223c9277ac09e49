"""What each folder looked like last time, so that unchanged files are not opened. Disposable; sealed, since it holds names."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any

import msgpack

from keyark.crypto.kdf import hkdf, lp
from keyark.crypto.suites import Suite, seal, unseal
from keyark.errors import DamagedError
from keyark.repository.cache import Cache
from keyark.repository.unlocked import CompartmentKeys

_FLUSH = 500  # records written in one transaction

# fingerprint, encoded node, chunk references: None, one id, or a sequence of (id, length)
Entry = tuple[bytes, bytes, Any]


@dataclass(slots=True)
class FolderRecord:
    """One folder as it was: its files and its own tree segments.

    ``packs`` and ``tree`` say which packs, by local number, hold how many bytes of the files and of the segments; None while
    that is not known.
    """

    files: dict[bytes, Entry] = field(default_factory=dict)
    segments: tuple[bytes, ...] = ()
    lengths: tuple[int, ...] = ()  # of the segments, bytes
    packs: dict[int, int] | None = None
    tree: dict[int, int] | None = None


class FilesCache:
    """Folder records of one compartment and key generation, by path."""

    def __init__(self, cache: Cache, keys: CompartmentKeys, repository: bytes, compartment: bytes) -> None:
        self._cache = cache
        self._repository = repository
        self._compartment = compartment
        info = lp(b"keyark/v1") + lp(repository) + lp(compartment)
        self._seal_key = hkdf(keys.id_key.reveal(), salt=None, info=info + lp(b"files cache"), length=32)
        self._name_key = hkdf(keys.id_key.reveal(), salt=None, info=info + lp(b"files cache names"), length=32)
        self._pending: list[tuple[bytes, bytes]] = []

    def _key(self, path: bytes) -> bytes:
        return hmac.digest(self._name_key, path, hashlib.sha256)[:20]

    def load(self, path: bytes) -> FolderRecord | None:
        """The record of a folder; None when there is none or it cannot be used."""
        key = self._key(path)
        sealed = self._cache.folder(key)
        if sealed is None:
            return None
        try:
            plain = unseal(
                Suite.AES_256_GCM,
                self._seal_key,
                sealed,
                repository=self._repository,
                compartment=self._compartment,
                kind="files cache",
                aad=key,
            )
            return FolderRecord(*msgpack.unpackb(plain, raw=False, use_list=False, strict_map_key=False))
        except (DamagedError, ValueError, TypeError, msgpack.UnpackException):
            return None

    def store(self, path: bytes, record: FolderRecord) -> None:
        """Remember a folder."""
        key = self._key(path)
        plain = [record.files, record.segments, record.lengths, record.packs, record.tree]
        sealed = seal(
            Suite.AES_256_GCM,
            self._seal_key,
            msgpack.packb(plain, use_bin_type=True),
            repository=self._repository,
            compartment=self._compartment,
            kind="files cache",
            aad=key,
        )
        self._pending.append((key, sealed))
        if len(self._pending) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._cache.put_folders(pending)
