"""Bech32 (BIP-173) without its 90-character limit, as age uses it for recipients and identities."""

from __future__ import annotations

from collections.abc import Iterable

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate(_GENERATOR):
            if top >> bit & 1:
                checksum ^= factor
    return checksum


def _expand(prefix: str) -> list[int]:
    return [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]


def _regroup(values: Iterable[int], width_in: int, width_out: int, *, pad: bool) -> list[int]:
    buffer = bits = 0
    out = []
    for value in values:
        buffer = (buffer << width_in | value) & 0xFFFF
        bits += width_in
        while bits >= width_out:
            bits -= width_out
            out.append(buffer >> bits & (1 << width_out) - 1)
    rest = buffer & (1 << bits) - 1
    if pad and bits:
        out.append(rest << width_out - bits)
    elif not pad and (bits >= width_in or rest):
        raise ValueError("its padding is not zero")
    return out


def encode(prefix: str, data: bytes) -> str:
    """Encode ``data`` under a lower-case ``prefix``."""
    words = _regroup(data, 8, 5, pad=True)
    checksum = _polymod([*_expand(prefix), *words, *[0] * _CHECKSUM_LENGTH]) ^ 1
    words += [checksum >> 5 * (5 - index) & 31 for index in range(_CHECKSUM_LENGTH)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in words)


def decode(text: str) -> tuple[str, bytes]:
    """Prefix (lower case) and data; ValueError says what is wrong. Mixed case is refused, as BIP-173 asks."""
    if text.lower() != text and text.upper() != text:
        raise ValueError("it mixes upper and lower case")
    text = text.lower()
    prefix, separator, rest = text.rpartition("1")
    if not separator or not prefix or len(rest) < _CHECKSUM_LENGTH:
        raise ValueError("it is too short, or lacks its separator")
    if any(not 33 <= ord(char) <= 126 for char in prefix) or any(char not in _ALPHABET for char in rest):
        raise ValueError("it holds a character that cannot stand there")
    words = [_ALPHABET.index(char) for char in rest]
    if _polymod([*_expand(prefix), *words]) != 1:
        raise ValueError("its checksum is wrong, probably a typing error")
    return prefix, bytes(_regroup(words[:-_CHECKSUM_LENGTH], 5, 8, pad=False))
