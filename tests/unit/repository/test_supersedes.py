"""Which pack serves for another: records, chains of them, and cycles that only a root could sign."""

from __future__ import annotations

from keyark.repository.marks import SUPERSEDES, Mark, merge

A, B, C, D = (bytes([number]) * 32 for number in range(1, 5))


def record(time_ns: int, *rows: tuple[bytes, bytes]) -> Mark:
    return Mark(f"marks/{time_ns}", SUPERSEDES, time_ns, None, tuple((old, new, 7) for old, new in rows))


def test_the_newest_of_a_chain_serves_first_and_the_listed_one_last() -> None:
    marks = merge([record(2, (B, C)), record(1, (A, B))])
    assert marks.names_of(A) == (A, B, C)
    assert marks.names_of(B) == (B, C)
    assert marks.names_of(D) == (D,)
    assert marks.resealed == {B: 7, C: 7}


def test_of_two_in_the_same_place_the_later_record_counts() -> None:
    marks = merge([record(2, (A, C)), record(1, (A, B))])
    assert marks.names_of(A) == (A, B, C)


def test_a_circle_ends() -> None:
    marks = merge([record(1, (A, B), (B, A))])
    assert marks.names_of(A) == (A, B)
    assert marks.names_of(B) == (B, A)
