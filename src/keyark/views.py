"""Reports as plain values with the field names that users and programs know (restic's, where it has one)."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyark.backup.model import BackupReport
    from keyark.recovery.model import Entry, RestoreReport, SnapshotInfo


def rfc3339(time_ns: int) -> str:
    """UTC, with nanoseconds where there are any."""
    seconds, rest = divmod(time_ns, 10**9)
    text = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"


def path_text(path: bytes) -> str:
    """A path for JSON: bytes that are not UTF-8 become U+FFFD escapes of the form ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def backup_summary(report: BackupReport) -> dict[str, Any]:
    """The summary of a backup."""
    return {
        "snapshot_id": report.snapshot_id,
        "name": report.name,
        "files_new": report.files_new,
        "files_changed": report.files_changed,
        "files_unmodified": report.files_unmodified,
        "dirs_new": report.dirs_new,
        "dirs_changed": report.dirs_changed,
        "dirs_unmodified": report.dirs_unmodified,
        "data_added": report.data_added,
        "data_added_packed": report.data_added_packed,
        "total_files_processed": report.total_files_processed,
        "total_bytes_processed": report.total_bytes_processed,
        "total_duration": round(report.total_duration, 6),
        "parent": report.parent,
        "dry_run": report.dry_run,
        "problems": [{"path": path_text(item.path), "what": item.what} for item in report.problems],
    }


def snapshot(info: SnapshotInfo) -> dict[str, Any]:
    """One snapshot."""
    return {
        "id": info.id,
        "short_id": info.short_id,
        "name": info.name,
        "time": rfc3339(info.time_ns),
        "hostname": info.hostname,
        "username": info.username,
        "paths": [path_text(path) for path in info.paths],
        "tags": list(info.tags),
        "summary": dict(info.summary),
        "parent": info.parent,
        "problems": [{"path": path_text(path), "what": what} for path, what in info.problems],
        "writer": info.writer_label,
        "sequence": info.sequence,
    }


def entry(item: Entry) -> dict[str, Any]:
    """One object in a snapshot."""
    value: dict[str, Any] = {
        "path": path_text(item.path),
        "name": path_text(os.path.basename(item.path)),
        "type": item.type,
        "mode": item.mode,
        "permissions": f"{item.mode:04o}",
        "uid": item.uid,
        "gid": item.gid,
        "user": item.user,
        "group": item.group,
        "size": item.size,
        "mtime": rfc3339(item.mtime_ns),
        "sha256": item.sha256,
    }
    if item.link_target is not None:
        value["linktarget"] = path_text(item.link_target)
    if item.changed:
        value["changed_while_read"] = True
    if item.snapshot is not None:
        value["snapshot"] = item.snapshot
    return value


def restore_report(report: RestoreReport) -> dict[str, Any]:
    """The summary of a restore."""
    return {
        "snapshot_id": report.snapshot_id,
        "name": report.name,
        "target": path_text(report.target),
        "files_restored": report.files_restored,
        "files_skipped": report.files_skipped,
        "dirs_restored": report.dirs_restored,
        "others_restored": report.others_restored,
        "bytes_restored": report.bytes_restored,
        "bytes_fetched": report.bytes_fetched,
        "total_duration": round(report.total_duration, 6),
        "dry_run": report.dry_run,
        "verified": report.verified,
        "problems": [
            {"path": path_text(item.path), "what": item.what, "integrity": item.integrity} for item in report.problems
        ],
        "notices": list(report.notices),
    }
