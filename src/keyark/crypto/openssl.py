"""A file that ``openssl enc -d -aes-256-cbc -pass file:KEY`` opens with OpenSSL 3's defaults.

It lets an operator check a key file with openssl alone. The format's key derivation is one round of SHA-256, so it is only
ever made for a generated key file, never for a passphrase.
"""

from __future__ import annotations

import hashlib
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keyark.crypto.slots import is_generated_line
from keyark.errors import UsageError
from keyark.secret import Secret

_BLOCK = 16  # bytes


def openssl_enc(line: Secret, plaintext: bytes) -> bytes:
    """Encrypt as ``openssl enc -aes-256-cbc`` does: "Salted__", salt, AES-256-CBC; key and IV from EVP_BytesToKey (SHA-256)."""
    if not is_generated_line(line):
        raise UsageError("test.enc is only made for a key file that Keyark generated; it would expose a weaker one")
    salt = secrets.token_bytes(8)
    derived = digest = b""
    while len(derived) < 32 + _BLOCK:
        digest = hashlib.sha256(digest + line.reveal() + salt).digest()
        derived += digest
    padder = PKCS7(8 * _BLOCK).padder()
    padded = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(derived[:32]), modes.CBC(derived[32 : 32 + _BLOCK])).encryptor()
    return b"Salted__" + salt + encryptor.update(padded) + encryptor.finalize()
