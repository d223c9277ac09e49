"""The configuration files of the documented front doors: ``backup_config.json`` and ``monitor_config.json``.

Every key is known and checked; an unknown one is an error that names it. pydantic checks, frozen models carry.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keyark.errors import UsageError

M = TypeVar("M", bound=BaseModel)
Days = Annotated[int, Field(ge=1, le=36500)]
Percent = Annotated[int, Field(ge=1, le=100)]
BACKENDS = ("local", "s3", "azure", "gcs", "sftp", "ftp", "ftps", "nfs")
Backend = Literal["local", "s3", "azure", "gcs", "sftp", "ftp", "ftps", "nfs"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BackupSettings(_Model):
    """What to keep and how to pack it. ``compression_level`` is the codec's own; None means its default."""

    retention_days: Days | None = None
    max_backups: Annotated[int, Field(ge=1)] | None = None
    compression: Literal["zstd", "gzip", "bzip2", "lzma", "none", "auto"] = "zstd"
    compression_level: int | None = None
    encryption_enabled: bool = True
    verification_enabled: bool = True


class Encryption(_Model):
    """``key_derivation`` and ``iterations`` are those of passphrase slots made from here on."""

    algorithm: str = "AES-256-GCM"
    key_derivation: Literal["Argon2id", "scrypt", "PBKDF2-SHA256"] = "Argon2id"
    iterations: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    recovery_passphrase_file: str | None = None
    recovery_recipient: str | None = None


class BackendOptions(_Model):
    """Where a backend is. Which keys it needs is the driver's to say."""

    model_config = ConfigDict(extra="allow", frozen=True)


class StorageSettings(_Model):
    """Where backups go."""

    backends: tuple[Backend, ...] = ("local",)
    local_path: str = "./backups"
    cloud_encryption: bool = True
    s3: BackendOptions | None = None
    azure: BackendOptions | None = None
    gcs: BackendOptions | None = None
    sftp: BackendOptions | None = None
    ftp: BackendOptions | None = None
    ftps: BackendOptions | None = None
    nfs: BackendOptions | None = None


class BackupConfig(_Model):
    """``backup_config.json``. ``sources`` empty means what `keyark discover` finds."""

    backup_settings: BackupSettings = BackupSettings()
    encryption: Encryption = Encryption()
    storage: StorageSettings = StorageSettings()
    sources: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    excludes: tuple[str, ...] = ()

    @property
    def compression(self) -> str:
        """As ``codec[:level]``."""
        settings = self.backup_settings
        if settings.compression_level is None or settings.compression in ("none", "auto"):
            return settings.compression
        return f"{settings.compression}:{settings.compression_level}"


class Monitoring(_Model):
    """How the monitor runs. ``health_check_interval`` in seconds."""

    enabled: bool = True
    daemon_mode: bool = True
    health_check_interval: Annotated[int, Field(ge=1)] = 300


class Thresholds(_Model):
    """When the monitor warns."""

    disk_warning_percent: Percent = 80
    disk_critical_percent: Percent = 90
    backup_age_warning_hours: Annotated[int, Field(ge=1)] = 26


class Email(_Model):
    """Who is told by mail."""

    enabled: bool = False
    recipients: tuple[str, ...] = ()


class Notifications(_Model):
    """Who is told, and how."""

    email: Email = Email()


class MonitorConfig(_Model):
    """``monitor_config.json``."""

    monitoring: Monitoring = Monitoring()
    thresholds: Thresholds = Thresholds()
    notifications: Notifications = Notifications()


def load_backup_config(path: str) -> BackupConfig:
    """Read and check ``backup_config.json``. UsageError names the key that is wrong and what would be right."""
    config = _load(path, BackupConfig)
    if not config.backup_settings.encryption_enabled:
        raise UsageError(
            f"{path}: backup_settings.encryption_enabled cannot be false: a repository is always sealed; "
            "only a portable archive (`keyark export`) may be open"
        )
    if not config.storage.cloud_encryption:
        raise UsageError(f"{path}: storage.cloud_encryption cannot be false: what leaves this machine is always sealed")
    _check_backends(path, config.storage)
    return config


def _check_backends(path: str, storage: StorageSettings) -> None:
    if not storage.backends:
        raise UsageError(f'{path}: storage.backends is empty; write ["local"]')
    for backend in storage.backends:
        if backend == "local" or getattr(storage, backend) is not None or is_shipped_example(storage):
            continue
        raise UsageError(
            f"{path}: storage.backends names {backend!r}, but there is no storage.{backend}; add one beside local_path, "
            f'such as "{backend}": {{"bucket": "...", "prefix": "..."}}, or take {backend!r} out of the list'
        )


def is_shipped_example(storage: StorageSettings) -> bool:
    """Whether this is the example's storage section, in which ``s3`` stands for what one could add."""
    return storage == StorageSettings(backends=("local", "s3"), local_path=storage.local_path)


def load_monitor_config(path: str) -> MonitorConfig:
    """Read and check ``monitor_config.json``."""
    return _load(path, MonitorConfig)


def _load(path: str, model: type[M]) -> M:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as e:
        raise UsageError(f"cannot read the configuration {path}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"{path} is not valid JSON: {e}") from e
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as e:
        raise UsageError(f"{os.path.basename(path)}: {_explain(e)}") from e


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}")
        else:
            lines.append(f"{where or 'the file'}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "; ".join(lines)
