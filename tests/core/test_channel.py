"""The formulas of docs/protocol.md section 5, derived here a second time from its text.

Nothing of amesh computes an expected value below: only hashlib, hmac and the primitives of
`cryptography`. Two ceremonies then run over the same inputs, and every byte must agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from amesh_core import crypto
from amesh_core.ceremony import Fresh
from amesh_core.channel import Channel
from amesh_core.crypto import PrivateKey
from amesh_core.errors import BadBox, BadMessage, WrongDigits
from amesh_core.identity import Identity, Role, device_id
from amesh_core.pairing import ControllerCeremony, TargetCeremony
from amesh_core.wire import pairing as wire
from tests.support.ceremony import Pair, Side, SoftKey

CODE = "482916"
ISSUED_AT = "2026-01-02T03:04:05.678Z"
TARGET_EPHEMERAL = bytes(31) + b"\x07"
CONTROLLER_EPHEMERAL = bytes(31) + b"\x0b"
TARGET_NONCE = bytes(range(32))
CONTROLLER_NONCE = bytes(range(32, 64))
TARGET_KEY = bytes(31) + b"\x0d"
CONTROLLER_KEY = bytes(31) + b"\x11"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def point(scalar: bytes) -> bytes:
    key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Derived:
    """Section 5, line by line."""

    k: bytes
    th: bytes
    z: bytes
    key_t2c: bytes
    key_c2t: bytes
    sas: str


def derive(target_ephemeral: bytes = TARGET_EPHEMERAL) -> Derived:
    et, ec_, nt, nc = (
        point(target_ephemeral),
        point(CONTROLLER_EPHEMERAL),
        TARGET_NONCE,
        CONTROLLER_NONCE,
    )
    dst = b"amesh-pair/2"
    k = sha256(dst + b" commit" + b"\x00" + et + nt)
    th = sha256(dst + b" transcript" + b"\x00" + CODE.encode() + k + ec_ + nc + et + nt)
    ours = ec.derive_private_key(int.from_bytes(target_ephemeral, "big"), ec.SECP256R1())
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), ec_)
    z = ours.exchange(ec.ECDH(), theirs)
    prk = hmac.new(th, z, "sha256").digest()  # HKDF-Extract, RFC 5869 section 2.2

    def expand(info: bytes) -> bytes:  # HKDF-Expand, section 2.3: T(1) is 32 bytes
        return hmac.new(prk, info + b"\x01", "sha256").digest()

    number = int.from_bytes(expand(dst + b" sas")[:8], "big") % 1_000_000
    return Derived(k, th, z, expand(dst + b" t2c"), expand(dst + b" c2t"), str(number).zfill(6))


def box_nonce(number: int) -> bytes:
    return b"\0\0\0\0" + number.to_bytes(8, "big")


def pair_of_the_example() -> Pair:
    def identity(scalar: bytes, name: str) -> tuple[Identity, SoftKey]:
        key = SoftKey(PrivateKey.from_scalar(scalar))
        return Identity(device_id(key.public), key.public, name), key

    return Pair(
        Side(
            TargetCeremony(
                *identity(TARGET_KEY, "prod-api"),
                CODE,
                Fresh(PrivateKey.from_scalar(TARGET_EPHEMERAL), TARGET_NONCE, ISSUED_AT),
            )
        ),
        Side(
            ControllerCeremony(
                *identity(CONTROLLER_KEY, "büro-laptop"),
                CODE,
                Fresh(PrivateKey.from_scalar(CONTROLLER_EPHEMERAL), CONTROLLER_NONCE, ISSUED_AT),
            )
        ),
    )


def sent(side: Side) -> dict[str, object]:
    """The next message of `side`, as JSON."""
    message = json.loads(b64decode(side.outbox[0], validate=True))
    assert isinstance(message, dict)
    return message


def opened(side: Side, key: bytes, number: int) -> dict[str, object]:
    box = sent(side)
    assert list(box) == ["box"]
    sealed = b64decode(str(box["box"]), validate=True)
    plaintext = ChaCha20Poly1305(key).decrypt(box_nonce(number), sealed, derive().th)
    message = json.loads(plaintext)
    assert isinstance(message, dict)
    return message


def check_identity(message: dict[str, object], role: str, scalar: bytes, name: str) -> None:
    assert set(message) == {"role", "publicKey", "friendlyName", "issuedAt", "sig"}
    assert message["role"] == role
    assert message["publicKey"] == b64encode(point(scalar)).decode()
    assert message["friendlyName"] == name
    assert message["issuedAt"] == ISSUED_AT
    signature = b64decode(str(message["sig"]), validate=True)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    assert len(signature) == 64
    assert s <= ORDER // 2
    signed = (
        b"amesh-pair/2 identity "
        + role.encode()
        + b"\x00"
        + derive().th
        + point(scalar)
        + ISSUED_AT.encode()
        + b"\x00"
        + name.encode()
    )
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point(scalar))
    public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))


def test_every_byte_of_a_pairing() -> None:
    expected = derive()
    both = pair_of_the_example()

    assert sent(both.target) == {"v": 2, "commit": b64encode(expected.k).decode()}
    both.step()
    assert sent(both.controller) == {
        "v": 2,
        "eph": b64encode(point(CONTROLLER_EPHEMERAL)).decode(),
        "nonce": b64encode(CONTROLLER_NONCE).decode(),
    }
    both.step()
    assert sent(both.target) == {
        "eph": b64encode(point(TARGET_EPHEMERAL)).decode(),
        "nonce": b64encode(TARGET_NONCE).decode(),
    }
    both.step()
    assert both.controller.digits == expected.sas
    both.step()  # the digits are typed
    check_identity(opened(both.target, expected.key_t2c, 0), "target", TARGET_KEY, "prod-api")
    both.step()
    both.step()  # consent
    check_identity(
        opened(both.controller, expected.key_c2t, 0), "controller", CONTROLLER_KEY, "büro-laptop"
    )
    both.step()
    done = ChaCha20Poly1305(expected.key_t2c).encrypt(box_nonce(1), b'{"done":true}', expected.th)
    assert sent(both.target) == {"box": b64encode(done).decode()}
    both.run()
    assert both.controller.ended is None


def test_the_example_in_figures() -> None:
    """So that no change to both derivations at once goes unnoticed."""
    expected = derive()
    assert expected.k.hex() == "f1aec368097aa5d58745ba541ad3bd9c87ea8606b231eaeb848a00cfee76d6a8"
    assert expected.th.hex() == "88c096a4b418af7ed5bf79d826354682af6181cc61315d86d17b8c9bf508abd6"
    assert expected.sas == "761673"


def test_the_target_refuses_byte_for_byte() -> None:
    expected = derive()
    both = pair_of_the_example()
    for _ in range(3):
        both.step()
    both.target.type("000000")
    sealed = ChaCha20Poly1305(expected.key_t2c).encrypt(
        box_nonce(0), b'{"rejected":true}', expected.th
    )
    assert sent(both.target) == {"box": b64encode(sealed).decode()}


def test_the_controller_refuses_byte_for_byte() -> None:
    expected = derive()
    both = pair_of_the_example()
    while both.controller.asks_about is None:
        both.step()
    both.controller.answer(yes=False)
    sealed = ChaCha20Poly1305(expected.key_c2t).encrypt(
        box_nonce(0), b'{"rejected":true}', expected.th
    )
    assert sent(both.controller) == {"box": b64encode(sealed).decode()}


def ours(target_ephemeral: bytes = TARGET_EPHEMERAL, target_nonce: bytes = TARGET_NONCE) -> Channel:
    """The controller's end, by the code under test."""
    key = PrivateKey.from_scalar(CONTROLLER_EPHEMERAL)
    hello = wire.Hello(key.public, CONTROLLER_NONCE)
    reveal = wire.Reveal(point(target_ephemeral), target_nonce)
    return Channel.derive(Role.CONTROLLER, CODE, key, hello, reveal)


