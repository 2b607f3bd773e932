"""The primitives: Node's signatures, the vectors of the standards, low-S, no secret printed."""

from __future__ import annotations

import pickle
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import crypto
from amesh_core.crypto import PrivateKey
from amesh_core.errors import BadBox, BadSignature, Malformed
from amesh_core.identity import device_id
from amesh_core.wire.encoding import b64, b64u
from tests.support import vectors

_VECTORS: Final[dict[str, Any]] = vectors.load("signature.json")
KEYS: Final[list[dict[str, Any]]] = _VECTORS["keys"]
ORDER: Final = int(_VECTORS["order_n_hex"], 16)
KEY: Final = PrivateKey.from_scalar(bytes(31) + b"\x05")
HIGHEST_S: Final = ORDER // 2


# --- signatures -------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key["id"])
def test_keys(key: dict[str, Any]) -> None:
    private = PrivateKey.from_scalar(bytes.fromhex(key["private_hex"]))
    assert private.public.hex() == key["public_hex"]
    assert b64(private.public) == key["public_b64"]
    assert private.scalar().hex() == key["private_hex"]
    assert device_id(private.public) == key["device_id"]


@pytest.mark.parametrize("case", _VECTORS["valid"], ids=lambda case: case["sig_hex"][:8])
def test_signatures_of_node(case: dict[str, Any]) -> None:
    public = next(bytes.fromhex(k["public_hex"]) for k in KEYS if k["id"] == case["key"])
    signature, message = bytes.fromhex(case["sig_hex"]), bytes.fromhex(case["message_hex"])
    assert b64u(signature) == case["sig_b64url"]
    crypto.verify(public, signature, message)
    with pytest.raises(BadSignature):
        crypto.verify(public, signature, message + b"\x00")


@pytest.mark.parametrize("case", _VECTORS["cases"], ids=lambda case: case["name"])
def test_verdicts(case: dict[str, Any]) -> None:
    public, signature, message = (
        bytes.fromhex(case[name]) for name in ("public_hex", "sig_hex", "message_hex")
    )
    if case["verdict"]:
        crypto.verify(public, signature, message)
    else:
        with pytest.raises(BadSignature):
            crypto.verify(public, signature, message)


def test_what_is_signed_verifies_and_is_low_s() -> None:
    """Half of all signatures are high before; a few hundred leave no doubt."""
    for number in range(300):
        message = number.to_bytes(2, "big")
        signature = KEY.sign(message)
        crypto.verify(KEY.public, signature, message)
        assert len(signature) == 64
        assert int.from_bytes(signature[32:], "big") <= HIGHEST_S


def test_a_high_s_is_turned_into_its_low_twin() -> None:
    for r, s in ((1, 1), (ORDER - 1, HIGHEST_S), (2**255, 2)):
        low = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        assert crypto.low_s(encode_dss_signature(r, s)) == low
        assert crypto.low_s(encode_dss_signature(r, ORDER - s)) == low


def test_every_low_signature_has_its_high_twin_refused() -> None:
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature[32:], "big")
    twin = signature[:32] + (ORDER - s).to_bytes(32, "big")
    with pytest.raises(BadSignature):
        crypto.verify(KEY.public, twin, b"message")


# Signatures of b"message" with one r and a chosen s: their keys were computed from them
# (SEC 1 section 4.1.6). Both are valid ECDSA.
R: Final = "26efcebd0ee9e34a669187e18b3a9122b2f733945b649cc9f9f921e9f9dad812"
KEY_OF_HIGHEST_S: Final = "02802cb34f685eea97d641b28749a443cd35391db03f84d666411b8f96652cbc21"
KEY_OF_ONE_HIGHER: Final = "03098b9bb79e266d7ebaab8183422b56bc03489536dbe18811e134c1321d8cb8d7"


def test_the_line_between_low_and_high() -> None:
    """To the one, not only to the top bit: that would let one in 2^32 have two signatures."""

    def signature(s: int) -> bytes:
        return bytes.fromhex(R) + s.to_bytes(32, "big")

    crypto.verify(bytes.fromhex(KEY_OF_HIGHEST_S), signature(HIGHEST_S), b"message")
    public = bytes.fromhex(KEY_OF_ONE_HIGHER)
    der = encode_dss_signature(int(R, 16), HIGHEST_S + 1)
    crypto.public_key(public).verify(der, b"message", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(BadSignature):
        crypto.verify(public, signature(HIGHEST_S + 1), b"message")
    crypto.verify(public, crypto.low_s(der), b"message")


_EDGES: Final = st.sampled_from(
    [0, 1, 0x7F, 0x80, 0xFF, 2**247, 2**248 - 1, 2**248, 2**255 - 1, 2**255, 2**256 - 1]
)
_INTEGERS: Final = _EDGES | st.integers(0, 2**256 - 1)


@given(_INTEGERS, _INTEGERS.map(lambda s: s % (HIGHEST_S + 1)))
def test_the_shorter_way_to_der_ends_where_the_librarys_does(r: int, s: int) -> None:
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert crypto._der(raw) == encode_dss_signature(r, s)


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_any_key_and_signature_are_refused_in_one_way(public: bytes, signature: bytes) -> None:
    for key in (public, KEY.public):
        with pytest.raises(BadSignature) as refusal:
            crypto.verify(key, signature, b"message")
        assert str(refusal.value) == "signature does not verify"


# --- keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scalar",
    [
        b"",
        bytes(32),
        bytes(31) + b"\x00",
        ORDER.to_bytes(32, "big"),
        bytes(32) + b"\x05",
        bytes(30) + b"\x05",
        b"\xff" * 32,
        b"1" * 33,
    ],
)
def test_no_scalar(scalar: bytes) -> None:
    with pytest.raises(Malformed):
        PrivateKey.from_scalar(scalar)


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x00",
        bytes(33),
        b"\x04" + KEY.public[1:],
        bytes.fromhex(KEYS[0]["uncompressed_hex"]),
        KEY.public + b"\x00",
        KEY.public[:-1],
        b"\x02" + bytes(31) + b"\x04",
        b"\x02" + b"\xff" * 32,
    ],
)
def test_no_point(point: bytes) -> None:
    with pytest.raises(Malformed):
        crypto.public_key(point)
    with pytest.raises(Malformed):
        KEY.agree(point)


