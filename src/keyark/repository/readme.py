"""README.txt and recover.py of a repository: for a stranger who finds it, in ten years, without Keyark.

Neither is trusted: whoever can write to the storage can change them. Their hashes stand in the keyring (docs/format.md,
section 14).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import resources

from keyark import __version__
from keyark.errors import DamagedError, ObjectNotFound
from keyark.repository import names
from keyark.repository.keyring import Keyring
from keyark.storage.protocol import Storage

_MAX_PLAIN = 16 << 20  # bytes of either file that are looked at; neither is anywhere near
_TEXT = """\
This folder is a Keyark repository: an encrypted backup of cryptographic keys and secrets.

Repository id: {repository}
Repository format 1; this file is of Keyark {version}.

Do not change, rename or delete anything in here by hand. Everything is sealed; without a key nothing can be read.

DO NOT TRUST this file and recover.py because they lie here: whoever could write to this folder could have changed both.
Compare `sha256sum recover.py` with what was written down when the repository was made: `keyark init` printed it, and
`keyark key` and `keyark writer` print a new one when they renew it. (It does not stand here, since this file proves nothing.)

What you need to restore: one of the repository's keys, that is, the key file (one line, often called backup_master.key), a
passphrase, or an age identity (a line AGE-SECRET-KEY-...); and a computer with Python 3.11 or later and these three packages
from https://pypi.org. Copy recover.py into an empty folder of your own, compare its SHA-256, and there:

    python3 -m venv venv
    venv/bin/pip install cryptography zstandard blake3
    venv/bin/python recover.py --repository THIS_FOLDER --repository-id ID --key-file KEY_FILE list
    venv/bin/python recover.py --repository THIS_FOLDER --repository-id ID --key-file KEY_FILE restore latest --target NEW_FOLDER

ID is the repository id from your own records. In place of --key-file: --passphrase-file FILE (or nothing: then you are
asked), or --identity FILE. In place of latest: the beginning of an id, or a name, as `list` shows them. recover.py says in one
line each what is damaged; what is sound is restored nevertheless, and its exit code is then 13. As root it also restores
owners. It cannot know what is missing here: compare the list with your records.

With the program Keyark installed:

    keyark -r THIS_FOLDER --repository-id ID --key-file KEY_FILE snapshots
    keyark -r THIS_FOLDER --repository-id ID --key-file KEY_FILE restore latest --target NEW_FOLDER

keys/       who may read and who may write, signed
wraps/      private keys, each sealed to a key above it
packs/      the data
packlists/  which packs a snapshot needs
index/      which piece lies in which pack (can be rebuilt)
snapshots/  one object for each backup
marks/      what was forgotten, and what may be deleted
"""


def reader() -> bytes:
    """This version's recover.py, byte for byte as repositories carry it."""
    return resources.files("keyark.repository").joinpath("recover.py").read_bytes()


def readme(repository: bytes) -> bytes:
    """This version's README.txt of one repository."""
    return _TEXT.format(repository=repository.hex(), version=__version__).encode()


def renewed(draft: Keyring) -> Keyring:
    """The draft of a generation that records this version's README and reader. `store` must follow its publication."""
    hashes = (hashlib.sha256(data).digest() for data in (readme(draft.repository), reader()))
    return replace(draft, readme_sha256=next(hashes), reader_sha256=next(hashes))


def store(storage: Storage, repository: bytes) -> None:
    """Put this version's README and reader into a repository, over older ones; nothing is written when they are there."""
    for name, data in ((names.README, readme(repository)), (names.READER, reader())):
        if _digest(storage, name) != hashlib.sha256(data).digest():
            storage.put(name, data, create_only=False)


def judge(storage: Storage, chain: Iterable[Keyring]) -> Iterator[tuple[str, str, bool]]:
    """Compare README and reader with the keyring; ``chain`` is all generations, oldest first.

    Gives (name, what is wrong, whether it is an integrity failure). A file that an earlier generation records is none: the
    change of the keyring that brought a new one was interrupted, or the storage refuses to overwrite.
    """
    generations = tuple(chain)
    for name in (names.README, names.READER):
        recorded = [item.readme_sha256 if name == names.README else item.reader_sha256 for item in generations]
        found = _digest(storage, name)
        if found == recorded[-1]:
            if found is None:
                yield name, f"{name} is not in this repository yet; the next change of keys or writers stores it", False
        elif recorded[-1] is None:
            yield name, f"{name}: the keyring records none; somebody else put it there, do not run it", True
        elif found is None:
            yield name, f"{name} is missing; the next change of keys or writers stores it again", True
        elif found in recorded:
            yield name, f"{name} is an older one; the next change of keys or writers renews it", False
        else:
            yield name, f"{name} is not the one that the keyring records: replaced or damaged; do not trust it", True


def _digest(storage: Storage, name: str) -> bytes | None:
    try:
        return hashlib.sha256(storage.get(name, 0, _MAX_PLAIN)).digest()
    except ObjectNotFound:
        return None
    except DamagedError:
        return b""  # no file, or too large for one of ours: no digest is like this
