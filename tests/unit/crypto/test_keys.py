"""HPKE, signatures, key derivation, slots, age, openssl."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyark.crypto import bech32, hpke
from keyark.crypto.age import age_decrypt, age_encrypt, parse_identities, parse_recipient
from keyark.crypto.hpke import Kem, PrivateKey, PublicKey
from keyark.crypto.kdf import KdfParams, argon2id, hkdf, kdf_by_name, pbkdf2, scrypt
from keyark.crypto.openssl import openssl_enc
from keyark.crypto.signing import SigningKey, VerifyKey
from keyark.crypto.slots import (
    AgeOpener,
    AgeSlot,
    KeyFileOpener,
    KeyFileSlot,
    PassphraseOpener,
    PassphraseSlot,
    SlotBinding,
    SlotMethod,
    SlotOpener,
    check_key_line,
    generate_key_line,
    is_generated_line,
    read_key_file,
)
from keyark.errors import DamagedError, ForgedError, IntegrityError, NoKeyError, UsageError
from keyark.secret import Secret
from support import run

VECTORS = Path(__file__).parent.parent.parent / "vectors/age"
BINDING = SlotBinding(b"r" * 32, b"s" * 16, b"public key")


@pytest.mark.parametrize("kem", Kem)
def test_what_is_sealed_opens_with_the_private_key_and_the_same_info_only(kem: Kem) -> None:
    private = hpke.generate(kem)
    sealed = hpke.seal_to(private.public(), b"key", b"info")
    assert hpke.open_sealed(PrivateKey(kem, private.data), sealed, b"info") == b"key"
    for broken in (sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes([sealed[0] ^ 1]) + sealed[1:], b"", sealed[:100]):
        with pytest.raises(DamagedError):
            hpke.open_sealed(private, broken, b"info")
    with pytest.raises(DamagedError):
        hpke.open_sealed(private, sealed, b"other info")
    with pytest.raises(DamagedError):
        hpke.open_sealed(hpke.generate(kem), sealed, b"info")


@pytest.mark.parametrize("kem", Kem)
def test_malformed_hpke_keys_are_refused(kem: Kem) -> None:
    with pytest.raises(DamagedError):
        hpke.seal_to(PublicKey(kem, b"short"), b"x", b"")
    with pytest.raises(DamagedError):
        PrivateKey(kem, Secret(b"short")).public()
    length = len(hpke.generate(kem).public().data)
    with pytest.raises(DamagedError):
        hpke.seal_to(PublicKey(kem, b"\xff" * length), b"x", b"")


def test_info_parts_cannot_run_into_each_other() -> None:
    assert hpke.hpke_info(b"ab", b"c", b"", 1, 1, "k") != hpke.hpke_info(b"a", b"bc", b"", 1, 1, "k")


@pytest.mark.parametrize("post_quantum", [False, True])
def test_signatures_bind_type_repository_and_digest(post_quantum: bool) -> None:
    key = SigningKey.from_seed(SigningKey.generate(post_quantum=post_quantum).seed())
    signature = key.sign(4, b"r" * 32, b"d" * 32)
    public = key.public()
    public.verify(4, b"r" * 32, b"d" * 32, signature)
    for kind, repository, digest in ((5, b"r" * 32, b"d" * 32), (4, b"x" * 32, b"d" * 32), (4, b"r" * 32, b"x" * 32)):
        with pytest.raises(ForgedError):
            public.verify(kind, repository, digest, signature)
    for position in (0, 63, len(signature) - 1):
        broken = bytearray(signature)
        broken[position] ^= 1
        with pytest.raises(ForgedError):
            public.verify(4, b"r" * 32, b"d" * 32, bytes(broken))


def test_half_a_hybrid_signature_is_none() -> None:
    key = SigningKey.generate(post_quantum=True)
    signature = key.sign(4, b"r" * 32, b"d" * 32)
    with pytest.raises(ForgedError):
        key.public().verify(4, b"r" * 32, b"d" * 32, signature[:64])
    other = SigningKey.generate(post_quantum=True).sign(4, b"r" * 32, b"d" * 32)
    for mixed in (signature[:64] + other[64:], other[:64] + signature[64:]):
        with pytest.raises(ForgedError):
            key.public().verify(4, b"r" * 32, b"d" * 32, mixed)
    with pytest.raises(ForgedError):
        VerifyKey(key.public().ed25519).verify(4, b"r" * 32, b"d" * 32, signature)


def test_hkdf_is_rfc_5869() -> None:
    okm = hkdf(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"


def test_pbkdf2_is_what_hashlib_computes() -> None:
    params = pbkdf2(1000)
    expected = hashlib.pbkdf2_hmac("sha256", b"password", params.salt, 1000)
    assert hmac.compare_digest(params.derive(Secret(b"password")).reveal(), expected)


@pytest.mark.parametrize("params", [argon2id(), scrypt(), pbkdf2(1000)], ids=lambda params: params.name)
def test_kdf_parameters_survive_the_map(params: KdfParams) -> None:
    assert KdfParams.from_map(params.to_map()) == params


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": "md5"},
        {"kdf": None},
        {"salt": b"short"},
        {"memory_kib": 1 << 40},
        {"memory_kib": True},
        {"iterations": 0},
        {"iterations": 10**9},
        {"lanes": 1000},
        {"extra": 1},
    ],
)
def test_hostile_kdf_costs_are_refused_before_anything_runs(change: dict[str, object]) -> None:
    with pytest.raises(DamagedError):
        KdfParams.from_map({**argon2id().to_map(), **change})
    with pytest.raises(DamagedError):
        KdfParams("scrypt", bytes(32), {"n": 3, "r": 8, "p": 1})
    with pytest.raises(DamagedError):
        KdfParams("scrypt", bytes(32), {"n": 1 << 20, "r": 32, "p": 1})


def test_few_iterations_draw_a_warning_that_cites_owasp() -> None:
    assert "OWASP" in (pbkdf2(100_000).warning() or "")
    assert pbkdf2().warning() is None
    assert argon2id().warning() is None
    with pytest.raises(UsageError):
        kdf_by_name("md5")
    with pytest.raises(UsageError):
        kdf_by_name("PBKDF2-SHA256", 0)


def _methods() -> list[tuple[SlotMethod, SlotOpener, SlotOpener]]:
    line = generate_key_line()
    identity = parse_identities((VECTORS / "pq.identity").read_text())[0]
    classical = parse_identities(_bech_identity(7))[0]
    other = parse_identities(_bech_identity(8))[0]
    return [
        (PassphraseSlot(Secret(b"x"), pbkdf2(10)), PassphraseOpener(Secret(b"x")), PassphraseOpener(Secret(b"y"))),
        (KeyFileSlot(line), KeyFileOpener(line), KeyFileOpener(generate_key_line())),
        (AgeSlot(identity.recipient()), AgeOpener(identity), AgeOpener(parse_identities(_bech_identity(9, "-pq"))[0])),
        (AgeSlot(classical.recipient()), AgeOpener(classical), AgeOpener(other)),
    ]


def _bech_identity(seed: int, infix: str = "") -> str:
    return bech32.encode(f"age-secret-key{infix}-", hashlib.sha256(bytes([seed])).digest()).upper()


@pytest.mark.parametrize("number", range(4), ids=["passphrase", "key file", "age post-quantum", "age"])
def test_slot_wraps_open_with_their_key_and_in_their_place_only(number: int) -> None:
    method, right, wrong = _methods()[number]
    secret = Secret(b"k" * 96)
    parameters, wrapped = method.wrap(secret, BINDING)
    assert right.unwrap(method.kind, parameters, wrapped, BINDING) == secret
    with pytest.raises(NoKeyError):
        wrong.unwrap(method.kind, parameters, wrapped, BINDING)
    elsewhere = SlotBinding(b"other" * 6 + b"xx", BINDING.slot, BINDING.public)
    with pytest.raises((NoKeyError, DamagedError)):
        right.unwrap(method.kind, parameters, wrapped, elsewhere)
    for position in (0, 40, len(wrapped) - 1):
        broken = bytearray(wrapped)
        broken[position] ^= 1
        with pytest.raises((NoKeyError, IntegrityError)):
            right.unwrap(method.kind, parameters, bytes(broken), BINDING)


def test_wraps_of_one_kind_have_one_length_whatever_the_key() -> None:
    for method, _, _ in _methods()[:3]:  # pyrage adds random grease to X25519 files, which says nothing about the key
        lengths = {len(method.wrap(Secret(b"k" * size), BINDING)[1]) for size in (32, 96, 112)}
        assert len(lengths) == 1


def test_key_files_hold_256_generated_bits_or_are_refused(tmp_path: Path) -> None:
    line = generate_key_line()
    assert is_generated_line(line)
    assert check_key_line(line.reveal() + b"\n", "f") == line
    good = hashlib.sha256(b"x").hexdigest().encode()
    assert not is_generated_line(check_key_line(good, "f"))
    for bad in (b"", b"\n", b"password", b"a" * 64, good[:40], good + b"\n" + good, b"\xff" * 50):
        with pytest.raises(UsageError):
            check_key_line(bad, "f")
    path = tmp_path / "k"
    path.write_bytes(line.reveal())
    path.chmod(0o640)
    read, warning = read_key_file(str(path))
    assert read == line
    assert "chmod 600" in (warning or "")
    path.chmod(0o600)
    assert read_key_file(str(path))[1] is None
    with pytest.raises(UsageError, match="No such file"):
        read_key_file(str(tmp_path / "absent"))


def test_bech32_is_bip_173() -> None:
    for text in ("A12UEL5L", "a12uel5l", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", "?1ezyfcl"):
        bech32.decode(text)
    for text in ("A1G7SGD8", "10a06t8", "1qzzfhee", "pzry9x0s0muk", "x1b4n0q5v", "li1dgmt3", "A12uEL5L", ""):
        with pytest.raises(ValueError, match=r"its? "):
            bech32.decode(text)


@given(st.binary(max_size=200))
def test_bech32_round_trip(data: bytes) -> None:
    assert bech32.decode(bech32.encode("age", data)) == ("age", data)


def test_a_file_of_another_implementation_of_age_opens_post_quantum() -> None:
    identity = parse_identities((VECTORS / "pq.identity").read_text())[0]
    assert identity.recipient().text == (VECTORS / "pq.recipient").read_text().strip()
    assert age_decrypt(identity, (VECTORS / "pq.age").read_bytes()) == b"hello from another implementation of age\n"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072])
def test_age_files_round_trip_and_any_flipped_byte_is_refused(size: int) -> None:
    identity = parse_identities((VECTORS / "pq.identity").read_text())[0]
    sealed = age_encrypt(parse_recipient(identity.recipient().text), b"d" * size)
    assert age_decrypt(identity, sealed) == b"d" * size
    for position in (30, 1000, 1600, len(sealed) - 1):
        broken = bytearray(sealed)
        broken[position] ^= 1
        with pytest.raises((DamagedError, NoKeyError)):
            age_decrypt(identity, bytes(broken))
    with pytest.raises((DamagedError, NoKeyError)):
        age_decrypt(identity, sealed[:-1])


@pytest.mark.program("age", "age-keygen")
def test_age_itself_opens_what_we_seal_and_we_what_it_seals(tmp_path: Path) -> None:
    text = run(["age-keygen"]).stdout
    (tmp_path / "id").write_text(text)
    identity = parse_identities(text)[0]
    (tmp_path / "ours").write_bytes(age_encrypt(identity.recipient(), b"from us"))
    assert run(["age", "-d", "-i", str(tmp_path / "id"), str(tmp_path / "ours")]).stdout == "from us"
    theirs = subprocess.run(
        ["age", "-r", identity.recipient().text], input=b"from age", capture_output=True, check=True
    ).stdout
    assert age_decrypt(identity, theirs) == b"from age"


@pytest.mark.parametrize("text", ["", "age1", "AGE-SECRET-KEY-1QQQQ", "# only a comment", "hello"])
def test_what_is_no_identity_or_recipient_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_identities(text)
    assert "QQQQ" not in str(caught.value)
    with pytest.raises(UsageError):
        parse_recipient(text)


@given(st.binary(max_size=300))
def test_hostile_age_files_raise_our_errors_only(data: bytes) -> None:
    identity = parse_identities((VECTORS / "pq.identity").read_text())[0]
    for head in (b"", b"age-encryption.org/v1\n", b"age-encryption.org/v1\n-> mlkem768x25519 "):
        with pytest.raises((DamagedError, NoKeyError)):
            age_decrypt(identity, head + data)


@pytest.mark.program("openssl")
def test_openssl_opens_what_doctor_writes(tmp_path: Path) -> None:
    line = generate_key_line()
    (tmp_path / "key").write_bytes(line.reveal() + b"\n")
    (tmp_path / "enc").write_bytes(openssl_enc(line, b"text" * 100))
    command = ["openssl", "enc", "-aes-256-cbc", "-d", "-in", "enc", "-pass", "file:key"]
    assert run(command, cwd=tmp_path).stdout == "text" * 100
    with pytest.raises(UsageError):
        openssl_enc(Secret(b"weak"), b"")
