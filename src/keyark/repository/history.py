"""What the snapshots' chains tell: which snapshots count, and which alarms there are (docs/format.md, section 11).

Pure judgement over what the storage showed; loading is in `repository`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from keyark.repository.keyring import Keyring
from keyark.repository.marks import Marks, Tombstone
from keyark.repository.snapshots import Snapshot

# How far back a snapshot may replace another: as many runs of one writer may overlap. Small, so that a thief of its
# credential cannot explain away what is missing from older snapshots.
REPLACE_WINDOW = 16
MAX_GAP = 1000  # numbers; a larger jump in a chain was never a loss
Chain = tuple[bytes, bytes]  # compartment, writer
Head = tuple[int, bytes]  # sequence, snapshot id


class Evidence(Enum):
    """What an alarm rests on. Anybody may put an object into a folder, and a writer may lie about the others."""

    CHAIN = "chain"  # the chain's own signed objects, or what this machine has seen
    WITNESS = "witness"  # only what another writer says it saw
    OBJECT = "object"  # an object that does not count at all


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an honest history never shows."""

    object: str  # name of the object, or of the chain's folder
    what: str
    evidence: Evidence = Evidence.CHAIN


@dataclass(frozen=True, slots=True)
class History:
    """All valid snapshots (forgotten ones apart), in chain order, and the alarms."""

    live: tuple[Snapshot, ...]
    forgotten: tuple[Snapshot, ...]  # tombstoned, their objects not yet deleted
    alarms: tuple[Alarm, ...]
    replaced: frozenset[bytes] = frozenset()  # snapshots that a later one replaces because packs of theirs went away
    buried: tuple[Tombstone, ...] = ()  # of every forgotten snapshot, also where its object is gone
    refused: tuple[Snapshot, ...] = ()  # rightly signed, but of a revoked writer or in a forgotten one's place

    def heads(self) -> dict[Chain, Head]:
        """The newest snapshot of every chain, forgotten ones included, as far as the chain goes without an impossible jump."""
        known: dict[Chain, dict[int, bytes]] = defaultdict(dict)
        for stone in self.buried:
            known[stone.compartment, stone.writer][stone.sequence] = stone.snapshot
        for snapshot in (*self.live, *self.forgotten):
            known[snapshot.head.compartment, snapshot.head.writer][snapshot.head.sequence] = snapshot.id
        result = {}
        for chain, numbers in known.items():
            end = plausible_end(numbers)
            if end in numbers:
                result[chain] = (end, numbers[end])
        return result

    def plausible_ends(self) -> dict[Chain, int]:
        """For every chain the number up to which it goes without an impossible jump."""
        return {chain: head[0] for chain, head in self.heads().items()}


def plausible_end(numbers: Iterable[int]) -> int:
    """The highest number of a chain that follows without a jump too large to be a loss: what lies behind is an attack."""
    end = 0
    for number in sorted(numbers):
        if number > end + MAX_GAP:
            break
        end = number
    return end


