"""Give a repository an index of millions of chunks, without the data: for the measurement of memory.

    KEYARK_STATE_DIR=... KEYARK_CACHE_DIR=... python benchmarks/bigindex.py REPOSITORY CHUNKS

The index objects are real, sealed and signed by this machine's writer. The packs that they name are files of holes, so that a
backup counts them as present and looks into the whole index; their chunk ids are random, so that nothing is ever found in them.
"""

from __future__ import annotations

import os
import random
import sys

from keyark.operation import Context
from keyark.repository.credentials import Credentials
from keyark.repository.index import MAX_CHUNKS, IndexedPack, encode_index
from keyark.repository.names import index_name, pack_name
from keyark.repository.open import open_repository
from keyark.repository.packs import BlockPlace
from keyark.repository.places import Places
from keyark.storage.location import open_storage

_CHUNKS_PER_PACK = 1_000  # files of about 16 KB
_PACK_SIZE = 16_000_000
_BLOCKS = 4


def plant(location: str, chunks: int) -> None:
    """Write index objects of ``chunks`` chunks in all, and the packs of holes."""
    places = Places(os.environ["KEYARK_STATE_DIR"], os.environ["KEYARK_CACHE_DIR"])
    repository = open_repository(open_storage(location), Credentials(), places, Context())
    writer = repository.keys.writer
    if writer is None or writer.compartment is None:
        raise SystemExit("this machine is no writer of the repository")
    generation = repository.keyring.compartments[writer.compartment].generation
    keys = (generation, repository.keys.compartment(writer.compartment, generation).index_key)
    rng = random.Random(4)
    for start in range(0, chunks, MAX_CHUNKS):
        count = min(MAX_CHUNKS, chunks - start) // _CHUNKS_PER_PACK
        packs = [_pack(rng, location) for _ in range(count)]
        parts, sha256 = encode_index(packs, repository.id, writer.compartment, writer.id, keys, writer.signing)
        repository.storage.put(index_name(writer.compartment, writer.id, sha256), parts)


def _pack(rng: random.Random, location: str) -> IndexedPack:
    sha256 = rng.randbytes(32)
    count, length = _CHUNKS_PER_PACK // _BLOCKS, _PACK_SIZE // _BLOCKS
    blocks = tuple(BlockPlace(200 + n * length, length, count, rng.randbytes(32 * count)) for n in range(_BLOCKS))
    path = os.path.join(location, pack_name(sha256))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(_PACK_SIZE)
    return IndexedPack(sha256, 0, _PACK_SIZE, _PACK_SIZE, blocks)


if __name__ == "__main__":
    plant(sys.argv[1], int(sys.argv[2]))
