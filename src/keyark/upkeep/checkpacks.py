"""Verifying packs: presence and size, and, where data is read, name, signature, every block and every chunk id."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keyark.errors import DamagedError, IntegrityError, NoKeyError, NotAllowedError, ObjectNotFound, UsageError
from keyark.operation import Context, Progress
from keyark.repository.cache import CachedPack
from keyark.repository.index import IndexedPack
from keyark.repository.lookup import Lookup
from keyark.repository.names import pack_name
from keyark.repository.packlists import PackUse
from keyark.repository.packs import iterate_ids
from keyark.repository.repository import Repository
from keyark.upkeep.findings import Findings

_SUBSET = re.compile(r"(?:(?P<percent>\d+(?:\.\d+)?)%|(?P<n>\d+)/(?P<m>\d+)|(?P<size>\d+)(?P<unit>[KMGT]?))")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


Claims = dict[bytes, list[tuple[str, bytes]]]  # pack -> index objects that name it, and the digest of what each says


@dataclass(slots=True)
class PackCheck:
    """What a check of the packs did."""

    read: int = 0
    bytes_read: int = 0
    content: bool = False
    epochs: dict[tuple[bytes, bytes], set[bytes]] = field(default_factory=dict)  # compartment, epoch -> its packs
    digests: dict[bytes, bytes] = field(default_factory=dict)  # what packs whose content was read say about themselves

    def compare(self, claims: Claims, findings: Findings) -> None:
        """What index objects say about packs against what the packs say: a chunk that is announced must be there."""
        for sha256, said in claims.items():
            own = self.digests.get(sha256)
            for name, digest in said:
                if own is not None and digest != own:
                    findings.bad(
                        name,
                        f"{name}: says of {pack_name(sha256)} what that pack does not hold; backups may have relied on it. "
                        "`keyark verify --repair-index` rebuilds it; revoke its writer if it is not yours",
                    )


def check_presence(
    uses: Mapping[bytes, Sequence[PackUse]],
    present: Mapping[bytes, int],
    replaced: frozenset[bytes],
    findings: Findings,
) -> set[bytes]:
    """Every pack that a snapshot lists is there, with the size recorded; returns all listed packs."""
    listed: set[bytes] = set()
    for snapshot, packs in uses.items():
        for use in packs:
            found = next((item for item in use.names if item in present), use.sha256)
            listed.add(found)
            if found != use.sha256:
                findings.note(
                    pack_name(use.sha256), f"{pack_name(use.sha256)}: gone; the pack that it supersedes serves"
                )
                continue
            name = pack_name(use.sha256)
            size = present.get(use.sha256)
            if size == use.size:
                continue
            if snapshot in replaced:
                findings.note(name, f"{name}: gone, and only needed by a snapshot that a later one replaces")
                continue
            findings.bad(
                name, f"{name} is missing" if size is None else f"{name}: has {size} bytes instead of {use.size}"
            )
            findings.touches(name, snapshot)
    return listed


def choose(packs: Mapping[bytes, int], subset: str | None) -> list[bytes]:
    """The packs that ``--read-data-subset`` asks for: ``5%``, ``n/m`` or ``500M``. UsageError when it is malformed."""
    everything = sorted(packs)
    if subset is None:
        return everything
    match = _SUBSET.fullmatch(subset.strip())
    if match is None:
        raise UsageError(f"subset {subset!r} is malformed; write 5%, 2/10 or 500M")
    if match["n"] is not None:
        part, parts = int(match["n"]), int(match["m"])
        if not 1 <= part <= parts:
            raise UsageError(f"subset {subset!r}: the first number must be from 1 to the second")
        return [item for item in everything if int.from_bytes(item[:8], "big") % parts == part - 1]
    picked = random.SystemRandom().sample(everything, len(everything))
    if match["percent"] is not None:
        share = float(match["percent"])
        if not 0 < share <= 100:
            raise UsageError(f"subset {subset!r}: the share must be above 0% and at most 100%")
        return picked[: max(1, round(len(picked) * share / 100))] if picked else []
    wanted = int(match["size"]) * _UNITS[match["unit"]]
    if wanted == 0:
        raise UsageError(f"subset {subset!r}: the size must be above 0")
    result, total = [], 0
    for item in picked:
        if total >= wanted:
            break
        result.append(item)
        total += packs[item]
    return result


def read_packs(
    repository: Repository,
    lookup: Lookup,
    chosen: Iterable[bytes],
    findings: Findings,
    context: Context,
    check: PackCheck,
) -> None:
    """Read packs as a whole: name, signature, and with the keys at hand directory, blocks and chunk ids."""
    todo = list(chosen)
    for sha256 in todo:
        context.cancel.check()
        name = pack_name(sha256)
        try:
            data = repository.storage.get(name)
        except ObjectNotFound:
            continue  # found by its absence, if anything needs it
        except DamagedError as e:
            findings.bad(name, str(e))
            continue
        check.read += 1
        check.bytes_read += len(data)
        try:
            head = lookup.reader.verified(name, sha256, data)
            check.epochs.setdefault((head.compartment, head.epoch), set()).add(sha256)
            if repository.can_read:
                check.content = _check_content(lookup, name, sha256, data, check) or check.content
        except IntegrityError as e:
            findings.bad(name, str(e))
        context.progress(Progress("verify", check.read, len(todo), check.bytes_read, 0, name))


def _check_content(lookup: Lookup, name: str, sha256: bytes, data: bytes, check: PackCheck) -> bool:
    """Decrypt every block and compare every chunk with the directory; False when this key does not open the pack."""
    try:
        head, blocks, size = lookup.reader.directory(name, data)
        opened = lookup.reader.opened(CachedPack(0, sha256, head.compartment, head.kind, size, 0, blocks), data)
    except (NoKeyError, NotAllowedError):
        return False
    for number, place in enumerate(blocks):
        chunks = opened.block(number)
        for position, chunk_id in enumerate(iterate_ids(place)):
            opened.chunk(chunks, position, chunk_id)
    check.digests[sha256] = IndexedPack(sha256, head.kind, size, 0, blocks).digest()
    return True
