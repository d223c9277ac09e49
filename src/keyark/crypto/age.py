"""Identities, recipients and files in age's own formats (age-encryption.org/v1).

X25519 goes through `pyrage`. The post-quantum hybrid (`age1pq1…`, `AGE-SECRET-KEY-PQ-1…`, stanza ``mlkem768x25519``) is
HPKE with MLKEM768-X25519, HKDF-SHA256 and ChaCha20-Poly1305 from `cryptography`, so that keys made by `age-keygen -pq` work.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from keyark.crypto import bech32
from keyark.crypto.hpke import Kem, PrivateKey, PublicKey, parsed_private, parsed_public
from keyark.crypto.kdf import hkdf
from keyark.crypto.suites import stream_nonce
from keyark.errors import DamagedError, NoKeyError, UsageError
from keyark.secret import Secret

X25519 = "age-x25519"
HYBRID = "age-mlkem768x25519"
_LABEL = b"age-encryption.org/mlkem768x25519"
_INTRO = b"age-encryption.org/v1\n"
_ENCAPSULATED = 1120  # bytes
_CHUNK = 64 << 10  # bytes of plaintext in one segment of the payload
_HEADER = re.compile(
    rb"age-encryption\.org/v1\n-> mlkem768x25519 ([A-Za-z0-9+/]+)\n([A-Za-z0-9+/]{43})\n---(?: ([A-Za-z0-9+/]{43})\n)"
)


@dataclass(frozen=True, slots=True)
class AgeRecipient:
    """A public key in age's text form."""

    kind: str
    text: str

    @property
    def post_quantum(self) -> bool:
        return self.kind == HYBRID


@dataclass(frozen=True, slots=True)
class AgeIdentity:
    """A private key in age's text form."""

    kind: str
    secret: Secret

    def recipient(self) -> AgeRecipient:
        """The matching recipient."""
        if self.kind == HYBRID:
            return AgeRecipient(HYBRID, bech32.encode("age1pq", self._hybrid().public().data))
        from pyrage import x25519

        identity = x25519.Identity.from_str(self.secret.reveal().decode("ascii"))
        return AgeRecipient(X25519, str(identity.to_public()))

    def _hybrid(self) -> PrivateKey:
        _, seed = bech32.decode(self.secret.reveal().decode("ascii"))
        # The 32-byte seed becomes both private keys as in X-Wing (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey).
        return PrivateKey(Kem.MLKEM768_X25519, Secret(hashlib.shake_256(seed).digest(96)))


def parse_recipient(text: str) -> AgeRecipient:
    """Read one recipient (`age1…` or `age1pq1…`); UsageError says what is wrong with it."""
    text = text.strip()
    shown = text if len(text) < 30 else text[:24] + "…"
    try:
        prefix, data = bech32.decode(text)
    except ValueError as e:
        raise UsageError(f"{shown!r} is no age recipient: {e}") from e
    if prefix == "age" and len(data) == 32:
        return AgeRecipient(X25519, text)
    if prefix == "age1pq" and len(data) == 1184 + 32:
        try:
            parsed_public(PublicKey(Kem.MLKEM768_X25519, data))
        except DamagedError as e:
            raise UsageError(f"{shown!r} is no age recipient: {e}") from e
        return AgeRecipient(HYBRID, text)
    raise UsageError(f"{shown!r} is no age recipient of a kind that works here (age1… or age1pq1…)")