def gaps(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The numbers from 1 on that are missing before the highest, as ranges: a forger may claim any number."""
    result = []
    expected = 1
    for number in sorted(numbers):
        if number > expected:
            result.append((expected, number - 1))
        expected = max(expected, number + 1)
    return result


def judge(
    snapshots: Iterable[Snapshot],
    marks: Marks,
    keyrings: Mapping[bytes, Keyring],
    current: Keyring,
    pinned: Mapping[Chain, Head],
) -> History:
    """Sort snapshots into live and forgotten and look for alarms.

    Alarms: a gap without a tombstone, two snapshots with one number or one predecessor (a cloned credential), a link that
    does not fit, a chain that went back behind what this machine or another snapshot has seen, a snapshot of a revoked
    writer beyond the last accepted one, a keyring cited that is not there.
    """
    alarms: list[Alarm] = []
    refused: list[Snapshot] = []
    chains: dict[Chain, list[Snapshot]] = defaultdict(list)
    for snapshot in snapshots:
        alarm = None if snapshot.id in marks.tombstones else _standing(snapshot, keyrings, current)
        if alarm is not None:
            alarms.append(alarm)
            if _beyond_revocation(snapshot, current):
                refused.append(snapshot)
        else:
            chains[snapshot.head.compartment, snapshot.head.writer].append(snapshot)
    tombstones: dict[Chain, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for stone in marks.tombstones.values():
        tombstones[stone.compartment, stone.writer][stone.sequence].add(stone.snapshot)
    for chain in chains.keys() | pinned.keys() | tombstones.keys():
        known = {pinned[chain][1]} if chain in pinned else set()
        found = _impostors(chains.get(chain, []), tombstones[chain], known | _accepted(chain, current))
        alarms += [_impostor_alarm(item) for item in found]
        refused += found
        chains[chain] = [item for item in chains.get(chain, []) if item not in found]
        alarms += _judge_chain(chain, chains[chain], tombstones[chain], pinned.get(chain))
    everything = [item for chain in sorted(chains) for item in sorted(chains[chain], key=lambda s: s.head.sequence)]
    alarms += _seen_by_others([item for item in everything if _is_witness(item, current)], chains, tombstones)
    live = tuple(item for item in everything if item.id not in marks.tombstones)
    forgotten = tuple(item for item in everything if item.id in marks.tombstones)
    replaced = _replaced(everything)
    return History(live, forgotten, tuple(alarms), replaced, tuple(marks.tombstones.values()), tuple(refused))


def _replaced(snapshots: Iterable[Snapshot]) -> frozenset[bytes]:
    """Snapshots that a later one of the same writer replaces, not further back than `REPLACE_WINDOW`."""
    everything = list(snapshots)
    by_id = {item.id: item.head for item in everything}
    found = set()
    for item in everything:
        old = by_id.get(item.head.replaces or b"")
        if (
            old is not None
            and (old.compartment, old.writer) == (item.head.compartment, item.head.writer)
            and 0 < item.head.sequence - old.sequence <= REPLACE_WINDOW
        ):
            found.add(item.head.replaces or b"")
    return frozenset(found)


def _standing(snapshot: Snapshot, keyrings: Mapping[bytes, Keyring], current: Keyring) -> Alarm | None:
    head = snapshot.head
    cited = keyrings.get(head.keyring[1])
    if cited is None or cited.generation != head.keyring[0]:
        return Alarm(
            snapshot.name,
            f"{snapshot.name}: was made under keyring generation {head.keyring[0]}, which the storage does not show; "
            "the keyring was rolled back or forked",
        )
    if _beyond_revocation(snapshot, current):
        return Alarm(
            snapshot.name,
            f"{snapshot.name}: is not among the snapshots that were accepted when its writer was revoked; it does not count",
        )
    return None


def _beyond_revocation(snapshot: Snapshot, current: Keyring) -> bool:
    """Whether its writer was revoked, and this is later than, or another than, the last one that the root accepted."""
    revoked = current.writers[snapshot.head.writer].revoked
    if revoked is None or snapshot.head.sequence < revoked[0]:
        return False
    return (snapshot.head.sequence, snapshot.id) != revoked


def _accepted(chain: Chain, current: Keyring) -> set[bytes]:
    """The last snapshot that the root accepted from a writer when it revoked it."""
    writer = current.writers.get(chain[1])
    return set() if writer is None or writer.revoked is None else {writer.revoked[1]}


def _impostors(snapshots: list[Snapshot], stones: Mapping[int, set[bytes]], known: set[bytes]) -> list[Snapshot]:
    """Snapshots that claim the number of a forgotten one.

    The forgotten object may be gone, so a thief of the signing key could put another in its place, and no second claim would
    show. Beside a tombstone a snapshot counts only when the snapshot after it names it, when this machine has seen it, or when
    the root accepted it at a revocation.
    """
    found: list[Snapshot] = []
    named = set(known)
    for snapshot in sorted(snapshots, key=lambda item: item.head.sequence, reverse=True):
        others = stones.get(snapshot.head.sequence, set()) - {snapshot.id}
        forgotten = snapshot.id in stones.get(snapshot.head.sequence, set())
        if others and not forgotten and snapshot.id not in named:
            found.append(snapshot)
        elif snapshot.head.previous is not None:
            named.add(snapshot.head.previous)
    return found


def _impostor_alarm(snapshot: Snapshot) -> Alarm:
    return Alarm(
        snapshot.name,
        f"{snapshot.name}: claims number {snapshot.head.sequence}, which belonged to a snapshot that was forgotten; "
        "it was made afterwards, by somebody who holds the writer's key",
    )


def _is_witness(snapshot: Snapshot, current: Keyring) -> bool:
    """What a revoked writer says about others counts no more: revoking it ends the alarms that its lies raise."""
    writer = current.writers.get(snapshot.head.writer)
    return writer is not None and writer.revoked is None


def _judge_chain(
    chain: Chain, snapshots: list[Snapshot], stones: Mapping[int, set[bytes]], pinned: Head | None
) -> list[Alarm]:
    folder = f"snapshots/{chain[0].hex()}/{chain[1].hex()}"
    alarms: list[Alarm] = []
    known: dict[int, set[bytes]] = defaultdict(set)
    for number, ids in stones.items():
        known[number] |= ids
    for snapshot in snapshots:
        known[snapshot.head.sequence].add(snapshot.id)
    newest = max(known, default=0)
    if pinned is not None and (newest < pinned[0] or pinned[1] not in known[pinned[0]]):
        alarms.append(
            Alarm(
                folder,
                f"{folder}: this machine has seen snapshot {pinned[0]} ({pinned[1].hex()[:8]}), which is gone without a "
                "tombstone; the repository went back or was replaced",
            )
        )
    for first, last in gaps(number for number, ids in known.items() if ids and number > 0):
        which = f"snapshot {first} is" if first == last else f"snapshots {first} to {last} are"
        alarms.append(Alarm(folder, f"{folder}: {which} missing without a tombstone"))
    for number, ids in sorted(known.items()):
        standing = ids - stones.get(number, set())
        if len(standing) > 1:
            listed = ", ".join(sorted(item.hex()[:8] for item in standing))
            alarms.append(
                Alarm(
                    folder, f"{folder}: several snapshots claim number {number} ({listed}); the credential was cloned"
                )
            )
    for snapshot in snapshots:
        alarms += _judge_link(snapshot, known)
    return alarms


def _judge_link(snapshot: Snapshot, known: Mapping[int, set[bytes]]) -> list[Alarm]:
    head = snapshot.head
    if head.sequence < 1 or (head.previous is None) != (head.sequence == 1):
        return [Alarm(snapshot.name, f"{snapshot.name}: its number and its predecessor contradict each other")]
    before = known.get(head.sequence - 1)
    if head.previous is not None and before and head.previous not in before:
        return [Alarm(snapshot.name, f"{snapshot.name}: does not follow snapshot {head.sequence - 1} of its writer")]
    return []


def _seen_by_others(
    snapshots: Iterable[Snapshot],
    chains: Mapping[Chain, list[Snapshot]],
    tombstones: Mapping[Chain, Mapping[int, set[bytes]]],
) -> list[Alarm]:
    alarms: dict[tuple[Chain, int, bytes], Alarm] = {}
    present = {chain: {item.id for item in items} for chain, items in chains.items()}
    for snapshot in snapshots:
        for compartment, writer, number, seen in snapshot.head.others:
            chain = (compartment, writer)
            if seen in present.get(chain, ()) or seen in tombstones.get(chain, {}).get(number, ()):
                continue
            folder = f"snapshots/{compartment.hex()}/{writer.hex()}"
            alarms[chain, number, seen] = Alarm(
                folder,
                f"{folder}: snapshot {number} ({seen.hex()[:8]}) is gone without a tombstone, though "
                f"{snapshot.id.hex()[:8]} of writer {snapshot.head.writer.hex()[:8]} says it saw it",
                Evidence.WITNESS,
            )
    return list(alarms.values())


def missing(history: History, pinned: Mapping[Chain, Head], current: Keyring) -> list[Tombstone]:
    """Tombstones that would explain every gap: for an administrator who accepts that snapshots are lost.

    Ids come from whatever still names them: the snapshot that follows, another writer's, or this machine's memory.
    """
    known: dict[Chain, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for item in (*history.live, *history.forgotten):
        known[item.head.compartment, item.head.writer][item.head.sequence].add(item.id)
    for stone in history.buried:
        known[stone.compartment, stone.writer][stone.sequence].add(stone.snapshot)
    wanted: dict[tuple[Chain, int, bytes], None] = {}
    for item in (*history.live, *history.forgotten):
        chain = (item.head.compartment, item.head.writer)
        if item.head.previous is not None:
            wanted[chain, item.head.sequence - 1, item.head.previous] = None
        for compartment, writer, number, seen in item.head.others if _is_witness(item, current) else ():
            wanted[(compartment, writer), number, seen] = None
    for chain, (number, seen) in pinned.items():
        wanted[chain, number, seen] = None
    reach = {chain: plausible_end(numbers) + MAX_GAP for chain, numbers in known.items()}
    lost = {key: None for key in wanted if key[2] not in known[key[0]][key[1]] and key[1] <= reach.get(key[0], MAX_GAP)}
    result = [Tombstone(chain[0], chain[1], number, seen) for chain, number, seen in lost]
    for stone in result:
        known[stone.compartment, stone.writer][stone.sequence].add(stone.snapshot)
    for chain, numbers in known.items():
        filled = [number for number, ids in numbers.items() if ids]
        end = plausible_end(filled)
        for first, last in gaps(number for number in filled if number <= end):
            result += [Tombstone(chain[0], chain[1], number, bytes(32)) for number in range(first, last + 1)]
    return result
