"""Messages between two devices: one spelling each, and Malformed for everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire import pairing as wire
from amesh_core.wire.encoding import b64
from tests.support import vectors

POINT = b"\x02" + bytes(range(32))
NONCE = bytes(range(32))
SIGNATURE = bytes(range(64))
CLAIM = {
    "role": "target",
    "publicKey": b64(POINT),
    "friendlyName": "prod-api",
    "issuedAt": "2026-01-02T03:04:05.678Z",
    "sig": b64(SIGNATURE),
}


def payload(value: Any) -> str:
    return b64(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (wire.Commit(NONCE), {"v": 2, "commit": b64(NONCE)}),
        (wire.Hello(POINT, NONCE), {"v": 2, "eph": b64(POINT), "nonce": b64(NONCE)}),
        (wire.Reveal(POINT, NONCE), {"eph": b64(POINT), "nonce": b64(NONCE)}),
        (wire.Box(b"sealed"), {"box": b64(b"sealed")}),
    ],
    ids=["commit", "hello", "reveal", "box"],
)
def test_frames(
    frame: wire.Commit | wire.Hello | wire.Reveal | wire.Box, text: dict[str, object]
) -> None:
    assert wire.decode(payload(text)) == frame
    assert wire.decode(wire.encode(frame)) == frame


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            wire.Claim("target", POINT, "prod-api", "2026-01-02T03:04:05.678Z", SIGNATURE),
            CLAIM,
        ),
        (wire.Rejected(), {"rejected": True}),
        (wire.Trouble("home_unwritable"), {"error": "home_unwritable"}),
        (wire.Done(), {"done": True}),
    ],
    ids=["claim", "rejected", "trouble", "done"],
)
def test_sealed_messages(message: wire.Sealed, text: dict[str, object]) -> None:
    assert wire.decode_sealed(json.dumps(text).encode()) == message
    assert json.loads(wire.encode_sealed(message)) == text


def test_names_travel_as_utf_8() -> None:
    claim = wire.Claim("target", POINT, "büro-π", "2026-01-02T03:04:05.678Z", SIGNATURE)
    assert "büro-π".encode() in wire.encode_sealed(claim)
    assert wire.decode_sealed(wire.encode_sealed(claim)) == claim


@pytest.mark.parametrize(
    "session", vectors.load("handshake.json")["sessions"], ids=lambda s: s["label"]
)
def test_the_first_message_of_version_1_is_recognised(session: dict[str, Any]) -> None:
    for side in "target_ephemeral", "controller_ephemeral":
        assert wire.decode(session[side]["public_b64"]) == wire.Older()


OFF_CURVE_FORM = b"\x04" + bytes(32)
MALFORMED = {
    "empty": "",
    "not base64": "{}",
    "no padding": b64(b'{"box":"AAAA"}').rstrip("="),
    "box in the url alphabet": payload({"box": "-_-_"}),
    "line break": payload({"box": "AAAA"})[:4] + "\n" + payload({"box": "AAAA"})[4:],
    "not JSON": b64(b"commit"),
    "not UTF-8": b64(b'{"box":"\xff"}'),
    "two values": b64(b'{"box":"AAAA"} {}'),
    "byte order mark": b64(b'\xef\xbb\xbf{"box":"AAAA"}'),
    "null": payload(None),
    "a list": payload([1]),
    "a text": payload("box"),
    "no key": payload({}),
    "key twice": b64(b'{"box":"AAAA","box":"AAAA"}'),
    "box and more": payload({"box": "AAAA", "v": 2}),
    "box of another type": payload({"box": 7}),
    "box null": payload({"box": None}),
    "box not canonical": payload({"box": "AAB="}),
    "commit without v": payload({"commit": b64(NONCE)}),
    "commit v 1": payload({"v": 1, "commit": b64(NONCE)}),
    "commit v 3": payload({"v": 3, "commit": b64(NONCE)}),
    "commit v 2.0": b64(b'{"v":2.0,"commit":"%s"}' % b64(NONCE).encode()),
    "commit v text": payload({"v": "2", "commit": b64(NONCE)}),
    "commit v true": payload({"v": True, "commit": b64(NONCE)}),
    "commit and more": payload({"v": 2, "commit": b64(NONCE), "eph": b64(POINT)}),
    "commit short": payload({"v": 2, "commit": b64(NONCE[1:])}),
    "commit long": payload({"v": 2, "commit": b64(NONCE + b"\0")}),
    "commit unpadded": payload({"v": 2, "commit": b64(NONCE).rstrip("=")}),
    "hello v 1": payload({"v": 1, "eph": b64(POINT), "nonce": b64(NONCE)}),
    "hello and more": payload({"v": 2, "eph": b64(POINT), "nonce": b64(NONCE), "x": 1}),
    "hello short nonce": payload({"v": 2, "eph": b64(POINT), "nonce": b64(NONCE[1:])}),
    "hello short key": payload({"v": 2, "eph": b64(POINT[:-1]), "nonce": b64(NONCE)}),
    "hello long key": payload({"v": 2, "eph": b64(POINT + b"\0"), "nonce": b64(NONCE)}),
    "hello key of another form": payload({"v": 2, "eph": b64(OFF_CURVE_FORM), "nonce": b64(NONCE)}),
    "reveal and more": payload({"eph": b64(POINT), "nonce": b64(NONCE), "x": 1}),
    "reveal without nonce": payload({"eph": b64(POINT)}),
    "reveal short nonce": payload({"eph": b64(POINT), "nonce": b64(NONCE[1:])}),
    "reveal long nonce": payload({"eph": b64(POINT), "nonce": b64(NONCE + b"\0")}),
    "reveal key of another form": payload({"eph": b64(OFF_CURVE_FORM), "nonce": b64(NONCE)}),
    "33 bytes that are no key": b64(OFF_CURVE_FORM),
    "a claim outside a box": payload(CLAIM),
    "rejected outside a box": payload({"rejected": True}),
    "done outside a box": payload({"done": True}),
    "the clear text of version 1": "sas_confirmed",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_frames(text: str) -> None:
    with pytest.raises(Malformed):
        wire.decode(text)


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in CLAIM.items() if name != key}


MALFORMED_SEALED: dict[str, object] = {
    "null": None,
    "empty": {},
    "another role": {**CLAIM, "role": "admin"},
    "role in capitals": {**CLAIM, "role": "Target"},
    "role of another type": {**CLAIM, "role": ["target"]},
    "name of another type": {**CLAIM, "friendlyName": 7},
    "key short": {**CLAIM, "publicKey": b64(POINT[:-1])},
    "key uncompressed": {**CLAIM, "publicKey": b64(b"\x04" + bytes(64))},
    "key url alphabet": {**CLAIM, "publicKey": b64(b"\x02" + b"\xff" * 32).replace("/", "_")},
    "key of another form": {**CLAIM, "publicKey": b64(OFF_CURVE_FORM)},
    "signature short": {**CLAIM, "sig": b64(SIGNATURE[1:])},
    "signature long": {**CLAIM, "sig": b64(SIGNATURE + b"\0")},
    "signature unpadded": {**CLAIM, "sig": b64(SIGNATURE).rstrip("=")},
    "time without milliseconds": {**CLAIM, "issuedAt": "2026-01-02T03:04:05Z"},
    "time with an offset": {**CLAIM, "issuedAt": "2026-01-02T03:04:05.678+00:00"},
    "time with other digits": {**CLAIM, "issuedAt": "٢٠٢٦-01-02T03:04:05.678Z"},
    "time and a line break": {**CLAIM, "issuedAt": "2026-01-02T03:04:05.678Z\n"},
    "no such day": {**CLAIM, "issuedAt": "2026-02-30T03:04:05.678Z"},
    "claim and more": {**CLAIM, "admin": True},
    **{f"no {key}": without(key) for key in CLAIM},
    "rejected false": {"rejected": False},
    "rejected 1": {"rejected": 1},
    "rejected and more": {"rejected": True, "error": "x"},
    "done false": {"done": False},
    "done 1": {"done": 1},
    "done text": {"done": "true"},
    "done and more": {"done": True, "rejected": True},
    "error of another type": {"error": 7},
    "error and more": {"error": "x", "done": True},
}


@pytest.mark.parametrize("value", MALFORMED_SEALED.values(), ids=MALFORMED_SEALED.keys())
def test_malformed_sealed_messages(value: object) -> None:
    with pytest.raises(Malformed):
        wire.decode_sealed(json.dumps(value, ensure_ascii=False).encode())


def test_a_sealed_key_twice_is_malformed() -> None:
    with pytest.raises(Malformed):
        wire.decode_sealed(b'{"rejected":true,"rejected":true}')


def test_what_is_not_yet_revealed_does_not_print() -> None:
    """The reveal lies in the target's state until the hello has come."""
    assert repr(wire.Reveal(POINT, NONCE)) == "Reveal()"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=8,
)
KEYS = ["v", "commit", "eph", "nonce", "box", "rejected", "error", "done", *CLAIM]
near_misses = st.dictionaries(
    st.sampled_from(KEYS),
    st.sampled_from([2, True, "target", b64(POINT), b64(NONCE), b64(SIGNATURE), CLAIM["issuedAt"]])
    | json_values,
    max_size=6,
)


@given(st.text() | st.binary().map(b64) | (json_values | near_misses).map(payload))
def test_any_payload_is_a_frame_or_malformed(text: str) -> None:
    try:
        frame = wire.decode(text)
    except Malformed:
        return
    if not isinstance(frame, wire.Older):
        assert wire.decode(wire.encode(frame)) == frame


@given(st.binary() | (json_values | near_misses).map(lambda value: json.dumps(value).encode()))
def test_any_plaintext_is_a_message_or_malformed(plaintext: bytes) -> None:
    try:
        message = wire.decode_sealed(plaintext)
    except Malformed:
        return
    # A lone surrogate can come in as an escape; no name or reason of ours holds one.
    text = getattr(message, "friendly_name", getattr(message, "reason", ""))
    if text.isprintable():
        assert wire.decode_sealed(wire.encode_sealed(message)) == message
