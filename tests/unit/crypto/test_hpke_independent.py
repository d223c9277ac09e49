"""HPKE opened by hand, from the documents alone: the KEMs' identifiers, combiners and encodings are those that are published.

RFC 9180 (key schedule, base mode), draft-ietf-hpke-pq (identifiers), draft-irtf-cfrg-concrete-hybrid-kems and
draft-connolly-cfrg-xwing-kem (combiners: SHA3-256 over both secrets, the traditional ciphertext and key, and a label).
"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyark.crypto import hpke
from keyark.crypto.hpke import Kem


def extract(algorithm: str, salt: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(hashlib.new(algorithm).digest_size), key, algorithm)


def expand(algorithm: str, key: bytes, info: bytes, length: int) -> bytes:
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([counter]), algorithm)
        out, counter = out + block, counter + 1
    return out[:length]


def key_and_nonce(suite: bytes, algorithm: str, secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode."""

    def labeled_extract(salt: bytes, label: bytes, key: bytes) -> bytes:
        return extract(algorithm, salt, b"HPKE-v1" + suite + label + key)

    def labeled_expand(key: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return expand(algorithm, key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context, length)

    context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    prk = labeled_extract(secret, b"secret", b"")
    return labeled_expand(prk, b"key", context, 32), labeled_expand(prk, b"base_nonce", context, 12)


def x25519_secret(private: bytes, encapsulated: bytes) -> bytes:
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(private[:64])
    scalar = X25519PrivateKey.from_private_bytes(private[64:])
    ct = encapsulated[1088:]
    shared = scalar.exchange(X25519PublicKey.from_public_bytes(ct))
    own = scalar.public_key().public_bytes_raw()
    return hashlib.sha3_256(lattice.decapsulate(encapsulated[:1088]) + shared + ct + own + rb"\.//^" + b"\\").digest()


def p384_secret(private: bytes, encapsulated: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    lattice = mlkem.MLKEM1024PrivateKey.from_seed_bytes(private[:64])
    scalar = ec.derive_private_key(int.from_bytes(private[64:], "big"), ec.SECP384R1())
    ct = encapsulated[1568:]
    shared = scalar.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), ct))
    own = scalar.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha3_256(lattice.decapsulate(encapsulated[:1568]) + shared + ct + own + b"MLKEM1024-P384").digest()


@pytest.mark.parametrize("kem", Kem)
def test_what_is_sealed_opens_by_the_published_construction(kem: Kem) -> None:
    private = hpke.generate(kem)
    info = hpke.hpke_info(b"r" * 32, b"c" * 16, b"x", 1, int(kem), "pack")
    sealed = hpke.seal_to(private.public(), b"the data key", info)
    number, kdf, algorithm, length, decapsulate = {
        Kem.MLKEM768_X25519: (0x647A, 1, "sha256", 1088 + 32, x25519_secret),
        Kem.MLKEM1024_P384: (0x0051, 2, "sha384", 1568 + 97, p384_secret),
    }[kem]
    suite = b"HPKE" + number.to_bytes(2, "big") + kdf.to_bytes(2, "big") + b"\0\2"
    secret = decapsulate(private.data.reveal(), sealed[:length])
    key, nonce = key_and_nonce(suite, algorithm, secret, info)
    assert AESGCM(key).decrypt(nonce, sealed[length:], b"") == b"the data key"


def test_a_point_that_is_not_on_the_curve_and_a_low_order_point_are_refused() -> None:
    """ML-KEM's modulus check and P-384's curve check are the library's; nothing is ever sealed to such a key."""
    from keyark.errors import DamagedError

    good = hpke.generate(Kem.MLKEM1024_P384).public()
    off = bytearray(good.data)
    off[-1] ^= 1
    lattice = bytearray(good.data)
    lattice[0:3] = b"\xff\xff\xff"
    compressed = good.data[:1568] + b"\2" + good.data[1569:]
    for data in (bytes(off), bytes(lattice), compressed):
        with pytest.raises(DamagedError):
            hpke.seal_to(hpke.PublicKey(Kem.MLKEM1024_P384, data), b"x", b"")
    x25519 = hpke.generate(Kem.MLKEM768_X25519).public()
    with pytest.raises(DamagedError):
        hpke.seal_to(hpke.PublicKey(Kem.MLKEM768_X25519, x25519.data[:1184] + bytes(32)), b"x", b"")
