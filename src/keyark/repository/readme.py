"""README.txt of a repository: what a stranger who finds it needs to know. Its hash stands in the keyring."""

from __future__ import annotations

_TEXT = """\
This folder is a Keyark repository: an encrypted backup of cryptographic keys and secrets.

Repository id: {repository}
Made by Keyark {version}, repository format 1.

Do not change, rename or delete anything in here by hand. Everything is sealed; without a key nothing can be read.

To restore you need one of its keys: the key file (often called backup_master.key), a passphrase, or an age identity.
With the program Keyark installed:

    keyark -r THIS_FOLDER --key-file backup_master.key snapshots
    keyark -r THIS_FOLDER --key-file backup_master.key restore latest --target /some/empty/folder

With an age identity, also give --repository-id and the id above, as it stands on your own records, not as it stands here:
whoever could put this folder here could also have written this text.

keys/       who may read and who may write, signed
wraps/      private keys, each sealed to a key above it
packs/      the data
packlists/  which packs a snapshot needs
index/      which piece lies in which pack (can be rebuilt)
snapshots/  one object for each backup
marks/      what was forgotten, and what may be deleted
"""


def readme_text(repository: bytes, version: str) -> bytes:
    """The text for one repository."""
    return _TEXT.format(repository=repository.hex(), version=version).encode()
