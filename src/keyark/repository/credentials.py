"""What a user brings to open a repository, and the credential file of a writer or operator (docs/format.md, section 9)."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass

from keyark.crypto.age import AgeIdentity
from keyark.crypto.hpke import Kem, PrivateKey
from keyark.crypto.signing import SigningKey
from keyark.errors import DamagedError, UsageError
from keyark.repository import wire
from keyark.repository.places import write_private
from keyark.secret import Secret

WRITER = "writer"
OPERATOR = "operator"
_PREFIX = "KEYARK-CREDENTIAL-1-"
_FIELDS = {
    "role": lambda value: value in (WRITER, OPERATOR),
    "repository": wire.is_bytes(32),
    "id": wire.is_bytes(16),
    "name": wire.is_text,
    "compartment": wire.optional(wire.is_bytes(16)),
    "seed": wire.is_data,
    "kem": lambda value: value in (1, 2),
    "box": wire.is_data,
}


@dataclass(frozen=True, slots=True)
class Credential:
    """A writer's or an operator's credential: it names its repository, signs, and opens what is sealed to it."""

    role: str
    repository: bytes
    id: bytes
    name: str
    compartment: bytes | None  # a writer's
    signing: SigningKey
    box: PrivateKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything the user brought. All of it may be empty: then only this machine's own credential is tried."""

    passwords: tuple[Secret, ...] = ()
    key_lines: tuple[Secret, ...] = ()
    identities: tuple[AgeIdentity, ...] = ()
    credential: Credential | None = None
    repository_id: bytes | None = None

    @property
    def has_slot_keys(self) -> bool:
        return bool(self.passwords or self.key_lines or self.identities)


def encode_credential(credential: Credential) -> bytes:
    """The credential as text: a comment and one line."""
    value = {
        "role": credential.role,
        "repository": credential.repository,
        "id": credential.id,
        "name": credential.name,
        "compartment": credential.compartment,
        "seed": credential.signing.seed().reveal(),
        "kem": int(credential.box.kem),
        "box": credential.box.data.reveal(),
    }
    line = _PREFIX + base64.urlsafe_b64encode(wire.pack(value)).decode("ascii").rstrip("=")
    comment = f"# Keyark {credential.role} credential {credential.name!r} of repository {credential.repository.hex()}"
    return f"{comment}\n{line}\n".encode()


def decode_credential(text: bytes, where: str) -> Credential:
    """Read a credential file's content; UsageError says what is wrong with it."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(b"#")]
    if len(lines) != 1 or not lines[0].startswith(_PREFIX.encode()):
        raise UsageError(f"{where} is not a Keyark credential; `keyark writer add NAME -o FILE` makes one")
    encoded = lines[0][len(_PREFIX) :]
    try:
        raw = base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        value = wire.expect(wire.unpack(raw, where), _FIELDS, where)
        signing = SigningKey.from_seed(Secret(value["seed"]))
        box = PrivateKey(Kem(value["kem"]), Secret(value["box"]))
        box.public()
    except (binascii.Error, ValueError, DamagedError) as e:
        raise UsageError(f"{where} is damaged: it is a Keyark credential cut short or altered") from e
    return Credential(
        value["role"], value["repository"], value["id"], value["name"], value["compartment"], signing, box
    )


def load_credential(path: str) -> Credential:
    """Read a credential file."""
    try:
        with open(path, "rb") as file:
            text = file.read(1 << 20)
    except OSError as e:
        raise UsageError(f"cannot read the credential {path}: {e.strerror}") from e
    return decode_credential(text, path)


def save_credential(credential: Credential, path: str, *, replace: bool = False) -> None:
    """Write a credential file, mode 600; an existing file is never overwritten unless asked."""
    if not replace and os.path.lexists(path):
        raise UsageError(f"{path} exists; a credential is never written over another file")
    try:
        write_private(path, encode_credential(credential))
    except OSError as e:
        raise UsageError(f"cannot write the credential {path}: {e.strerror}") from e
