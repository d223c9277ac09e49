"""A repository that has been opened: what operations work on."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from keyark.errors import DamagedError, HistoryError, NoKeyError, ObjectNotFound
from keyark.operation import Context
from keyark.repository import loading
from keyark.repository.cache import Cache
from keyark.repository.credentials import Credential
from keyark.repository.generations import Generations, load_generations
from keyark.repository.history import Alarm, Evidence, History, judge
from keyark.repository.keyring import Keyring
from keyark.repository.lookup import Lookup
from keyark.repository.marks import Marks
from keyark.repository.names import pack_list_name
from keyark.repository.packlists import PackUse
from keyark.repository.places import Pins, Places, RepositoryState
from keyark.repository.snapshots import Listed, Snapshot, SnapshotContent, open_content, open_listed
from keyark.repository.unlocked import Unlocked
from keyark.storage.protocol import Storage

_LOOKS = 5  # how often a history that changes while it is read is looked at again


class Repository:
    """An opened repository. Use as a context manager, or call `close`."""

    def __init__(
        self,
        storage: Storage,
        generations: Generations,
        keys: Unlocked,
        places: Places,
        context: Context,
        *,
        accept_rollback: bool = False,
    ) -> None:
        self.storage = storage
        self.generations = generations
        self.keys = keys
        self.places = places
        self.context = context
        self.accept_rollback = accept_rollback
        self._lookup: Lookup | None = None
        self._marks: Marks | None = None  # those of the last look
        self._pack_lists: dict[bytes, tuple[PackUse, ...]] = {}

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def keyring(self) -> Keyring:
        return self.generations.latest

    @property
    def id(self) -> bytes:
        return self.keyring.repository

    @property
    def id_hex(self) -> str:
        return self.id.hex()

    @property
    def state(self) -> RepositoryState:
        return self.places.state(self.id)

    @property
    def can_write(self) -> bool:
        """Whether `backup` may work: a writer's credential is there, or an administrator may make one."""
        return self.keys.writer is not None or self.keys.is_admin

    @property
    def can_read(self) -> bool:
        return self.keys.can_read

    @property
    def can_list(self) -> bool:
        return self.keys.can_list

    @property
    def is_admin(self) -> bool:
        return self.keys.is_admin

    @property
    def writer(self) -> Credential | None:
        return self.keys.writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._lookup is not None:
            self._lookup.cache.close()
            self._lookup = None
        self.storage.close()

    def adopt_keyring(self, keyring: Keyring) -> None:
        """Go on under a generation that this process has just published."""
        self.generations = Generations((*self.generations.chain, keyring), self.generations.rejected)
        self.keys.keyring = keyring
        self.state.advance_pins((keyring.generation, keyring.sha256), {})

    # -- loading ---------------------------------------------------------------------------------------------------

    @property
    def lookup(self) -> Lookup:
        """The chunk index; its cache is opened on first use."""
        if self._lookup is None:
            cache = Cache(self.places.cache(self.id), self.id)
            self._lookup = Lookup(self.storage, self.keyring, self.keys, cache, self.context.warn)
        return self._lookup

    def marks(self) -> Marks:
        self._marks = loading.load_marks(self.storage, self.keyring)
        return self._marks

    @property
    def last_marks(self) -> Marks:
        """The marks as they were last read; they decide which packs serve for those that snapshots list."""
        return self.marks() if self._marks is None else self._marks

    def judge_history(self, marks: Marks | None = None) -> History:
        """Load every snapshot and judge the chains. Alarms are in the result.

        Others go on writing while we read: an alarm counts only when a second look raises one about the same object.
        """
        history = self._judge_once(marks)
        for _ in range(_LOOKS):
            if not history.alarms:
                break
            before = {alarm.object for alarm in history.alarms}
            self.refresh_keyring()
            history = self._judge_once(None)
            if all(alarm.object in before for alarm in history.alarms):
                break
        return history

    def refresh_keyring(self) -> None:
        """Take over generations that an administrator published since we opened the repository."""
        pinned = None if self.accept_rollback else (self.keyring.generation, self.keyring.sha256)
        latest = load_generations(self.storage, self.id, lambda _: pinned, self.context.clock)
        if latest.latest.generation > self.keyring.generation:
            self.generations = latest
            self.keys.keyring = latest.latest

    def _judge_once(self, marks: Marks | None) -> History:
        # Pins first: what they name was stored before, so the listing that follows must show it.
        pinned = Pins() if self.accept_rollback else self.state.read_pins()
        marks = self.marks() if marks is None else marks
        snapshots, rejected = loading.load_snapshots(self.storage, self.keyring)
        history = judge(snapshots, marks, self.generations.by_hash(), self.keyring, pinned.heads)
        bad = tuple(Alarm(name, what, Evidence.OBJECT) for name, what in rejected)
        return replace(history, alarms=bad + history.alarms)

    def history(self, what: str, marks: Marks | None = None) -> History:
        """The judged history, for an operation that relies on it.

        Alarms raise HistoryError, except with ``--accept-rollback``: then each is a warning, and the caller goes on with
        what is sound. An honest history moves this machine's pins forward.
        """
        history = self.judge_history(marks)
        if not history.alarms:
            self.state.advance_pins((self.keyring.generation, self.keyring.sha256), history.heads())
            return history
        if not self.accept_rollback:
            more = f" (and {len(history.alarms) - 1} more; see `keyark verify`)" if len(history.alarms) > 1 else ""
            raise HistoryError(
                f"cannot {what}: {history.alarms[0].what}{more}. If you know why, --accept-rollback goes on with what is sound"
            )
        for alarm in history.alarms:
            self.context.warn(alarm.what)
        return history

    # -- one snapshot ----------------------------------------------------------------------------------------------

    def open_listed(self, snapshot: Snapshot) -> Listed:
        """Time and counts. Needs the listing key."""
        return open_listed(snapshot, self.keys.listing(snapshot.head.listing))

    def open_content(self, snapshot: Snapshot) -> SnapshotContent:
        """Name, paths, tags, tree. Needs a key that reads."""
        try:
            private = self.keys.epoch(snapshot.head.compartment, snapshot.head.epoch, snapshot.head.writer)
            return open_content(snapshot, private)
        except DamagedError as e:
            raise DamagedError(f"{snapshot.name}: {e}") from e

    def try_content(self, snapshot: Snapshot) -> SnapshotContent | None:
        """The content, or None when the keys at hand do not open it."""
        if not self.can_read:
            return None
        try:
            return self.open_content(snapshot)
        except NoKeyError:
            return None

    def pack_uses(self, snapshot: Snapshot) -> tuple[PackUse, ...]:
        """The packs that a snapshot lists, or what superseded them. Needs the listing key."""
        result: list[PackUse] = []
        for sha256 in snapshot.head.pack_lists:
            result += self._pack_list(snapshot, sha256)
        return tuple(map(self._current, result))

    def _current(self, use: PackUse) -> PackUse:
        marks = self.last_marks
        *earlier, name = marks.names_of(use.sha256)
        if not earlier:
            return use
        return replace(use, sha256=name, size=marks.resealed[name], earlier=tuple(earlier))

    def _pack_list(self, snapshot: Snapshot, sha256: bytes) -> tuple[PackUse, ...]:
        if sha256 not in self._pack_lists:
            compartment = snapshot.head.compartment
            for writer in self._writers_first(snapshot):
                name = pack_list_name(compartment, writer, sha256)
                try:
                    loaded = loading.load_pack_list(self.storage, self.keyring, name)
                except ObjectNotFound:
                    continue
                self._pack_lists[sha256] = loaded.open(self.keys.listing(loaded.listing))
                break
            else:
                name = pack_list_name(compartment, snapshot.head.writer, sha256)
                raise DamagedError(f"{name} is missing; snapshot {snapshot.id.hex()[:8]} needs it")
        return self._pack_lists[sha256]

    def _writers_first(self, snapshot: Snapshot) -> list[bytes]:
        """The snapshot's own writer, then the others of its compartment: lists may be shared within one."""
        own = snapshot.head.writer
        others = [
            name
            for name, item in self.keyring.writers.items()
            if item.compartment == snapshot.head.compartment and name != own
        ]
        return [own, *others]
