"""Which chunk lies where: index objects into the local cache, packs that no index names, and back again."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from keyark.errors import IntegrityError, NoKeyError, ObjectExists, ObjectNotFound
from keyark.repository.cache import Cache, CachedPack
from keyark.repository.index import IndexedPack, IndexObject, decode_index
from keyark.repository.keyring import Keyring
from keyark.repository.loading import writer_of
from keyark.repository.names import pack_name, parse_name
from keyark.repository.packlists import PackUse
from keyark.repository.packs import BlockPlace
from keyark.repository.reading import PackReader
from keyark.repository.unlocked import Unlocked
from keyark.repository.wire import ObjectType
from keyark.storage.protocol import Storage

_PARALLEL = 2  # index objects under way; each may be 8 MB, several times over while it is opened
_FOREIGN = b"foreign:"  # cache keys of packs that belong to other compartments

Warn = Callable[[str], None]


class Lookup:
    """The chunk index of one repository, as far as the keys at hand open it."""

    def __init__(self, storage: Storage, keyring: Keyring, keys: Unlocked, cache: Cache, warn: Warn) -> None:
        self._storage = storage
        self._keyring = keyring
        self._keys = keys
        self._warn = warn
        self.cache = cache
        self.reader = PackReader(storage, keyring, keys)
        self.damaged: list[tuple[str, str]] = []

    def load_index(self, name: str) -> IndexObject:
        """Fetch and verify one index object."""
        parsed = parse_name(name)
        if parsed is None or parsed.type is not ObjectType.INDEX:
            raise IntegrityError(f"{name}: not the name of an index object")
        writer = writer_of(self._keyring, parsed, name)
        return decode_index(self._storage.get(name), name, self._keyring.repository, writer.verify)

    def sync(self, compartment: bytes) -> None:
        """Take over index objects that are new. Damaged ones are named and left out: packs can be read without them.

        Where they contradict each other the pack itself decides: a writer may say anything about any pack.
        """
        prefix = f"index/{compartment.hex()}/"
        listed = [info.name for info in self._storage.list(prefix)]
        gone = self.cache.known_indexes(prefix).difference(listed)
        if gone:
            self.cache.forget_indexes(sorted(gone), compartment)
        known = self.cache.known_indexes(prefix)
        for name, loaded in _parallel(self._try_load, [name for name in listed if name not in known]):
            if loaded is None:
                continue
            try:
                keys = self._keys.compartment(compartment, loaded.generation)
                self.cache.add_index(name, compartment, loaded.open(keys.index_key))
            except IntegrityError as e:
                self._note(name, str(e))
            except NoKeyError:
                continue  # of an older key generation that this credential was never given
        for sha256 in self.cache.disputed(compartment):
            self._ask(sha256, compartment)

    def _ask(self, sha256: bytes, compartment: bytes) -> None:
        """Take over what a pack says about itself, unless it cannot be read, or is of another compartment."""
        try:
            head, blocks, size = self.reader.directory(pack_name(sha256))
        except (IntegrityError, ObjectNotFound):
            return
        if head.compartment != compartment:
            return
        self.cache.add_index(None, compartment, [_indexed(sha256, head.kind, size, blocks)], trusted=True)

    def _try_load(self, name: str) -> IndexObject | None:
        try:
            return self.load_index(name)
        except ObjectNotFound:
            return None
        except IntegrityError as e:
            self._note(name, str(e))
            return None

    def _note(self, name: str, what: str) -> None:
        self.damaged.append((name, what))
        self._warn(f"{what}; `keyark verify --repair-index` rebuilds the index")

    def ensure_packs(self, wanted: Iterable[bytes], compartment: bytes) -> dict[bytes, CachedPack]:
        """The cached facts of ``wanted`` packs of a compartment; one that no index names is asked itself. Unreadable ones, and
        those of other compartments, are left out."""
        known = self.cache.numbers(compartment)
        names = list(wanted)
        missing = [sha256 for sha256 in names if sha256 not in known]
        for sha256 in missing:
            self._ask(sha256, compartment)
        if missing:
            known = self.cache.numbers(compartment)
        return {sha256: self.cache.pack(known[sha256]) for sha256 in names if sha256 in known}

    def adopt(self, compartment: bytes, unknown: Iterable[bytes], vouched: Container[bytes]) -> None:
        """Packs of this compartment that no index names, left by a crash: verified as a whole and taken over.

        ``vouched`` are those that the root re-sealed and names in a mark: their directory is enough.
        """
        for sha256 in unknown:
            key = _FOREIGN + sha256
            if self.cache.folder(key) is not None:
                continue
            name = pack_name(sha256)
            try:
                if self.reader.head(name).compartment != compartment:
                    self.cache.put_folders([(key, b"")])
                    continue
                if sha256 in vouched:
                    self._ask(sha256, compartment)
                    continue
                data = self._storage.get(name)
                head = self.reader.verified(name, sha256, data)
                if head.writer is None or self._keyring.writers[head.writer].revoked is not None:
                    continue
                _, blocks, size = self.reader.directory(name, data)
            except ObjectNotFound:
                continue
            except (IntegrityError, NoKeyError) as e:
                self._warn(f"{name} is ignored: {e}")
                continue
            # Its process may have been killed before the pack was durable. "Exists" promises that it is now.
            with contextlib.suppress(ObjectExists):
                self._storage.put(name, data)
            self.cache.add_index(None, compartment, [_indexed(sha256, head.kind, size, blocks)], trusted=True)

    def unindexed(self, compartment: bytes, present: Mapping[bytes, int]) -> list[IndexedPack]:
        """Adopted packs that are to be indexed now."""
        found = []
        for sha256 in self.cache.unindexed(compartment):
            if sha256 not in present:
                continue
            try:
                head, blocks, size = self.reader.directory(pack_name(sha256))
            except (IntegrityError, ObjectNotFound, NoKeyError):
                continue
            found.append(_indexed(sha256, head.kind, size, blocks))
        return found

    def restrict(self, uses: Sequence[PackUse], compartment: bytes) -> dict[int, CachedPack]:
        """The packs of its compartment that a snapshot lists, by local number: only through these its chunks resolve."""
        result: dict[int, CachedPack] = {}
        todo = [use.names for use in uses]
        while todo:  # a superseded pack serves where the one that superseded it is not there (yet)
            found = self.ensure_packs([names[0] for names in todo], compartment)
            result |= {pack.num: pack for pack in found.values()}
            todo = [names[1:] for names in todo if names[0] not in found and names[1:]]
        return result


def _indexed(sha256: bytes, kind: int, size: int, blocks: Sequence[BlockPlace]) -> IndexedPack:
    # How many bytes the chunks have is sealed inside the blocks; the stored size stands in until the pack is rewritten.
    return IndexedPack(sha256, kind, size, size, tuple(blocks))


def _parallel(
    function: Callable[[str], IndexObject | None], names: Sequence[str]
) -> Iterator[tuple[str, IndexObject | None]]:
    """Call ``function`` for each name, a few ahead of the one that is handed out: index objects are large."""
    if len(names) <= 1:
        yield from ((name, function(name)) for name in names)
        return
    with ThreadPoolExecutor(_PARALLEL) as pool:
        ahead: deque[tuple[str, Future[IndexObject | None]]] = deque()
        for name in names:
            ahead.append((name, pool.submit(function, name)))
            if len(ahead) > _PARALLEL:
                done, future = ahead.popleft()
                yield done, future.result()
        while ahead:
            done, future = ahead.popleft()
            yield done, future.result()
