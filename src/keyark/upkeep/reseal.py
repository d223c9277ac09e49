"""Re-sealing: what snapshots rest on, written again under new data keys and a new epoch (docs/format.md, section 6; ADR 10).

Snapshots are signed by their writers and stay as they are. For each pack the root signs a *supersedes* record, which readers
follow. The order makes a crash at any instant harmless: the new packs first, the record when they are durable; the old packs
go later, with a prune that has seen both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from keyark.crypto import hpke
from keyark.crypto.hpke import Kem, PublicKey
from keyark.crypto.signing import SigningKey
from keyark.crypto.suites import Suite
from keyark.errors import ConflictError, DamagedError, IntegrityError, ObjectNotFound
from keyark.operation import Context, Progress
from keyark.repository import marks as mark_objects
from keyark.repository.cache import CachedPack
from keyark.repository.epochs import Epoch, epoch_id
from keyark.repository.index import indexed
from keyark.repository.marks import encode_marks
from keyark.repository.names import pack_name, parse_name
from keyark.repository.packlists import PackUse
from keyark.repository.packs import PackAssembler, PackFacts, SealedPack
from keyark.repository.repository import Repository
from keyark.repository.wire import MAX_SIZE, ObjectType
from keyark.repository.wraps import epoch_place, write_wrap
from keyark.upkeep.model import ResealReport

_BATCH_PACKS = 64  # packs in one record
_BATCH_BYTES = 512 << 20  # stored bytes after which a record is written, so that little is done twice after a crash
_ROUNDS = 3  # how often packs that vanished meanwhile are sealed again


def reseal_under_way(repository: Repository) -> bool:
    """Whether a re-sealing that began on this machine was interrupted."""
    return repository.state.read_reseal() is not None


def reseal_packs(repository: Repository, context: Context) -> ResealReport:
    """Write every pack that a live snapshot rests on again. Needs an administrator's key that reads.

    IntegrityError names a pack that is damaged: nothing that does not verify is signed anew. HistoryError for alarms.
    """
    return _Reseal(repository, context).run()


@dataclass(slots=True)
class _Batch:
    """New packs that are stored and that no record names yet."""

    rows: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    stored: int = 0


class _Reseal:
    def __init__(self, repository: Repository, context: Context) -> None:
        self.repository = repository
        self.context = context
        self.root: SigningKey = repository.keys.root("re-seal data")
        self.epochs: dict[bytes, Epoch] = {}
        self.packs = self.bytes = 0

    def run(self) -> ResealReport:
        self._begin()
        for _ in range(_ROUNDS):
            todo = list(self._todo())
            if not todo:
                break
            self._pass(todo)
        else:
            if any(self._todo()):
                raise ConflictError("packs vanish faster than they can be sealed again; run the command again")
        self.repository.state.write_reseal(None)
        return ResealReport(self.packs, self.bytes, self._superseded())

    # -- the epochs ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """An epoch of the root's for each compartment: those of an interrupted run, as long as the same slots open them."""
        keyring, state = self.repository.keyring, self.repository.state
        remembered = state.read_reseal() or {}
        for compartment in keyring.compartments:
            slots = sorted(name.hex() for name in keyring.slots_of(compartment))
            item = remembered.get(compartment.hex())
            if item is not None and item["slots"] == slots and item["kem"] == int(keyring.kem):
                public = PublicKey(Kem(item["kem"]), bytes.fromhex(item["public"]))
            else:
                public = self._make_epoch(compartment)
                remembered[compartment.hex()] = {"kem": int(public.kem), "public": public.data.hex(), "slots": slots}
            self.epochs[compartment] = Epoch(epoch_id(public), public)
        state.write_reseal(remembered)  # after the wraps: what is sealed to an epoch can be opened

    def _make_epoch(self, compartment: bytes) -> PublicKey:
        private = hpke.generate(self.repository.keyring.kem)
        public = private.public()
        for name, slot in self.repository.keyring.slots_of(compartment).items():
            write_wrap(
                self.repository.storage,
                self.repository.id,
                epoch_place(compartment, epoch_id(public)),
                (name, slot.public),
                private.data,
                (None, self.root),
                public,
            )
        return public

    # -- the packs -------------------------------------------------------------------------------------------------

    def _todo(self) -> Iterator[PackUse]:
        """Packs that live snapshots rest on and that are not sealed to the new epochs, each once."""
        seen: set[bytes] = set()
        history = self.repository.history("re-seal data")
        for snapshot in history.live:
            for use in self.repository.pack_uses(snapshot):
                if use.sha256 in seen or snapshot.id in history.replaced:
                    continue
                seen.add(use.sha256)
                if not self._done(use):
                    yield use

    def _done(self, use: PackUse) -> bool:
        try:
            head = self.repository.lookup.reader.head(pack_name(use.sha256))
        except DamagedError:
            return False
        epoch = self.epochs.get(head.compartment)
        return epoch is not None and head.epoch == epoch.id

    def _pass(self, todo: list[PackUse]) -> None:
        batch = _Batch()
        total = sum(use.size for use in todo)
        for done, use in enumerate(todo):
            self.context.heartbeat()
            old, pack = self._again(use)
            self.repository.storage.put(pack.name, pack.parts, create_only=False)
            batch.rows.append((old, pack.sha256, pack.size))
            batch.stored += pack.size
            self.packs, self.bytes = self.packs + 1, self.bytes + pack.size
            self.context.progress(Progress("re-seal", done + 1, len(todo), self.bytes, total, pack.name))
            if len(batch.rows) >= _BATCH_PACKS or batch.stored >= _BATCH_BYTES:
                self._record(batch)
                batch = _Batch()
        self._record(batch)

    def _record(self, batch: _Batch) -> None:
        if not batch.rows:
            return
        repository = self.repository
        now, generation = self.context.clock.now_ns(), repository.keyring.generation
        for name, parts in encode_marks(
            mark_objects.SUPERSEDES, batch.rows, repository.id, now, generation, (None, self.root)
        ):
            repository.storage.put(name, parts, create_only=False)

    def _again(self, use: PackUse) -> tuple[bytes, SealedPack]:
        """The same blocks under a new data key, after name, signature, AEAD and every chunk's id have been checked."""
        old, data = self._read(use)
        reader, keyring = self.repository.lookup.reader, self.repository.keyring
        name = pack_name(old)
        reader.verified(name, old, data)
        head, blocks, size = reader.directory(name, data)
        opened = reader.opened(CachedPack(0, old, head.compartment, head.kind, size, 0, blocks), data)
        epoch = self.epochs[head.compartment]
        keys = self.repository.keys.compartment(head.compartment, head.generation)
        facts = PackFacts(
            keyring.repository,
            head.compartment,
            None,
            epoch.id,
            epoch.public,
            head.generation,  # chunk ids stay: trees name them
            keys.index_key,
            Suite(keyring.suite),
            self.root,
        )
        assembler = PackAssembler(facts, head.kind, target=2 * MAX_SIZE[ObjectType.PACK])
        for number in range(len(blocks)):
            assembler.add(opened.again(number))
        pack = assembler.finish()
        if pack is None:
            raise DamagedError(f"{name}: holds no block")
        self.repository.lookup.cache.add_index(None, head.compartment, [indexed(pack)], trusted=True)
        return old, pack

    def _read(self, use: PackUse) -> tuple[bytes, bytes]:
        """The pack, or an earlier one that holds the same."""
        for sha256 in use.names:
            try:
                return sha256, self.repository.storage.get(pack_name(sha256))
            except ObjectNotFound:
                continue
        raise IntegrityError(f"{pack_name(use.sha256)} is missing; nothing more was re-sealed, see `keyark verify`")

    def _superseded(self) -> int:
        old = self.repository.marks().superseded
        names = (parse_name(info.name) for info in self.repository.storage.list("packs/"))
        return sum(name is not None and name.sha256 in old for name in names)
