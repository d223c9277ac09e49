"""Looking into snapshots without restoring: ls, find, diff, stats."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import replace

from keyark.errors import NotFoundError
from keyark.operation import Context
from keyark.recovery.model import Change, DiffReport, Entry, SnapshotFilter, StatsReport
from keyark.recovery.reading import SnapshotReader
from keyark.recovery.snapshots import find_snapshot, list_snapshots, resolve
from keyark.repository import tree
from keyark.repository.repository import Repository
from keyark.repository.snapshots import Snapshot, SnapshotContent
from keyark.repository.tree import Node

_TYPES = {
    tree.FILE: "file",
    tree.DIR: "dir",
    tree.SYMLINK: "symlink",
    tree.FIFO: "fifo",
    tree.CHAR: "chardev",
    tree.BLOCK: "dev",
}

__all__ = ["diff", "entry_of", "find_entries", "find_snapshot", "list_entries", "list_snapshots", "stats"]


def entry_of(path: bytes, node: Node, content: SnapshotContent) -> Entry:
    """A tree node as users see it."""
    return Entry(
        path=path,
        type=_TYPES[node.kind],
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        mtime_ns=node.mtime_ns,
        user=content.users.get(node.uid),
        group=content.groups.get(node.gid),
        sha256=None if node.sha256 is None else node.sha256.hex(),
        link_target=node.content if node.kind == tree.SYMLINK and isinstance(node.content, bytes) else None,
        changed=bool((node.extra or {}).get("c")),
    )


def _open(repository: Repository, snapshot: Snapshot) -> SnapshotReader:
    return SnapshotReader(repository, snapshot, repository.open_content(snapshot))


def list_entries(
    repository: Repository, snapshot: str, path: bytes | None, *, recursive: bool, context: Context
) -> Iterator[Entry]:
    """Objects of a snapshot: all of them, or what is at ``path`` (a folder's own entries unless ``recursive``).

    What is there but was not backed up as it was goes to the context's warnings.
    """
    chosen, _ = resolve(repository, snapshot, None, context)
    reader = _open(repository, chosen)
    top = b"/" + (path or b"").strip(b"/")
    for lost, what in reader.content.problems:
        if top in (b"/", lost) or lost.startswith(top + b"/"):
            context.warn(f"{os.fsdecode(lost)}: {what} when this snapshot was made")
    if path is None or path.strip(b"/") == b"":
        yield from _entries(reader, b"/", recursive=recursive or path is None)
        return
    path = b"/" + os.path.normpath(path.strip(b"/"))
    node = _find(reader, path)
    if node.kind != tree.DIR:
        yield entry_of(path, node, reader.content)
        return
    for name, child in _walk(reader, path, node.subtree, recursive=recursive):
        yield entry_of(name, child, reader.content)


def _entries(reader: SnapshotReader, top: bytes, *, recursive: bool) -> Iterator[Entry]:
    for path, node in _walk(reader, b"" if top == b"/" else top, reader.content.tree, recursive=recursive):
        yield entry_of(path, node, reader.content)


def _walk(
    reader: SnapshotReader, parent: bytes, ids: list[bytes] | tuple[bytes, ...], *, recursive: bool
) -> Iterator[tuple[bytes, Node]]:
    stack = [(parent, iter(reader.folder(ids)))]
    while stack:
        above, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            continue
        path = above + b"/" + node.name
        yield path, node
        if recursive and node.kind == tree.DIR:
            stack.append((path, iter(reader.folder(node.subtree))))


def _find(reader: SnapshotReader, path: bytes) -> Node:
    ids: list[bytes] | tuple[bytes, ...] = reader.content.tree
    found: Node | None = None
    for part in path.strip(b"/").split(b"/"):
        if found is not None and found.kind != tree.DIR:
            found = None
            break
        found = next((node for node in reader.folder(ids) if node.name == part), None)
        if found is None:
            break
        ids = found.subtree
    if found is None:
        raise NotFoundError(
            f"no {os.fsdecode(path)!r} in snapshot {reader.snapshot.id.hex()[:8]}; `keyark ls` shows what is there"
        )
    return found


def find_entries(repository: Repository, pattern: str, chosen: SnapshotFilter, context: Context) -> Iterator[Entry]:
    """Objects whose name (or, with a slash in the pattern, absolute path) matches a shell pattern, in all snapshots."""
    wanted = os.fsencode(pattern)
    by_path = b"/" in wanted
    by_id = {item.id.hex(): item for item in repository.history("find files").live}
    for info in list_snapshots(repository, chosen, context):
        if info.id not in by_id:
            continue
        reader = _open(repository, by_id[info.id])
        for path, node in _walk(reader, b"", reader.content.tree, recursive=True):
            if fnmatch.fnmatchcase(path if by_path else node.name, wanted):
                yield replace(entry_of(path, node, reader.content), snapshot=info.id)


def diff(repository: Repository, a: str, b: str, context: Context) -> DiffReport:
    """What changed from one snapshot to another. Folders with equal contents are not entered."""
    first, _ = resolve(repository, a, None, context)
    second, _ = resolve(repository, b, None, context)
    one, two = _open(repository, first), _open(repository, second)
    changes: list[Change] = []
    counts = {"added": 0, "removed": 0, "changed": 0, "added_bytes": 0, "removed_bytes": 0}

    def note(path: bytes, modifier: str, node: Node) -> None:
        changes.append(Change(path, modifier))
        if node.kind != tree.FILE:
            return
        if modifier == "+":
            counts["added"] += 1
            counts["added_bytes"] += node.size
        elif modifier == "-":
            counts["removed"] += 1
            counts["removed_bytes"] += node.size
        elif modifier in ("M", "T"):
            counts["changed"] += 1

    stack = [(b"", tuple(one.content.tree), tuple(two.content.tree))]
    while stack:
        parent, left_ids, right_ids = stack.pop()
        if left_ids == right_ids:
            continue
        left = {node.name: node for node in (one.folder(left_ids) if left_ids else [])}
        right = {node.name: node for node in (two.folder(right_ids) if right_ids else [])}
        for name in sorted(left.keys() | right.keys()):
            path = parent + b"/" + name
            old, new = left.get(name), right.get(name)
            modifier = _modifier(old, new)
            if modifier is not None and (shown := new or old) is not None:
                note(path, modifier, shown)
            old_ids = tuple(old.subtree) if old is not None else ()
            new_ids = tuple(new.subtree) if new is not None else ()
            if old_ids or new_ids:
                stack.append((path, old_ids, new_ids))
    return DiffReport(
        first.id.hex(),
        second.id.hex(),
        tuple(sorted(changes, key=lambda change: change.path)),
        counts["added"],
        counts["removed"],
        counts["changed"],
        counts["added_bytes"],
        counts["removed_bytes"],
    )


def _modifier(old: Node | None, new: Node | None) -> str | None:
    if old is None:
        return "+"
    if new is None:
        return "-"
    if old.kind != new.kind:
        return "T"
    if old.kind == tree.DIR:
        content_equal = True
    elif old.kind == tree.FILE:
        content_equal = (old.size, old.sha256) == (new.size, new.sha256)
    else:
        content_equal = old.content == new.content
    if not content_equal:
        return "M"
    metadata = (old.mode, old.uid, old.gid, old.mtime_ns, (old.extra or {}).get("x"))
    if metadata != (new.mode, new.uid, new.gid, new.mtime_ns, (new.extra or {}).get("x")):
        return "U"
    return None


def stats(repository: Repository, snapshot: str | None, context: Context) -> StatsReport:
    """Sizes: what is stored, and, where content is open, what a restore would give."""
    totals = {"packs": 0, "index": 0, "other": 0}
    packs = 0
    for info in repository.storage.list():
        kind = info.name.partition("/")[0]
        packs += kind == "packs"
        totals[kind if kind in totals else "other"] += info.size
    history = repository.history("show statistics")
    chosen = history.live if snapshot is None else (resolve(repository, snapshot, None, context)[0],)
    files, size = (None, None) if not repository.can_list else (0, 0)
    if repository.can_list:
        listed = [repository.open_listed(item) for item in chosen]
        files, size = sum(item.files for item in listed), sum(item.bytes for item in listed)
    stored = sum(totals.values())
    return StatsReport(
        snapshots=len(chosen),
        packs=packs,
        stored_bytes=stored,
        pack_bytes=totals["packs"],
        index_bytes=totals["index"],
        other_bytes=totals["other"],
        total_files=files,
        total_size=size,
        compression_ratio=None if not size or not totals["packs"] else size / totals["packs"],
    )
