"""Finding the keyring that counts among what the storage shows (docs/format.md, section 3).

The storage is an adversary: it may replay, withhold, add and fork. An invalid generation is ignored with a warning,
two valid ones with one number are a fork, a broken chain or one lower than already seen is an alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keyark.clock import Clock
from keyark.crypto.signing import SigningKey
from keyark.errors import ConflictError, HistoryError, IntegrityError, ObjectNotFound, RepositoryNotFound
from keyark.repository import keyring as keyrings
from keyark.repository.keyring import Keyring
from keyark.repository.names import keyring_name, parse_name
from keyark.repository.wire import ObjectType
from keyark.storage.protocol import Storage

_FORK_PATIENCE_SECONDS = 2.0  # two administrators at one instant: the loser withdraws within this time


@dataclass(frozen=True, slots=True)
class Generations:
    """All valid generations of one repository, oldest first, and what was wrong with the others."""

    chain: tuple[Keyring, ...]
    rejected: tuple[tuple[str, str], ...]  # object name, what is wrong with it

    @property
    def latest(self) -> Keyring:
        return self.chain[-1]

    def by_hash(self) -> Mapping[bytes, Keyring]:
        return {keyring.sha256: keyring for keyring in self.chain}


PinnedKeyring = Callable[[bytes], tuple[int, bytes] | None]


def load_generations(
    storage: Storage, expected: bytes | None, pinned: PinnedKeyring, clock: Clock, remembered: bytes | None = None
) -> Generations:
    """Load and judge every generation.

    ``expected`` is the repository id, when one is known; ``remembered`` the one that this machine last saw here, which decides
    only where keyrings of several repositories lie about; ``pinned`` gives, for a repository id, the highest generation
    this client has seen. Raises RepositoryNotFound, or HistoryError for a fork, a gap or a rollback.
    """
    try:
        return _judge(storage, expected, pinned, remembered)
    except HistoryError:
        clock.sleep(_FORK_PATIENCE_SECONDS)
        return _judge(storage, expected, pinned, remembered)


def _judge(storage: Storage, expected: bytes | None, pinned: PinnedKeyring, remembered: bytes | None) -> Generations:
    valid: dict[int, list[Keyring]] = {}
    rejected: list[tuple[str, str]] = []
    for info in storage.list("keys/"):
        name = parse_name(info.name)
        if name is None or name.type is not ObjectType.KEYRING:
            rejected.append((info.name, f"{info.name}: not the name of a keyring generation"))
            continue
        try:
            found = keyrings.decode(storage.get(info.name), info.name, expected)
        except ObjectNotFound:
            continue
        except IntegrityError as e:
            rejected.append((info.name, str(e)))
            continue
        if found.sha256 != name.sha256 or found.generation != name.number:
            rejected.append((info.name, f"{info.name}: its bytes are not what its name says"))
            continue
        valid.setdefault(found.generation, []).append(found)
    if not valid:
        if rejected:
            raise IntegrityError(f"no keyring at {storage.location} is valid; first of them: {rejected[0][1]}")
        raise RepositoryNotFound(f"no repository at {storage.location}; `keyark init` makes one")
    repositories = {keyring.repository for group in valid.values() for keyring in group}
    if len(repositories) > 1 and remembered in repositories:
        for number, group in valid.items():
            foreign = [item for item in group if item.repository != remembered]
            names = [keyring_name(item.generation, item.sha256) for item in foreign]
            rejected += [(name, f"{name}: belongs to another repository") for name in names]
            valid[number] = [item for item in group if item.repository == remembered]
        valid = {number: group for number, group in valid.items() if group}
        repositories = {remembered}
    if len(repositories) > 1:
        raise HistoryError(
            f"{storage.location} holds keyrings of several repositories; say which one is yours with --repository-id"
        )
    (repository,) = repositories
    try:
        return Generations(_chain(valid, pinned(repository), storage.location), tuple(rejected))
    except HistoryError as e:
        if not rejected:
            raise
        raise HistoryError(f"{e}; and {rejected[0][1]}") from e


def _chain(valid: Mapping[int, Sequence[Keyring]], pinned: tuple[int, bytes] | None, where: str) -> tuple[Keyring, ...]:
    newest = max(valid)
    if pinned is not None and newest < pinned[0]:
        raise HistoryError(
            f"{where}: the keyring went back to generation {newest}, but this machine has seen generation {pinned[0]}; "
            "somebody replaced the repository by an older copy"
        )
    chain: list[Keyring] = []
    for number in range(1, newest + 1):
        group = valid.get(number, [])
        if not group:
            raise HistoryError(f"{where}: keys/{number:08d}-… is missing, though later keyring generations exist")
        if len(group) > 1:
            raise HistoryError(
                f"{where}: two valid keyrings claim generation {number} "
                f"({', '.join(item.sha256.hex()[:12] for item in group)}): the root key was used in two places"
            )
        keyring = group[0]
        if keyring.previous != (chain[-1].sha256 if chain else None):
            raise HistoryError(f"{where}: keyring generation {number} does not follow the one before it")
        if pinned is not None and number == pinned[0] and keyring.sha256 != pinned[1]:
            raise HistoryError(f"{where}: keyring generation {number} is not the one this machine has seen")
        chain.append(keyring)
    return tuple(chain)


def publish(storage: Storage, keyring: Keyring, root: SigningKey) -> Keyring:
    """Sign and store a new generation; returns it with its hash.

    Names carry hashes, so a squatter cannot block a generation. ConflictError when another administrator was first, or when
    two publish the same number at one instant: whoever then sees the other withdraws, since the other may have looked before.
    """
    parts, sha256 = keyrings.encode(keyring, root)
    name = keyring_name(keyring.generation, sha256)
    refuse_rivals(storage, keyring)
    storage.put(name, parts, create_only=True)
    try:
        refuse_rivals(storage, keyring, own=name)
    except ConflictError:
        storage.delete(name)
        raise
    return keyrings.decode(b"".join(parts), name, keyring.repository)


def refuse_rivals(storage: Storage, draft: Keyring, own: str | None = None) -> None:
    """ConflictError when a valid generation with the draft's number, and not of the name ``own``, is there already."""
    for info in storage.list("keys/"):
        other = parse_name(info.name)
        if other is None or other.number != draft.generation or info.name == own:
            continue
        if _is_valid_rival(storage, info.name, draft.repository):
            raise ConflictError("another administrator changed the keyring at this instant; run the command again")


def _is_valid_rival(storage: Storage, name: str, repository: bytes) -> bool:
    try:
        keyrings.decode(storage.get(name), name, repository)
    except (IntegrityError, ObjectNotFound):
        return False
    return True