def test_a_secret_with_a_leading_zero_keeps_its_length() -> None:
    """One in 256 does; a secret taken as a number would lose it and the sides disagree."""
    for number in range(20, 4000):
        ephemeral = number.to_bytes(32, "big")
        expected = derive(ephemeral)
        if expected.z[0] == 0:
            assert ours(ephemeral).digits == expected.sas
            return
    raise AssertionError("none of 4 000 secrets begins with a zero")


def test_digits_are_always_six() -> None:
    digits = [ours(target_nonce=number.to_bytes(32, "big")).digits for number in range(100)]
    assert {len(text) for text in digits} == {6}
    assert any(text.startswith("0") for text in digits)


def test_the_code_is_part_of_everything() -> None:
    key = PrivateKey.from_scalar(CONTROLLER_EPHEMERAL)
    hello = wire.Hello(key.public, CONTROLLER_NONCE)
    reveal = wire.Reveal(point(TARGET_EPHEMERAL), TARGET_NONCE)
    other = Channel.derive(Role.CONTROLLER, "482917", key, hello, reveal)
    assert other.transcript != ours().transcript
    assert other.digits != ours().digits


# --- boxes --------------------------------------------------------------------------------


def both_ends() -> tuple[Channel, Channel]:
    key = PrivateKey.from_scalar(TARGET_EPHEMERAL)
    hello = wire.Hello(point(CONTROLLER_EPHEMERAL), CONTROLLER_NONCE)
    reveal = wire.Reveal(key.public, TARGET_NONCE)
    return Channel.derive(Role.TARGET, CODE, key, hello, reveal), ours()


