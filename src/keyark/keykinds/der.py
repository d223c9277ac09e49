"""Private keys and keystores in DER, by structure: whatever the file is called (RFC 8017, RFC 5958, RFC 5915, RFC 7292)."""

from __future__ import annotations

import re

from keyark.keykinds.kinds import KEYSTORE, PRIVATE_KEY, Kind

_SEQUENCE = 0x30
# What follows the header of the outer SEQUENCE. L stands for a DER length.
_L = rb"(?:[\x00-\x7f]|\x81.|\x82..|\x83...)"
_PKCS5 = rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05."  # 1.2.840.113549.1.5: password-based encryption, RFC 8018
_PKCS12_PBE = rb"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01."  # 1.2.840.113549.1.12.1
_PKCS7 = rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07[\x01\x02]"  # 1.2.840.113549.1.7: data, signed data
_INSIDE: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"\x02\x01[\x00\x01]\x30" + _L + rb"\x06", re.DOTALL), PRIVATE_KEY),  # PKCS #8: version, algorithm
    (
        re.compile(rb"\x02\x01\x00\x02(?:[\x20-\x7f]|\x81.|\x82..)", re.DOTALL),
        PRIVATE_KEY,
    ),  # PKCS #1 and DSA: version, n or p
    (re.compile(rb"\x02\x01\x01\x04[\x10-\x42]", re.DOTALL), PRIVATE_KEY),  # SEC 1: version, scalar
    (
        re.compile(rb"\x30" + _L + rb"(?:" + _PKCS5 + rb"|" + _PKCS12_PBE + rb")", re.DOTALL),
        PRIVATE_KEY,
    ),  # encrypted PKCS #8
    (re.compile(rb"\x02\x01\x03\x30(?:" + _L + rb"|\x80)" + _PKCS7, re.DOTALL), KEYSTORE),  # PKCS #12
    (re.compile(rb"\x30" + _L + rb"\x30" + _L + _PKCS5, re.DOTALL), KEYSTORE),  # BCFKS of Bouncy Castle, encrypted
)
_SLACK = 2  # bytes after the structure: a line end that some tool added


def recognise_der(head: bytes, size: int) -> Kind | None:
    """The kind of a DER file of ``size`` bytes from its first ones; None when it is none, or its length does not fit."""
    if len(head) < 8 or head[0] != _SEQUENCE:
        return None
    start = _content(head, size)
    if start is None:
        return None
    for pattern, kind in _INSIDE:
        if pattern.match(head, start):
            return kind
    return None


def _content(head: bytes, size: int) -> int | None:
    first = head[1]
    if first == 0x80:  # indefinite length, which some PKCS #12 writers use
        return 2
    if first < 0x80:
        start, length = 2, first
    else:
        count = first & 0x7F
        if count > 4:
            return None
        start, length = 2 + count, int.from_bytes(head[2 : 2 + count], "big")
    return start if 0 <= size - start - length <= _SLACK else None
