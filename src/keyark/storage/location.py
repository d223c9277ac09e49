"""From a LOCATION to a storage: the scheme picks the driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import metadata
from urllib.parse import unquote, urlsplit

from keyark.errors import UsageError
from keyark.storage.local import LocalStorage
from keyark.storage.protocol import Storage

ENTRY_POINTS = "keyark.storage"  # drivers of other packages: scheme -> callable(location, create=, options=)
PLANNED = ("s3", "azure", "gs", "sftp", "ftp", "ftps", "nfs")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

Driver = Callable[..., Storage]


def open_storage(location: str, *, create: bool = False, options: Mapping[str, str] | None = None) -> Storage:
    """Open the storage at ``location``; ``create`` makes its folder or prefix. UsageError for an unknown scheme."""
    match = _SCHEME.match(location)
    if match is None:
        if not location:
            raise UsageError("the repository's location is empty; give -r LOCATION or set KEYARK_REPOSITORY")
        return LocalStorage(location, create=create)
    scheme = match[1].lower()
    if scheme == "file":
        return LocalStorage(_file_path(location), create=create)
    return _driver(scheme, location)(location, create=create, options=dict(options or {}))


def _file_path(location: str) -> str:
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise UsageError(f"{without_credentials(location)}: write a local folder as file:///path or /path")
    return unquote(parts.path)


def _driver(scheme: str, location: str) -> Driver:
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        driver: Driver = entry.load()
        return driver
    shown = without_credentials(location)
    if scheme in PLANNED:
        raise UsageError(f"{shown}: this version of Keyark has no {scheme} storage yet; use a local or mounted folder")
    raise UsageError(f"{shown}: storage {scheme!r} is unknown; use /path or file:///path")


def without_credentials(location: str) -> str:
    """The location with user information and query cut out, fit for logs and errors."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "(malformed location)"
    if not parts.scheme or "://" not in location:
        return location
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
