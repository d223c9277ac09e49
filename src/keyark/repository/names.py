"""Names of objects in the storage (docs/format.md, section 1), made and taken apart in one place."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from keyark.repository.wire import ObjectType

README = "README.txt"
READER = "recover.py"

# Scratch objects with which `init` and `doctor` try what the storage lets them do. Where it is append-only, they stay.
PROBE = re.compile(r"probe-[0-9a-f]{16}")

_HEX16 = "[0-9a-f]{32}"
_HEX32 = "[0-9a-f]{64}"
_PATTERNS: tuple[tuple[ObjectType, re.Pattern[str]], ...] = (
    (ObjectType.KEYRING, re.compile(rf"keys/(?P<number>[0-9]{{8}})-(?P<sha>{_HEX32})")),
    (ObjectType.SLOT_WRAP, re.compile(rf"wraps/slots/(?P<recipient>{_HEX16})")),
    (
        ObjectType.KEY_WRAP,
        re.compile(
            rf"wraps/(?P<group>root|listing|{_HEX16})/(?P<item>[0-9]{{8}}|keys-[0-9]{{8}}|{_HEX16})/(?P<recipient>{_HEX16})"
        ),
    ),
    (ObjectType.PACK, re.compile(rf"packs/(?P<fan>[0-9a-f]{{2}})/(?P<sha>{_HEX32})")),
    (ObjectType.INDEX, re.compile(rf"index/(?P<compartment>{_HEX16})/(?P<writer>{_HEX16})/(?P<sha>{_HEX32})")),
    (
        ObjectType.SNAPSHOT,
        re.compile(
            rf"snapshots/(?P<compartment>{_HEX16})/(?P<writer>{_HEX16})/(?P<number>[0-9]{{8}})-(?P<sha>{_HEX32})"
        ),
    ),
    (ObjectType.MARK, re.compile(rf"marks/(?P<sha>{_HEX32})")),
    (ObjectType.PACK_LIST, re.compile(rf"packlists/(?P<compartment>{_HEX16})/(?P<writer>{_HEX16})/(?P<sha>{_HEX32})")),
)


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A name taken apart. Fields that the type does not have are None."""

    text: str
    type: ObjectType
    sha256: bytes | None = None
    number: int | None = None  # keyring generation or snapshot sequence
    compartment: bytes | None = None
    writer: bytes | None = None
    group: str | None = None  # of a key wrap: root, listing or a compartment's id
    item: str | None = None
    recipient: bytes | None = None


def parse_name(text: str) -> ObjectName | None:
    """Take a name apart; None when it is no object's name."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        groups = match.groupdict()
        if kind is ObjectType.PACK and not groups["sha"].startswith(groups["fan"]):
            return None
        return ObjectName(
            text,
            kind,
            bytes.fromhex(groups["sha"]) if "sha" in groups else None,
            int(groups["number"]) if "number" in groups else None,
            bytes.fromhex(groups["compartment"]) if "compartment" in groups else None,
            bytes.fromhex(groups["writer"]) if "writer" in groups else None,
            groups.get("group"),
            groups.get("item"),
            bytes.fromhex(groups["recipient"]) if "recipient" in groups else None,
        )
    return None


def probe_name() -> str:
    return f"probe-{secrets.token_hex(8)}"


def keyring_name(generation: int, sha256: bytes) -> str:
    return f"keys/{generation:08d}-{sha256.hex()}"


def slot_wrap_name(slot: bytes) -> str:
    return f"wraps/slots/{slot.hex()}"


def root_wrap_name(slot: bytes) -> str:
    return f"wraps/root/{1:08d}/{slot.hex()}"


def listing_wrap_name(number: int, recipient: bytes) -> str:
    return f"wraps/listing/{number:08d}/{recipient.hex()}"


def compartment_wrap_name(compartment: bytes, generation: int, recipient: bytes) -> str:
    return f"wraps/{compartment.hex()}/keys-{generation:08d}/{recipient.hex()}"


def epoch_wrap_name(compartment: bytes, epoch: bytes, slot: bytes) -> str:
    return f"wraps/{compartment.hex()}/{epoch.hex()}/{slot.hex()}"


def pack_name(sha256: bytes) -> str:
    text = sha256.hex()
    return f"packs/{text[:2]}/{text}"


def index_name(compartment: bytes, writer: bytes, sha256: bytes) -> str:
    return f"index/{compartment.hex()}/{writer.hex()}/{sha256.hex()}"


def snapshot_name(compartment: bytes, writer: bytes, sequence: int, sha256: bytes) -> str:
    return f"snapshots/{compartment.hex()}/{writer.hex()}/{sequence:08d}-{sha256.hex()}"


def mark_name(sha256: bytes) -> str:
    return f"marks/{sha256.hex()}"


def pack_list_name(compartment: bytes, writer: bytes, sha256: bytes) -> str:
    return f"packlists/{compartment.hex()}/{writer.hex()}/{sha256.hex()}"
