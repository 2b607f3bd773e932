"""Messages of the older pairing: what Node writes is read, and Malformed for everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire import pairing as v2
from amesh_core.wire import pairing_v1 as wire
from amesh_core.wire.encoding import b64, b64u
from tests.support import vectors

HANDSHAKE = vectors.load("handshake.json")
POINT = b"\x02" + bytes(range(32))
SIGNATURE = bytes(range(64))
CLAIM = {
    "publicKey": b64(POINT),
    "friendlyName": "prod-api",
    "timestamp": "2026-01-02T03:04:05.678Z",
    "selfSig": b64(SIGNATURE),
}


def test_a_whole_session_of_node_is_read() -> None:
    said = [
        (line["from"], wire.decode(line["message"]["payload"]))
        for line in HANDSHAKE["transcript_of_first_session"]
        if line["message"]["type"] == "data"
    ]
    assert [(side, type(frame)) for side, frame in said] == [
        ("target", wire.Key),
        ("controller", wire.Key),
        ("controller", wire.Box),
        ("target", wire.Box),
        ("target", wire.Verdict),
    ]
    assert said[-1][1] == wire.Verdict(matched=True)
    for line, (_, frame) in zip(
        (x for x in HANDSHAKE["transcript_of_first_session"] if x["message"]["type"] == "data"),
        said,
        strict=True,
    ):
        assert not isinstance(frame, wire.Newer)
        assert wire.encode(frame) == line["message"]["payload"]


def test_a_verdict_is_one_of_two_texts() -> None:
    assert wire.decode("sas_rejected") == wire.Verdict(matched=False)
    assert wire.encode(wire.Verdict(matched=False)) == "sas_rejected"
    for text in ("sas_confirmed\n", "SAS_CONFIRMED", "sas_", "confirmed", b64(b"sas_confirmed")):
        with pytest.raises(Malformed):
            wire.decode(text)


@pytest.mark.parametrize("session", HANDSHAKE["sessions"], ids=lambda session: session["label"])
@pytest.mark.parametrize("side", ["target", "controller"])
def test_identities_of_node(session: dict[str, Any], side: str) -> None:
    """Whatever their names: which of them is acceptable is not a question of form."""
    plaintext = bytes.fromhex(session[f"{side}_identity"]["plaintext_hex"])
    identity = session[f"{side}_identity"]["identity"]
    claim = wire.decode_claim(plaintext)
    assert claim.public_key.hex() == session[f"{side}_identity_key"]["public_hex"]
    assert claim.friendly_name == identity["friendlyName"]
    assert claim.timestamp == identity["timestamp"]
    assert b64(claim.signature) == identity["selfSig"]
    assert wire.encode_claim(claim) == plaintext


@pytest.mark.parametrize(
    "changed",
    [
        {"publicKey": None},
        {"publicKey": b64(POINT + b"\0")},
        {"publicKey": b64(POINT[:-1])},
        {"publicKey": b64(POINT).replace("A", " A", 1)},
        {"publicKey": b64u(b"\x02" + b"\xff" * 32)},
        {"friendlyName": 7},
        {"friendlyName": None},
        {"timestamp": "2026-01-02T03:04:05Z"},
        {"timestamp": "x2026-01-02T03:04:05.678Z"},  # a letter moved from the name to the time
        {"timestamp": "2026-13-02T03:04:05.678Z"},
        {"timestamp": 1767323045},
        {"selfSig": b64(SIGNATURE[:-1])},
        {"selfSig": ""},
        {"role": "controller"},
    ],
)
def test_identities_of_another_form(changed: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        wire.decode_claim(json.dumps(CLAIM | changed).encode())


@pytest.mark.parametrize("missing", CLAIM)
def test_identities_with_a_key_less(missing: str) -> None:
    rest = {key: value for key, value in CLAIM.items() if key != missing}
    with pytest.raises(Malformed):
        wire.decode_claim(json.dumps(rest).encode())


def test_an_identity_with_a_key_twice() -> None:
    text = json.dumps(CLAIM)
    with pytest.raises(Malformed):
        wire.decode_claim(f'{text[:-1]},"publicKey":"{b64(POINT)}"}}'.encode())


def test_version_2_is_recognised() -> None:
    nonce = bytes(32)
    for frame in (
        v2.Commit(nonce),
        v2.Hello(POINT, nonce),
        v2.Reveal(POINT, nonce),
        v2.Box(bytes(40)),
    ):
        assert wire.decode(v2.encode(frame)) == wire.Newer()


@pytest.mark.parametrize(
    "payload",
    [
        "",
        b64(bytes(27)),  # one byte short of a nonce and a tag, as in the vectors
        b64(bytes(28)).rstrip("="),
        b64(POINT) + "\n",
        "null",
        "{}",
    ],
)
def test_payloads_of_another_form(payload: str) -> None:
    with pytest.raises(Malformed):
        wire.decode(payload)


def test_spellings_that_only_node_reads_are_refused() -> None:
    """It reads white space and base64url, and writes neither."""
    payload = next(
        session["controller_identity"]["frame_b64"]
        for session in HANDSHAKE["sessions"]
        if set("+/") & set(session["controller_identity"]["frame_b64"])
    )
    for other in (
        payload[:8] + "\n" + payload[8:],
        payload.replace("+", "-").replace("/", "_"),
    ):
        with pytest.raises(Malformed):
            wire.decode(other)


@given(st.text() | st.binary().map(b64))
def test_any_payload(payload: str) -> None:
    try:
        frame = wire.decode(payload)
    except Malformed:
        return
    assert isinstance(frame, wire.Newer) or wire.encode(frame) == payload


@given(st.binary() | st.from_regex(r"\{.*\}").map(str.encode))
def test_any_plaintext(plaintext: bytes) -> None:
    try:
        claim = wire.decode_claim(plaintext)
    except Malformed:
        return
    assert wire.decode_claim(wire.encode_claim(claim)) == claim