def test_boxes_open_in_the_order_they_were_sealed() -> None:
    at_target, at_controller = both_ends()
    first, at_target = at_target.seal(wire.Rejected())
    second, at_target = at_target.seal(wire.Done())
    message, at_controller = at_controller.open(first)
    assert message == wire.Rejected()
    message, at_controller = at_controller.open(second)
    assert message == wire.Done()


def test_a_box_opens_once_and_in_its_place_only() -> None:
    at_target, at_controller = both_ends()
    first, at_target = at_target.seal(wire.Done())
    second, at_target = at_target.seal(wire.Done())
    assert first != second
    with pytest.raises(BadBox):
        at_controller.open(second)
    _, at_controller = at_controller.open(first)
    with pytest.raises(BadBox):
        at_controller.open(first)


def test_a_box_does_not_open_at_the_end_that_sealed_it() -> None:
    at_target, _ = both_ends()
    box, _ = at_target.seal(wire.Done())
    with pytest.raises(BadBox):
        at_target.open(box)


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_box_too_short_for_its_tag(size: int) -> None:
    _, at_controller = both_ends()
    with pytest.raises(BadBox):
        at_controller.open(wire.Box(bytes(size)))


def test_no_byte_of_a_box_can_be_changed() -> None:
    at_target, at_controller = both_ends()
    box, _ = at_target.seal(wire.Done())
    for place in range(len(box.sealed)):
        changed = bytearray(box.sealed)
        changed[place] ^= 1
        with pytest.raises(BadBox):
            at_controller.open(wire.Box(bytes(changed)))


def test_another_transcript_opens_nothing() -> None:
    """Keys alone do not make a box of this ceremony: the transcript is under its tag."""
    at_target, at_controller = both_ends()
    box, _ = at_target.seal(wire.Done())
    elsewhere = dataclasses.replace(at_controller, transcript=bytes(32))
    with pytest.raises(BadBox):
        elsewhere.open(box)


# --- keys and digits ----------------------------------------------------------------------

# x = 1: x^3 - 3x + b is no square modulo p, so no point of P-256 has it.
NOT_ON_THE_CURVE = b"\x02" + bytes(31) + b"\x01"


@pytest.mark.parametrize("role", Role)
def test_a_key_that_is_no_point(role: Role) -> None:
    key = PrivateKey.from_scalar(CONTROLLER_EPHEMERAL)
    mine, theirs = key.public, NOT_ON_THE_CURVE
    ephemerals = (theirs, mine) if role is Role.TARGET else (mine, theirs)
    hello, reveal = wire.Hello(ephemerals[0], bytes(32)), wire.Reveal(ephemerals[1], bytes(32))
    with pytest.raises(BadMessage, match="not a point"):
        Channel.derive(role, CODE, key, hello, reveal)


@pytest.mark.parametrize("role", Role)
def test_our_own_key_sent_back(role: Role) -> None:
    key = PrivateKey.from_scalar(CONTROLLER_EPHEMERAL)
    hello, reveal = wire.Hello(key.public, bytes(32)), wire.Reveal(key.public, bytes(32))
    with pytest.raises(BadMessage, match="our own key"):
        Channel.derive(role, CODE, key, hello, reveal)


def test_the_digits() -> None:
    ours().check_digits(derive().sas)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "761674",
        "76167",
        "7616733",
        " 761673",
        "761673\n",
        "７６１６７３",
        "\udcff",
        "761\x00673",
    ],
)
def test_anything_else_is_wrong(typed: str) -> None:
    with pytest.raises(WrongDigits):
        ours().check_digits(typed)


def test_the_digits_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def same(a: bytes, b: bytes) -> bool:
        compared.extend((a, b))
        return a == b

    monkeypatch.setattr(crypto, "same", same)
    with pytest.raises(WrongDigits):
        ours().check_digits("000000")
    assert compared == [b"000000", derive().sas.encode()]


def test_no_secret_prints() -> None:
    channel = ours()
    shown = repr(channel)
    assert channel.digits not in shown
    for secret in derive().key_t2c, derive().key_c2t:
        assert repr(secret) not in shown