def test_new_keys_differ_and_survive_their_scalar() -> None:
    one, other = PrivateKey.generate(), PrivateKey.generate()
    assert one.public != other.public
    assert PrivateKey.from_scalar(one.scalar()).public == one.public


def test_a_private_key_does_not_print_or_pickle() -> None:
    assert repr(KEY) == str(KEY) == "PrivateKey(...)"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)


def test_both_sides_agree() -> None:
    one, other = PrivateKey.generate(), PrivateKey.generate()
    assert one.agree(other.public) == other.agree(one.public)
    assert len(one.agree(other.public)) == 32


def test_agreement_is_the_x_coordinate() -> None:
    # RFC 5903 section 8.1.
    ours = PrivateKey.from_scalar(
        bytes.fromhex("c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433")
    )
    theirs = bytes.fromhex("03d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63")
    assert ours.agree(theirs).hex() == (
        "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"
    )


# --- hashes, keyed and not --------------------------------------------------------------


def test_sha256() -> None:
    # FIPS 180-4, the example of its one-block message.
    assert crypto.sha256(b"abc").hex() == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_hmac() -> None:
    # RFC 4231 section 4.3.
    assert crypto.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def test_hkdf() -> None:
    # RFC 5869 appendix A.1.
    ikm, salt = b"\x0b" * 22, bytes(range(13))
    info = bytes(range(0xF0, 0xFA))
    prk = crypto.hkdf_extract(ikm, salt=salt)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    okm = crypto.hkdf_expand(prk, info=info, length=42)
    assert okm.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert crypto.hkdf(ikm, salt=salt, info=info) == okm[:32]


def test_same() -> None:
    assert crypto.same(b"secret", b"secret")
    assert not crypto.same(b"secret", b"secreT")
    assert not crypto.same(b"secret", b"secre")


def test_argon2id() -> None:
    # The reference implementation's own test of version 0x13 (src/test.c, m = 2^8 KiB).
    assert crypto.argon2id(b"password", b"somesalt", t=2, m=256, p=1).hex() == (
        "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"
    )


def test_argon2id_with_parameters_it_does_not_have() -> None:
    with pytest.raises(Malformed):
        crypto.argon2id(b"password", b"somesalt", t=0, m=256, p=1)


# --- boxes ------------------------------------------------------------------------------


def test_chacha20_poly1305() -> None:
    # RFC 8439 section 2.8.2.
    key, nonce = bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647")
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    box = crypto.seal_box(key, nonce, plaintext, aad)
    assert box[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert box[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"
    assert crypto.open_box(key, nonce, box, aad) == plaintext


def test_aes_256_gcm() -> None:
    # The Galois/Counter Mode of Operation (McGrew, Viega), test case 14.
    box = crypto.aes_gcm_encrypt(bytes(32), bytes(12), bytes(16))
    assert box.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert crypto.aes_gcm_decrypt(bytes(32), bytes(12), box) == bytes(16)


@given(at=st.integers(0, 20), bit=st.integers(0, 7))
def test_a_box_with_a_flipped_bit_does_not_open(at: int, bit: int) -> None:
    def flipped(data: bytes) -> bytes:
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

    box = crypto.seal_box(bytes(32), bytes(12), b"hello", b"aad")
    with pytest.raises(BadBox):
        crypto.open_box(bytes(32), bytes(12), flipped(box), b"aad")
    box = crypto.aes_gcm_encrypt(bytes(32), bytes(12), b"hello")
    with pytest.raises(BadBox):
        crypto.aes_gcm_decrypt(bytes(32), bytes(12), flipped(box))


def test_a_box_of_another_key_nonce_or_context_does_not_open() -> None:
    key, nonce, aad = bytes(32), bytes(12), b"aad"
    box = crypto.seal_box(key, nonce, b"hello", aad)
    for arguments in (
        (b"\x01" * 32, nonce, box, aad),
        (key, b"\x01" * 12, box, aad),
        (key, nonce, box, b"AAD"),
        (key, nonce, b"", aad),
        (key, nonce, box[:15], aad),
    ):
        with pytest.raises(BadBox):
            crypto.open_box(*arguments)
    with pytest.raises(BadBox):
        crypto.aes_gcm_decrypt(key, nonce, b"")
