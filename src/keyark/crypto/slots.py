"""How the private half of a slot is wrapped: passphrase, key file, age identity (docs/format.md, section 4).

A `SlotMethod` wraps, a `SlotOpener` unwraps. Other kinds (RSA, HSM, KMS, quorum) implement the same two.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keyark.crypto.age import AgeIdentity, AgeRecipient, age_decrypt, age_encrypt
from keyark.crypto.kdf import FIPS_KDF, KdfParams, hkdf, lp
from keyark.crypto.suites import Aead, Suite
from keyark.errors import DamagedError, NoKeyError, UsageError
from keyark.secret import Secret

PASSPHRASE = "passphrase"  # noqa: S105 - the name of a kind
KEY_FILE = "key-file"
_PLAIN_LENGTH = 128  # bytes; every wrapped private key is padded to this length
_COMMITMENT = 32  # bytes
_SALT = 32  # bytes
_KEY_LINE_PREFIX = b"KEYARK-KEY-1-"
_MAX_KEY_FILE = 4096  # bytes


@dataclass(frozen=True, slots=True)
class SlotBinding:
    """What a wrap is bound to: repository, slot, the slot's public key."""

    repository: bytes
    slot: bytes
    public: bytes

    def info(self, kind: str) -> bytes:
        digest = hashlib.sha256(self.public).digest()
        return lp(b"keyark/v1") + lp(self.repository) + lp(self.slot) + lp(digest) + lp(f"slot wrap {kind}".encode())


class SlotMethod(Protocol):
    """A way of wrapping a slot's private key."""

    @property
    def kind(self) -> str: ...

    @property
    def post_quantum(self) -> bool: ...

    @property
    def approved(self) -> bool:
        """Whether profile `fips` allows it."""
        ...

    def wrap(self, secret: Secret, binding: SlotBinding) -> tuple[dict[str, Any], bytes]:
        """Public parameters, and the wrapped key."""
        ...

    def describe(self) -> str: ...

    def warning(self) -> str | None: ...


class SlotOpener(Protocol):
    """Something a user brought that may unwrap slots of its kinds."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    def unwrap(self, kind: str, parameters: Mapping[str, Any], wrapped: bytes, binding: SlotBinding) -> Secret:
        """The private key; NoKeyError when this is the wrong key, DamagedError when the wrap is damaged."""
        ...


def _pad(secret: Secret) -> bytes:
    value = secret.reveal()
    return len(value).to_bytes(2, "big") + value + bytes(_PLAIN_LENGTH - 2 - len(value))


def _unpad(plain: bytes) -> Secret:
    length = int.from_bytes(plain[:2], "big")
    if len(plain) != _PLAIN_LENGTH or length > _PLAIN_LENGTH - 2 or any(plain[2 + length :]):
        raise DamagedError("a slot's wrap holds no private key")
    return Secret(plain[2 : 2 + length])


def _symmetric_keys(key: Secret, salt: bytes, info: bytes) -> tuple[bytes, bytes]:
    okm = hkdf(key.reveal(), salt=salt, info=info, length=32 + _COMMITMENT)
    return okm[:32], okm[32:]


def _wrap_symmetric(key: Secret, secret: Secret, info: bytes) -> bytes:
    # The commitment makes the wrap open under one key only (Albertini et al., "How to Abuse and Fix Authenticated
    # Encryption Without Key Commitment", USENIX Security 2022); the salt makes the AEAD key single-use.
    salt = secrets.token_bytes(_SALT)
    cipher, commitment = _symmetric_keys(key, salt, info)
    return salt + commitment + Aead(Suite.AES_256_GCM, cipher).encrypt(bytes(12), _pad(secret), info)


def _unwrap_symmetric(key: Secret, wrapped: bytes, info: bytes, wrong: str) -> Secret:
    if len(wrapped) != _SALT + _COMMITMENT + _PLAIN_LENGTH + 16:
        raise DamagedError("a slot's wrap has the wrong length")
    salt, commitment, sealed = wrapped[:_SALT], wrapped[_SALT : _SALT + _COMMITMENT], wrapped[_SALT + _COMMITMENT :]
    cipher, expected = _symmetric_keys(key, salt, info)
    if not hmac.compare_digest(expected, commitment):
        raise NoKeyError(wrong)
    return _unpad(Aead(Suite.AES_256_GCM, cipher).decrypt(bytes(12), sealed, info))


@dataclass(frozen=True, slots=True)
class PassphraseSlot:
    """Wraps under a passphrase."""

    password: Secret
    kdf: KdfParams
    kind: str = PASSPHRASE
    post_quantum: bool = True

    @property
    def approved(self) -> bool:
        return self.kdf.name == FIPS_KDF

    def wrap(self, secret: Secret, binding: SlotBinding) -> tuple[dict[str, Any], bytes]:
        wrapped = _wrap_symmetric(self.kdf.derive(self.password), secret, binding.info(self.kind))
        return self.kdf.to_map(), wrapped

    def describe(self) -> str:
        return self.kdf.describe()

    def warning(self) -> str | None:
        return self.kdf.warning()


@dataclass(frozen=True, slots=True)
class PassphraseOpener:
    """A passphrase that the user gave."""

    password: Secret
    kinds: tuple[str, ...] = (PASSPHRASE,)

    def unwrap(self, kind: str, parameters: Mapping[str, Any], wrapped: bytes, binding: SlotBinding) -> Secret:
        key = KdfParams.from_map(parameters).derive(self.password)
        return _unwrap_symmetric(key, wrapped, binding.info(kind), "the passphrase is wrong")


def _key_of_line(line: Secret, repository: bytes) -> Secret:
    info = lp(b"keyark/v1") + lp(repository) + lp(b"slot")
    return Secret(hkdf(line.reveal(), salt=None, info=info, length=32))


@dataclass(frozen=True, slots=True)
class KeyFileSlot:
    """Wraps under a key file: one line with at least 256 generated bits."""

    line: Secret
    kind: str = KEY_FILE
    post_quantum: bool = True
    approved: bool = True

    def wrap(self, secret: Secret, binding: SlotBinding) -> tuple[dict[str, Any], bytes]:
        return {}, _wrap_symmetric(_key_of_line(self.line, binding.repository), secret, binding.info(self.kind))

    def describe(self) -> str:
        return "key file, 256 bits"

    def warning(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class KeyFileOpener:
    """A key file that the user gave."""

    line: Secret
    kinds: tuple[str, ...] = (KEY_FILE,)

    def unwrap(self, kind: str, parameters: Mapping[str, Any], wrapped: bytes, binding: SlotBinding) -> Secret:
        if parameters:
            raise DamagedError("a key file's wrap has unknown parameters")
        return _unwrap_symmetric(
            _key_of_line(self.line, binding.repository), wrapped, binding.info(kind), "the key file is not this slot's"
        )


@dataclass(frozen=True, slots=True)
class AgeSlot:
    """Wraps to an age recipient."""

    recipient: AgeRecipient
    approved: bool = False

    @property
    def kind(self) -> str:
        return self.recipient.kind

    @property
    def post_quantum(self) -> bool:
        return self.recipient.post_quantum

    def wrap(self, secret: Secret, binding: SlotBinding) -> tuple[dict[str, Any], bytes]:
        bound = hashlib.sha256(binding.info(self.kind)).digest()
        return {"recipient": self.recipient.text}, age_encrypt(self.recipient, bound + _pad(secret))

    def describe(self) -> str:
        return "age, ML-KEM-768 with X25519" if self.post_quantum else "age, X25519"

    def warning(self) -> str | None:
        return None if self.post_quantum else "X25519 alone does not withstand a quantum computer"


@dataclass(frozen=True, slots=True)
class AgeOpener:
    """An age identity that the user gave."""

    identity: AgeIdentity

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.identity.kind,)

    def unwrap(self, kind: str, parameters: Mapping[str, Any], wrapped: bytes, binding: SlotBinding) -> Secret:
        if set(parameters) != {"recipient"}:
            raise DamagedError("an age slot's wrap has unknown parameters")
        plain = age_decrypt(self.identity, wrapped)
        if plain[:32] != hashlib.sha256(binding.info(kind)).digest():
            raise DamagedError("an age slot's wrap was made for another slot")
        return _unpad(plain[32:])


def generate_key_line() -> Secret:
    """A new key file's line: 256 random bits in text that a shell and openssl take without quoting."""
    import base64

    return Secret(_KEY_LINE_PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"="))


