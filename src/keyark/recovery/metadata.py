"""Giving restored objects their owner, attributes, mode and time, and saying what could not be given."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyark.repository import tree
from keyark.repository.tree import Node

_SET_ID = stat.S_ISUID | stat.S_ISGID
# What an object may have got from the target's folders (default ACLs) or had before, and must not keep. Labels under
# `security.` belong to the restoring host's policy; a capability goes when the owner is set.
_OURS = (b"user.", b"trusted.", b"system.posix_acl_")
_ORDINARY_NS = (1 << 31) * 10**9  # up to 2038; further times need more than 32 bits, which not every file system has
_PRIVILEGED = (b"trusted.", b"security.")


@dataclass(frozen=True, slots=True)
class Owners:
    """Names of owners in the snapshot; resolved here by name, then by number."""

    users: Mapping[int, str]
    groups: Mapping[int, str]

    def resolve(self) -> tuple[dict[int, int], dict[int, int]]:
        """Numbers of this host for the snapshot's numbers."""
        uids, gids = {}, {}
        for number, name in self.users.items():
            with contextlib.suppress(KeyError, ValueError):  # a name with a NUL is no name
                uids[number] = pwd.getpwnam(name).pw_uid
        for number, name in self.groups.items():
            with contextlib.suppress(KeyError, ValueError):
                gids[number] = grp.getgrnam(name).gr_gid
        return uids, gids


class MetadataWriter:
    """Sets metadata on objects of one target. What an ordinary user can never set is counted, not reported one by one."""

    def __init__(self, owners: Owners) -> None:
        self._uids, self._gids = owners.resolve()
        self._root_user = os.geteuid() == 0
        # objects that kept our ownership, set-ID bits dropped of them, attributes that only root may set, times rounded
        self.left_out = (0, 0, 0, 0)
        self._exact_times = False  # whether the target was seen to hold nanoseconds

    def apply(self, target: int | bytes, node: Node) -> list[str]:
        """Set everything on a descriptor, or on what a ``/proc/self/fd`` path stands for; returns what could not be set."""
        # Owner first: changing it clears set-id bits and capabilities. Then attributes, mode, and times last.
        trouble: list[str] = []
        mode = node.mode
        if not self._set_owner(target, node, trouble) and mode & _SET_ID and node.kind != tree.DIR:
            mode &= ~_SET_ID  # run with the rights of whoever owns it now, it would be another program
            self.count_left_out((0, 1, 0, 0))
            if self._root_user:
                trouble.append("set-user-ID and set-group-ID bits left out, since the owner could not be set")
        trouble += self._set_attributes(target, node)
        try:
            if node.kind != tree.SYMLINK:
                os.chmod(target, mode)
        except OSError as e:
            trouble.append(f"mode not set: {e.strerror}")
        try:
            os.utime(target, ns=(node.mtime_ns, node.mtime_ns))
            self._check_time(target, node)
        except OSError as e:
            trouble.append(f"time not set: {e.strerror}")
        return trouble

    def _check_time(self, target: int | bytes, node: Node) -> None:
        """Count times that the file system does not hold exactly. One that was seen to hold nanoseconds holds ordinary ones."""
        if self._exact_times and 0 <= node.mtime_ns < _ORDINARY_NS:
            return
        if os.stat(target).st_mtime_ns != node.mtime_ns:
            self.count_left_out((0, 0, 0, 1))
        elif node.mtime_ns % 1000:
            self._exact_times = True

    def same_owner(self, facts: os.stat_result, node: Node) -> bool:
        """Whether an object has the owner that it would be given; True for ordinary users, who cannot give any."""
        return not self._root_user or (facts.st_uid, facts.st_gid) == self._owner(node)

    def count_left_out(self, more: Sequence[int]) -> None:
        """Add to what an ordinary user's restore leaves out."""
        owners, bits, attributes, times = self.left_out
        self.left_out = (owners + more[0], bits + more[1], attributes + more[2], times + more[3])

    def notices(self) -> list[str]:
        """What this target or an ordinary user cannot bring back, in total."""
        found = []
        not_given, set_id_dropped, attributes_dropped, times_rounded = self.left_out
        if times_rounded:
            found.append(
                f"{times_rounded:,} objects have other times than recorded: the target's file system is coarser"
            )
        if self._root_user:
            return found
        if not_given:
            dropped = f"; set-ID bits left out on {set_id_dropped:,} of them" if set_id_dropped else ""
            found.append(
                f"{not_given:,} objects belong to you now and not to their recorded owners, "
                f"which only root can set{dropped}"
            )
        if attributes_dropped:
            found.append(f"{attributes_dropped:,} attributes (trusted, security) that only root can set left out")
        return found

    def _owner(self, node: Node) -> tuple[int, int]:
        return self._uids.get(node.uid, node.uid), self._gids.get(node.gid, node.gid)

    def _set_owner(self, target: int | bytes, node: Node, trouble: list[str]) -> bool:
        uid, gid = self._owner(node)
        try:
            os.chown(target, uid, gid)
        except OSError as e:
            if self._root_user:
                trouble.append(f"owner not set: {e.strerror}")
            self.count_left_out((1, 0, 0, 0))
            with contextlib.suppress(OSError):  # a group that we belong to can be given all the same
                os.chown(target, -1, gid)
            return False
        return True

    def _set_attributes(self, target: int | bytes, node: Node) -> list[str]:
        wanted: dict[bytes, bytes] = (node.extra or {}).get("x", {})
        trouble = []
        try:
            for text in os.listxattr(target):
                name = os.fsencode(text)
                if name not in wanted and name.startswith(_OURS):
                    os.removexattr(target, name)
        except OSError:
            pass  # a file system without attributes has none to remove
        for name, value in wanted.items():
            try:
                os.setxattr(target, name, value)
            except OSError as e:
                if self._root_user or not name.startswith(_PRIVILEGED):
                    trouble.append(f"attribute {os.fsdecode(name)} not set: {e.strerror}")
                else:
                    self.count_left_out((0, 0, 1, 0))
        return trouble