def parse_identities(text: str, where: str = "the identity") -> list[AgeIdentity]:
    """Read an identity file as `age-keygen` writes it: comments, empty lines, one identity on each other line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            found.append(_parse_identity(line, f"{where}, line {number}"))
    if not found:
        raise UsageError(f"{where} holds no age identity (a line AGE-SECRET-KEY-1… or AGE-SECRET-KEY-PQ-1…)")
    return found


def _parse_identity(line: str, where: str) -> AgeIdentity:
    # The line is a secret: it appears in no message.
    try:
        prefix, data = bech32.decode(line)
    except ValueError as e:
        raise UsageError(f"{where} is no age identity: {e}") from e
    kind = {"age-secret-key-": X25519, "age-secret-key-pq-": HYBRID}.get(prefix)
    if kind is None or len(data) != 32 or line != line.upper():
        raise UsageError(f"{where} is no age identity of a kind that works here")
    return AgeIdentity(kind, Secret(line.encode("ascii")))


@functools.lru_cache(maxsize=1)
def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def _unpadded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    if _unpadded(data) != text:
        raise ValueError("base64 is not canonical")
    return data


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(hkdf(file_key, salt=None, info=b"header", length=32), header, "sha256")


def age_encrypt(recipient: AgeRecipient, data: bytes) -> bytes:
    """A binary age file for one recipient."""
    if recipient.kind == X25519:
        import pyrage

        return bytes(pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(recipient.text)]))
    public = PublicKey(Kem.MLKEM768_X25519, bech32.decode(recipient.text)[1])
    file_key = secrets.token_bytes(16)
    sealed = _suite().encrypt(file_key, parsed_public(public), info=_LABEL)
    stanza = (
        b"-> mlkem768x25519 " + _unpadded(sealed[:_ENCAPSULATED]) + b"\n" + _unpadded(sealed[_ENCAPSULATED:]) + b"\n"
    )
    header = _INTRO + stanza + b"---"
    nonce = secrets.token_bytes(16)
    payload = ChaCha20Poly1305(hkdf(file_key, salt=nonce, info=b"payload", length=32))
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)] or [b""]
    sealed_chunks = (
        payload.encrypt(stream_nonce(number, number == len(chunks) - 1), chunk, None)
        for number, chunk in enumerate(chunks)
    )
    return b"".join([header, b" ", _unpadded(_mac(file_key, header)), b"\n", nonce, *sealed_chunks])


def age_decrypt(identity: AgeIdentity, data: bytes) -> bytes:
    """Open an age file. NoKeyError when it is not for this identity, DamagedError when it is damaged."""
    if not data.startswith(_INTRO):
        raise DamagedError("not an age file")
    if identity.kind == X25519:
        import pyrage

        try:
            return bytes(pyrage.decrypt(data, [pyrage.x25519.Identity.from_str(identity.secret.reveal().decode())]))
        except pyrage.DecryptError as e:
            if "No matching keys" in str(e):
                raise NoKeyError("the age file is not for this identity") from e
            raise DamagedError(f"the age file is damaged: {e}") from e
    match = _HEADER.match(data)
    if match is None:
        raise NoKeyError("the age file is not for this identity")
    try:
        return b"".join(_open_hybrid(identity, data, match))
    except (InvalidTag, ValueError, binascii.Error) as e:
        raise DamagedError("the age file is damaged") from e


def _open_hybrid(identity: AgeIdentity, data: bytes, match: re.Match[bytes]) -> Iterator[bytes]:
    private = identity._hybrid()
    encapsulated, body = _decoded(match[1]), _decoded(match[2])
    if len(encapsulated) != _ENCAPSULATED:
        raise DamagedError("the age file is damaged")
    try:
        file_key = _suite().decrypt(encapsulated + body, parsed_private(private), info=_LABEL)
    except InvalidTag as e:
        raise NoKeyError("the age file is not for this identity") from e
    if len(file_key) != 16 or not hmac.compare_digest(_mac(file_key, data[: match.start(3) - 1]), _decoded(match[3])):
        raise DamagedError("the age file's header is damaged")
    position = match.end() + 16
    payload = ChaCha20Poly1305(hkdf(file_key, salt=data[match.end() : position], info=b"payload", length=32))
    number = 0
    while True:
        sealed = data[position : position + _CHUNK + 16]
        position += len(sealed)
        last = position >= len(data)
        plain = payload.decrypt(stream_nonce(number, last), sealed, None)
        if last and not plain and number:
            raise DamagedError("the age file ends in an empty chunk")
        yield plain
        if last:
            return
        number += 1