def is_generated_line(line: Secret) -> bool:
    """Whether `generate_key_line` made it."""
    return re.fullmatch(re.escape(_KEY_LINE_PREFIX) + rb"[A-Za-z0-9_-]{43}", line.reveal()) is not None


def check_key_line(data: bytes, where: str) -> Secret:
    """The line of a key file. UsageError when it is not one line with at least 256 generated bits.

    A key file is not stretched like a passphrase, so a guessable one would be worth nothing: it must hold at least 43
    characters of base64, or 64 hexadecimal digits, that look random.
    """
    lines = data.split(b"\n")
    if any(line.strip() for line in lines[1:]) or not lines[0].strip():
        raise UsageError(f"{where} is no key file: it must hold exactly one line")
    line = lines[0].strip()
    body = line.removeprefix(_KEY_LINE_PREFIX)
    hexadecimal = re.fullmatch(rb"[0-9a-fA-F]+", body) is not None
    if not re.fullmatch(rb"[A-Za-z0-9+/_=.-]+", body) or len(body) < (64 if hexadecimal else 43) or len(set(body)) < 10:
        raise UsageError(
            f"{where} is no key file: it needs at least 256 generated bits (`keyark init --new-key-file {where}` makes "
            "one); a password belongs into --password-file"
        )
    return Secret(line)


def read_key_file(path: str) -> tuple[Secret, str | None]:
    """A key file's line, and a warning when others than its owner can read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise UsageError(f"cannot read the key file {path}: {e.strerror}") from e
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        os.close(descriptor)
        raise UsageError(f"the key file {path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_KEY_FILE + 1)
    if len(data) > _MAX_KEY_FILE:
        raise UsageError(f"{path} is no key file: it is longer than {_MAX_KEY_FILE} bytes")
    return check_key_line(data, path), exposure(path, mode)


def read_passphrase(path: str) -> Secret:
    """The first line of a passphrase file."""
    try:
        with open(path, "rb") as file:
            line = file.readline(4096).rstrip(b"\r\n")
    except OSError as e:
        raise UsageError(f"cannot read the passphrase file {path}: {e.strerror}") from e
    if not line:
        raise UsageError(f"the passphrase file {path} is empty")
    return Secret(line)


def exposure(path: str, mode: int) -> str | None:
    """A warning when a secret file's mode lets others than its owner read or replace it."""
    if stat.S_ISREG(mode) and mode & 0o077:
        return f"{path} can be reached by others (mode {stat.S_IMODE(mode):o}); `chmod 600 {path}`"
    return None
