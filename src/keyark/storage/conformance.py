"""One suite of checks that every driver and every real server must pass: ``python -m keyark.storage.conformance URL``.

It works below a scratch name of its own and removes what it made.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from keyark.errors import KeyarkError, ObjectExists, ObjectNotFound
from keyark.storage.location import open_storage
from keyark.storage.protocol import Storage

_RACERS = 8


class Conformance:
    """The checks, each a method whose name says the behaviour. A check raises AssertionError or a KeyarkError."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.scratch = f"conformance-{secrets.token_hex(6)}"

    def _name(self, rest: str) -> str:
        return f"{self.scratch}/{rest}"

    def _expect(self, condition: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
        if not condition:
            raise AssertionError(what)

    def _refuses(self, error: type[KeyarkError], call: Callable[[], object], what: str) -> None:
        try:
            call()
        except error:
            return
        raise AssertionError(what)

    def check_put_then_get_returns_the_bytes(self) -> None:
        for size in (0, 1, 70_000, 5 << 20):
            data = secrets.token_bytes(size)
            self.storage.put(self._name(f"a/{size}"), data)
            self._expect(self.storage.get(self._name(f"a/{size}")) == data, f"{size} bytes come back changed")

    def check_put_takes_many_parts(self) -> None:
        parts = [secrets.token_bytes(17) for _ in range(3000)]
        self.storage.put(self._name("parts"), parts)
        self._expect(self.storage.get(self._name("parts")) == b"".join(parts), "parts come back changed")

    def check_ranges(self) -> None:
        data = bytes(range(256)) * 40
        self.storage.put(self._name("ranges"), data)
        for start, length in ((0, 1), (5, 100), (10_000, 240), (10_239, 1), (10_200, 500), (0, None), (77, None)):
            end = None if length is None else start + length
            found = self.storage.get(self._name("ranges"), start, length)
            self._expect(found == data[start:end], f"range {start}, {length} is wrong")

    def check_create_only_refuses_a_second_put(self) -> None:
        self.storage.put(self._name("once"), b"first")
        self._refuses(
            ObjectExists, lambda: self.storage.put(self._name("once"), b"second"), "a second put was not refused"
        )
        self._expect(self.storage.get(self._name("once")) == b"first", "the first object was changed")

    def check_create_only_has_one_winner(self) -> None:
        if not self.storage.capabilities().create_only:
            return

        def attempt(number: int) -> int | None:
            try:
                self.storage.put(self._name("race"), str(number).encode() * 1000)
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(_RACERS) as pool:
            winners = [number for number in pool.map(attempt, range(_RACERS)) if number is not None]
        self._expect(len(winners) == 1, f"{len(winners)} of {_RACERS} racing puts won")
        self._expect(
            self.storage.get(self._name("race")) == str(winners[0]).encode() * 1000, "a loser's bytes are there"
        )

    def check_overwrite_when_asked(self) -> None:
        self.storage.put(self._name("twice"), b"first")
        self.storage.put(self._name("twice"), b"second", create_only=False)
        self._expect(self.storage.get(self._name("twice")) == b"second", "an overwrite was lost")

    def check_missing_objects_are_named_missing(self) -> None:
        for call in (self.storage.get, self.storage.stat, self.storage.delete):
            self._refuses(ObjectNotFound, lambda call=call: call(self._name("nowhere")), "a missing object was found")  # type: ignore[misc]

    def check_list_shows_names_and_sizes_below_a_prefix(self) -> None:
        for name in ("l/x/1", "l/x/2", "l/xy/3", "l/4"):
            self.storage.put(self._name(name), name.encode() * 3)
        listed = {info.name: info.size for info in self.storage.list(self._name("l/x/"))}
        self._expect(listed == {self._name("l/x/1"): 15, self._name("l/x/2"): 15}, f"the listing is {listed}")
        self._expect(list(self.storage.list(self._name("l/nothing/"))) == [], "an empty prefix lists something")

    def check_stat_tells_the_size(self) -> None:
        self.storage.put(self._name("stat"), b"12345")
        self._expect(self.storage.stat(self._name("stat")).size == 5, "the size is wrong")

    def check_delete_removes(self) -> None:
        self.storage.put(self._name("gone"), b"x")
        self.storage.delete(self._name("gone"))
        self._refuses(ObjectNotFound, lambda: self.storage.get(self._name("gone")), "a deleted object is still there")

    def check_concurrent_puts_all_arrive(self) -> None:
        with ThreadPoolExecutor(_RACERS) as pool:
            list(pool.map(lambda n: self.storage.put(self._name(f"many/{n % 7}/{n}"), b"%d" % n), range(100)))
        listed = {info.name for info in self.storage.list(self._name("many/"))}
        self._expect(len(listed) == 100, f"{len(listed)} of 100 objects arrived")

    def run(self) -> Iterator[tuple[str, str | None]]:
        """Run every check; yields its name and what failed, or None."""
        try:
            for name in sorted(dir(self)):
                if not name.startswith("check_"):
                    continue
                try:
                    getattr(self, name)()
                except (AssertionError, KeyarkError) as e:
                    yield name.removeprefix("check_"), f"{type(e).__name__}: {e}"
                else:
                    yield name.removeprefix("check_"), None
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        for info in list(self.storage.list(self.scratch + "/")):
            self.storage.delete(info.name)


def main() -> int:
    """Check one location; 0 when everything held."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m keyark.storage.conformance LOCATION\n")
        return 2
    try:
        storage = open_storage(sys.argv[1], create=True)
    except KeyarkError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    failures = 0
    for name, failure in Conformance(storage).run():
        failures += failure is not None
        sys.stdout.write(
            f"{'ok    ' if failure is None else 'FAILED'} {name}{'' if failure is None else ': ' + failure}\n"
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
