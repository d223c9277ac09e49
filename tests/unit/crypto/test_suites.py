"""Suites, seals, nonces, padding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyark.crypto.suites import (
    Aead,
    Suite,
    key_length,
    overhead,
    padme,
    seal,
    stream_nonce,
    suite_by_name,
    suite_name,
    unseal,
)
from keyark.errors import DamagedError, UsageError

KEY = bytes(range(32))
PLACE = {"repository": b"r" * 32, "compartment": b"c" * 16, "kind": "index"}


@pytest.mark.parametrize("suite", Suite)
@given(plain=st.binary(max_size=200), aad=st.binary(max_size=20))
def test_aead_round_trip_and_overhead(suite: Suite, plain: bytes, aad: bytes) -> None:
    aead = Aead(suite, bytes(key_length(suite)))
    sealed = aead.encrypt(bytes(12), plain, aad)
    assert len(sealed) == len(plain) + overhead(suite)
    assert aead.decrypt(bytes(12), sealed, aad) == plain


@pytest.mark.parametrize("suite", Suite)
def test_any_flipped_bit_is_refused(suite: Suite) -> None:
    aead = Aead(suite, bytes(key_length(suite)))
    sealed = bytearray(aead.encrypt(bytes(12), b"some plaintext", b"aad"))
    for position in range(len(sealed)):
        sealed[position] ^= 1
        with pytest.raises(DamagedError):
            aead.decrypt(bytes(12), bytes(sealed), b"aad")
        sealed[position] ^= 1
    with pytest.raises(DamagedError):
        aead.decrypt(bytes(12), bytes(sealed), b"other")
    with pytest.raises(DamagedError):
        aead.decrypt(b"1" * 12, bytes(sealed), b"aad")
    with pytest.raises(DamagedError):
        aead.decrypt(bytes(12), b"", b"aad")


def test_the_cascades_layers_have_independent_keys() -> None:
    one, two = bytes(range(32)), bytes(range(32, 64))
    sealed = Aead(Suite.CASCADE, one + two).encrypt(bytes(12), b"x" * 50, b"a")
    inner = Aead(Suite.CHACHA20_POLY1305, two).decrypt(bytes(12), sealed, b"a")
    assert Aead(Suite.AES_256_GCM, one).decrypt(bytes(12), inner, b"a") == b"x" * 50


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        Aead(Suite.CASCADE, KEY)


@pytest.mark.parametrize("field", ["repository", "compartment", "kind"])
def test_a_seal_opens_only_in_its_place(field: str) -> None:
    sealed = seal(Suite.AES_256_GCM, KEY, b"data", aad=b"a", **PLACE)
    assert unseal(Suite.AES_256_GCM, KEY, sealed, aad=b"a", **PLACE) == b"data"
    other = {**PLACE, field: "pack" if field == "kind" else b"x" * 32}
    with pytest.raises(DamagedError):
        unseal(Suite.AES_256_GCM, KEY, sealed, aad=b"a", **other)


def test_two_seals_of_one_plaintext_differ_and_a_short_one_is_refused() -> None:
    assert seal(Suite.AES_256_GCM, KEY, b"data", **PLACE) != seal(Suite.AES_256_GCM, KEY, b"data", **PLACE)
    with pytest.raises(DamagedError, match="too short"):
        unseal(Suite.AES_256_GCM, KEY, b"short", **PLACE)


def test_stream_nonces_are_distinct_and_end_in_the_last_flag() -> None:
    nonces = {stream_nonce(counter, last) for counter in range(300) for last in (False, True)}
    assert len(nonces) == 600
    assert stream_nonce(1, last=True) == bytes(10) + b"\x01\x01"


@given(st.integers(0, 1 << 40))
def test_padme_never_shrinks_and_costs_at_most_an_eighth(length: int) -> None:
    padded = padme(length)
    assert length <= padded
    assert padded <= length * 1.12 + 2
    assert padme(padded) == padded


def test_names_of_suites() -> None:
    for suite in Suite:
        assert suite_by_name(suite_name(suite).lower()) is suite
    for name, hint in (("Fernet", "export"), ("RSA", "export"), ("DES", "use one of")):
        with pytest.raises(UsageError, match=hint):
            suite_by_name(name)
