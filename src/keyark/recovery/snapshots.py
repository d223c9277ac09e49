"""Which snapshots there are, and which one a user means."""

from __future__ import annotations

import os
from collections.abc import Sequence

from keyark.errors import DamagedError, IntegrityError, NoKeyError, NotFoundError, UsageError
from keyark.operation import Context
from keyark.recovery.model import SnapshotFilter, SnapshotInfo
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot

_FUTURE_TOLERANCE = 10 * 60 * 10**9  # ns; clocks of two hosts may differ this much
_ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar.zst", ".tar")


def list_snapshots(repository: Repository, chosen: SnapshotFilter, context: Context) -> list[SnapshotInfo]:
    """Snapshots, oldest first. With an operator's credential only what is listed is known; then filters cannot be used."""
    history = repository.history("list snapshots")
    infos, _ = _describe(repository, history.live, context)
    return _select(infos, chosen)


def describe(repository: Repository, snapshot: Snapshot) -> SnapshotInfo:
    """What the keys at hand tell about one snapshot. IntegrityError when it is damaged."""
    listed = repository.open_listed(snapshot)
    content = repository.try_content(snapshot)
    writer = repository.keyring.writers[snapshot.head.writer]
    summary = {
        "total_files_processed": listed.files,
        "total_dirs_processed": listed.dirs,
        "total_bytes_processed": listed.bytes,
        "data_added": listed.data_added,
        "data_added_packed": listed.data_added_packed,
        "problems": listed.problems,
        "total_duration": listed.duration_ns / 1e9,
    }
    return SnapshotInfo(
        id=snapshot.id.hex(),
        compartment=snapshot.head.compartment.hex(),
        writer=snapshot.head.writer.hex(),
        sequence=snapshot.head.sequence,
        time_ns=listed.time_ns,
        content_open=content is not None,
        name=None if content is None else content.name,
        hostname=None if content is None else content.hostname,
        username=None if content is None else content.username,
        paths=() if content is None else content.paths,
        tags=() if content is None else content.tags,
        parent=None if content is None or content.parent is None else content.parent.hex(),
        problems=() if content is None else content.problems,
        writer_label=repository.keys.label(writer.label),
        summary=summary,
    )


def _describe(
    repository: Repository, snapshots: Sequence[Snapshot], context: Context
) -> tuple[list[SnapshotInfo], IntegrityError | None]:
    """What is known of each snapshot, oldest first, and the first damage that kept one out; each is warned about."""
    found, damage = [], None
    for snapshot in snapshots:
        try:
            found.append(describe(repository, snapshot))
        except IntegrityError as e:
            context.warn(f"snapshot {snapshot.id.hex()[:8]} cannot be opened: {e}")
            damage = damage or e
        except NoKeyError as e:
            if repository.keys.slot is None and repository.keys.operator is None:
                raise
            context.warn(str(e))
    return in_order(found), damage


def in_order(infos: Sequence[SnapshotInfo]) -> list[SnapshotInfo]:
    """Oldest first: by time, but never against a writer's own sequence. A clock that once ran ahead makes nothing newer."""
    not_after: dict[str, int] = {}  # writer -> the earliest time among its later snapshots
    keyed = []
    for info in sorted(infos, key=lambda info: info.sequence, reverse=True):
        time_ns = not_after[info.writer] = min(info.time_ns, not_after.get(info.writer, info.time_ns))
        keyed.append(((time_ns, info.sequence), info))
    return [info for _, info in sorted(keyed, key=lambda pair: pair[0])]


def _select(infos: list[SnapshotInfo], chosen: SnapshotFilter) -> list[SnapshotInfo]:
    if chosen.tags or chosen.hosts or chosen.paths:
        if any(not info.content_open for info in infos):
            raise UsageError("tags, hosts and paths are content: filtering by them needs a key that reads")
        infos = [
            info
            for info in infos
            if (not chosen.tags or set(chosen.tags) & set(info.tags))
            and (not chosen.hosts or info.hostname in chosen.hosts)
            and (not chosen.paths or set(chosen.paths) <= set(info.paths))
        ]
    return infos if chosen.last is None else infos[max(0, len(infos) - chosen.last) :]


def find_snapshot(repository: Repository, text: str, context: Context) -> SnapshotInfo:
    """The snapshot that an id, unique prefix, name or ``latest`` means."""
    return resolve(repository, text, None, context)[1]


def resolve(
    repository: Repository, text: str | None, at_ns: int | None, context: Context
) -> tuple[Snapshot, SnapshotInfo]:
    """The snapshot meant, verified. NotFoundError when there is none, UsageError when a prefix fits several."""
    history = repository.history("look for a snapshot")
    by_id = {item.id.hex(): item for item in history.live}
    if text is not None and os.sep not in text and len(text) == 64 and text in by_id:
        return by_id[text], describe(repository, by_id[text])
    infos, damage = _describe(repository, history.live, context)
    if damage is not None and (not infos or text in (None, "latest")):
        # The one that was asked for may be the one that is damaged: an older one must be named.
        raise DamagedError(f"{damage}; name a snapshot by its id to restore another") from damage
    if not infos:
        raise NotFoundError(
            f"there is no snapshot at {repository.storage.location} yet; `keyark backup PATH` makes one"
        )
    info = _pick(_plausible(infos, text, context), text, at_ns)
    return by_id[info.id], info


def _plausible(infos: list[SnapshotInfo], text: str | None, context: Context) -> list[SnapshotInfo]:
    """Times are what writers claim: one in the future must not make a snapshot the latest until then."""
    if text not in (None, "latest"):
        return infos
    limit = context.clock.now_ns() + _FUTURE_TOLERANCE
    sane = [info for info in infos if info.time_ns <= limit]
    for info in infos:
        if info.time_ns > limit:
            context.warn(f"snapshot {info.id[:8]} claims a time in the future; it is taken only by its id")
    return sane or infos


def _pick(infos: list[SnapshotInfo], text: str | None, at_ns: int | None) -> SnapshotInfo:
    if at_ns is not None:
        earlier = [info for info in infos if info.time_ns <= at_ns]
        if not earlier:
            raise NotFoundError("there is no snapshot at or before that time; `keyark snapshots` lists them")
        return earlier[-1]
    if text is None:
        raise UsageError("say which snapshot: an id, a name, or latest")
    if text == "latest":
        return infos[-1]
    name = os.path.basename(text)
    for ending in _ARCHIVE_ENDINGS:
        name = name.removesuffix(ending)
    named = [info for info in infos if info.name is not None and info.name in (name, text)]
    if named:
        return named[-1]
    lowered = text.lower()
    matching = [info for info in infos if info.id.startswith(lowered)] if lowered else []
    if len(matching) > 1:
        raise UsageError(f"{text!r} fits {len(matching)} snapshots; give more of the id")
    if not matching:
        raise NotFoundError(f"no snapshot {text!r}; `keyark snapshots` lists them")
    return matching[0]
