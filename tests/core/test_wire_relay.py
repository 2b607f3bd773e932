"""Device <-> relay frames, docs/protocol.md section 4: one text, one value, or BadFrame."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amesh_core.errors import BadFrame, Malformed
from amesh_core.wire import relay as wire

JTI = "bt_0123456789abcdef0123456789abcdef"

# The texts are written by hand from the protocol, not by `encode`.
FROM_DEVICE: list[tuple[str, wire.DeviceFrame]] = [
    ('{"type":"listen","otc":"482916"}', wire.Listen("482916")),
    ('{"type":"connect","otc":"000000"}', wire.Connect("000000")),
    ('{"type":"data","payload":"AAEC/w=="}', wire.Data("AAEC/w==")),
    ('{"type":"data","payload":""}', wire.Data("")),
    ('{"type":"data","payload":"sas_confirmed"}', wire.Data("sas_confirmed")),
    ('{"type":"done"}', wire.Done()),
    (f'{{"type":"bootstrap_watch","jti":"{JTI}"}}', wire.BootstrapWatch(JTI)),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A+Y="}}',
        wire.BootstrapInit(JTI, "A+Y="),
    ),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A+Y=","friendlyName":"büro 7",'
        '"proof":"cA==","mac":"bQ==","token":"eyJ.e.s"}',
        wire.BootstrapInit(JTI, "A+Y=", "büro 7", "cA==", "bQ==", "eyJ.e.s"),
    ),
    (
        f'{{"type":"bootstrap_ack","jti":"{JTI}","publicKey":"A+Y=","controllerSig":"cw=="}}',
        wire.BootstrapAck(JTI, "A+Y=", "cw=="),
    ),
    (
        f'{{"type":"bootstrap_reject","jti":"{JTI}","error":"token_already_used"}}',
        wire.BootstrapReject(JTI, "token_already_used"),
    ),
]
FROM_RELAY: list[tuple[str, wire.RelayFrame]] = [
    ('{"type":"ack","message":"session_open"}', wire.Ack()),
    ('{"type":"peer_found"}', wire.PeerFound()),
    ('{"type":"data","payload":"AAEC/w=="}', wire.Data("AAEC/w==")),
    ('{"type":"done"}', wire.Done()),
    ('{"type":"error","code":"otc_not_found"}', wire.RelayErrorFrame("otc_not_found")),
    (f'{{"type":"bootstrap_watching","jti":"{JTI}"}}', wire.BootstrapWatching(JTI)),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A+Y=","mac":"bQ=="}}',
        wire.BootstrapInit(JTI, "A+Y=", mac="bQ=="),
    ),
    (
        f'{{"type":"bootstrap_ack","jti":"{JTI}","controllerPubKey":"A+Y=","controllerSig":"cw=="}}',
        wire.BootstrapAcked(JTI, "A+Y=", "cw=="),
    ),
    (
        f'{{"type":"bootstrap_reject","jti":"{JTI}","error":"no_watcher"}}',
        wire.BootstrapReject(JTI, "no_watcher"),
    ),
]


@pytest.mark.parametrize(("text", "frame"), FROM_DEVICE)
def test_a_device_frame_has_one_text(text: str, frame: wire.DeviceFrame) -> None:
    assert wire.decode_from_device(text) == frame
    assert wire.encode(frame) == text


@pytest.mark.parametrize(("text", "frame"), FROM_RELAY)
def test_a_relay_frame_has_one_text(text: str, frame: wire.RelayFrame) -> None:
    assert wire.decode_from_relay(text) == frame
    assert wire.encode(frame) == text


BAD_FROM_DEVICE = [
    # what is no JSON object
    ("", "invalid_message"),
    ("null", "invalid_message"),
    ("1", "invalid_message"),
    ('"listen"', "invalid_message"),
    ("[]", "invalid_message"),
    ('[{"type":"done"}]', "invalid_message"),
    ("{", "invalid_message"),
    ('{"type":"done"} {"type":"done"}', "invalid_message"),
    ('\ufeff{"type":"done"}', "invalid_message"),
    ('{"type":"done","type":"done"}', "invalid_message"),
    ('{"type":"done","x":NaN}', "invalid_message"),
    ('{"type":"done","x":' + "[" * 40 + "]" * 40 + "}", "invalid_message"),
    ("[" * 60000, "invalid_message"),
    ('{"a":' * 10000, "invalid_message"),
    ("9" * 60000, "invalid_message"),
    # what has no type, or one that a device does not send
    ("{}", "invalid_message"),
    ('{"type":null}', "invalid_message"),
    ('{"type":["done"]}', "invalid_message"),
    ('{"type":7}', "invalid_message"),
    ('{"type":"hello"}', "unknown_type"),
    ('{"type":""}', "unknown_type"),
    ('{"type":"Listen","otc":"482916"}', "unknown_type"),
    ('{"type":"ack","message":"session_open"}', "unknown_type"),
    ('{"type":"peer_found"}', "unknown_type"),
    ('{"type":"error","code":"otc_expired"}', "unknown_type"),
    # codes
    ('{"type":"listen"}', "invalid_otc"),
    ('{"type":"listen","otc":null}', "invalid_otc"),
    ('{"type":"listen","otc":482916}', "invalid_otc"),
    ('{"type":"listen","otc":"48291"}', "invalid_otc"),
    ('{"type":"listen","otc":"4829160"}', "invalid_otc"),
    ('{"type":"listen","otc":"482916\\n"}', "invalid_otc"),
    ('{"type":"connect","otc":" 82916"}', "invalid_otc"),
    ('{"type":"connect","otc":"４８２９１６"}', "invalid_otc"),
    ('{"type":"connect","otc":"48291a"}', "invalid_otc"),
    # data
    ('{"type":"data"}', "invalid_message"),
    ('{"type":"data","payload":null}', "invalid_message"),
    ('{"type":"data","payload":{"v":2}}', "invalid_message"),
    ('{"type":"data","payload":"\\ud800"}', "invalid_message"),
    # bootstrap
    ('{"type":"bootstrap_watch"}', "invalid_message"),
    ('{"type":"bootstrap_watch","jti":7}', "invalid_message"),
    ('{"type":"bootstrap_watch","jti":"bt_0123"}', "invalid_message"),
    (f'{{"type":"bootstrap_watch","jti":"{JTI.upper()}"}}', "invalid_message"),
    (f'{{"type":"bootstrap_watch","jti":"{JTI}\\n"}}', "invalid_message"),
    (f'{{"type":"bootstrap_init","jti":"{JTI}"}}', "invalid_message"),
    ('{"type":"bootstrap_init","targetPubKey":"A+Y="}', "invalid_message"),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A","token":null}}',
        "invalid_message",
    ),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A","proof":["x"]}}',
        "invalid_message",
    ),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"{"A" * 4097}"}}',
        "invalid_message",
    ),
    (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A","friendlyName":"\\udfff"}}',
        "invalid_message",
    ),
    (f'{{"type":"bootstrap_ack","jti":"{JTI}","publicKey":"A"}}', "invalid_message"),
    (f'{{"type":"bootstrap_ack","jti":"{JTI}","controllerSig":"s"}}', "invalid_message"),
    (f'{{"type":"bootstrap_reject","jti":"{JTI}"}}', "invalid_message"),
    (f'{{"type":"bootstrap_reject","jti":"{JTI}","error":7}}', "invalid_message"),
    (f'{{"type":"bootstrap_reject","jti":"{JTI}","error":""}}', "invalid_message"),
    (f'{{"type":"bootstrap_reject","jti":"{JTI}","error":"\\u001b[2J"}}', "invalid_message"),
    (f'{{"type":"bootstrap_reject","jti":"{JTI}","error":"{"a" * 65}"}}', "invalid_message"),
]


@pytest.mark.parametrize(
    ("text", "code"), BAD_FROM_DEVICE, ids=[text[:60] for text, _ in BAD_FROM_DEVICE]
)
def test_a_relay_refuses(text: str, code: str) -> None:
    with pytest.raises(BadFrame) as caught:
        wire.decode_from_device(text)
    assert caught.value.relay_code == code
    assert code in wire.ERROR_CODES
    assert isinstance(caught.value, Malformed)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "{}",
        '{"type":"hello"}',
        '{"type":"listen","otc":"482916"}',
        '{"type":"connect","otc":"482916"}',
        '{"type":"ack"}',
        '{"type":"ack","message":"go on"}',
        '{"type":"error"}',
        '{"type":"error","code":7}',
        '{"type":"data","payload":7}',
        '{"type":"data","payload":"\\udc00"}',
        '{"type":"bootstrap_watching","jti":"x"}',
        f'{{"type":"bootstrap_ack","jti":"{JTI}","publicKey":"A","controllerSig":"s"}}',
        f'{{"type":"bootstrap_ack","jti":"{JTI}","controllerPubKey":"A"}}',
        f'{{"type":"bootstrap_reject","jti":"{JTI}","error":"Ask your \\u001b[31madmin"}}',
        "[" * 60000,
    ],
    ids=lambda text: text[:60],
)
def test_a_device_refuses(text: str) -> None:
    with pytest.raises(BadFrame):
        wire.decode_from_relay(text)


@pytest.mark.parametrize("data", [b"", b'{"type":"done"}', b"\xff\xfe"])
def test_a_binary_frame_is_refused(data: bytes) -> None:
    for decode in (wire.decode_from_device, wire.decode_from_relay):
        with pytest.raises(BadFrame) as caught:
            decode(data)
        assert caught.value.relay_code == "invalid_message"


def test_the_limit_counts_bytes() -> None:
    room = wire.MAX_FRAME_BYTES - len('{"type":"data","payload":""}')
    largest = wire.encode(wire.Data("A" * room))
    assert len(largest) == wire.MAX_FRAME_BYTES == 65536
    assert wire.decode_from_device(largest) == wire.Data("A" * room)
    assert wire.decode_from_relay(largest) == wire.Data("A" * room)
    for payload in ("A" * (room + 1), "é" * (room // 2) + "AA"):
        with pytest.raises(BadFrame):
            wire.decode_from_device(wire.encode(wire.Data(payload)))
        with pytest.raises(BadFrame):
            wire.decode_from_relay(wire.encode(wire.Data(payload)))


def test_what_a_relay_hands_on_stays_below_the_limit() -> None:
    """The name of one field grows on the way; the limit of a field leaves room for it."""
    longest = "\x00" * wire.MAX_BOOTSTRAP_FIELD_CHARACTERS
    ack = wire.decode_from_device(wire.encode(wire.BootstrapAck(JTI, longest, longest)))
    assert isinstance(ack, wire.BootstrapAck)
    passed_on = wire.encode(wire.BootstrapAcked(ack.jti, ack.public_key, ack.controller_sig))
    assert isinstance(wire.decode_from_relay(passed_on), wire.BootstrapAcked)


def test_unknown_keys_are_dropped() -> None:
    text = (
        f'{{"type":"bootstrap_init","jti":"{JTI}","targetPubKey":"A","evil":{{"a":[1]}},'
        '"controllerPubKey":"B","mac":"m"}'
    )
    frame = wire.decode_from_device(text)
    assert frame == wire.BootstrapInit(JTI, "A", mac="m")
    assert json.loads(wire.encode(frame)) == {
        "type": "bootstrap_init",
        "jti": JTI,
        "targetPubKey": "A",
        "mac": "m",
    }


@pytest.mark.parametrize("code", ["", "teapot", "\x1b[2J", "OTC_EXPIRED", "otc_expired\n"])
def test_an_error_code_that_is_not_ours_is_not_repeated(code: str) -> None:
    frame = wire.decode_from_relay(json.dumps({"type": "error", "code": code}))
    assert frame == wire.RelayErrorFrame(wire.UNKNOWN_ERROR)
    assert wire.UNKNOWN_ERROR not in wire.ERROR_CODES


def test_the_error_codes_are_those_of_the_protocol() -> None:
    listed = (
        "invalid_message, unknown_type, invalid_otc, otc_in_use, otc_not_found, otc_expired, "
        "peer_already_connected, peer_disconnected, rate_limited, relay_capacity, "
        "session_data_limit, too_many_connections"
    )
    assert set(listed.split(", ")) == wire.ERROR_CODES
    for code in wire.ERROR_CODES:
        text = f'{{"type":"error","code":"{code}"}}'
        assert wire.decode_from_relay(text) == wire.RelayErrorFrame(code)
        assert wire.encode(wire.RelayErrorFrame(code)) == text


def test_what_is_secret_does_not_print() -> None:
    secret = "bt_5ec4e75ec4e75ec4e75ec4e75ec4e700"
    frames = [
        wire.Listen("482916"),
        wire.Connect("482916"),
        wire.Data(secret),
        wire.BootstrapWatch(secret),
        wire.BootstrapWatching(secret),
        wire.BootstrapInit(secret, "key", "name", secret, secret, secret),
        wire.BootstrapAck(secret, "key", secret),
        wire.BootstrapAcked(secret, "key", secret),
        wire.BootstrapReject(secret, "no_watcher"),
    ]
    printed = repr(frames)
    assert secret not in printed
    assert "482916" not in printed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TYPES = st.sampled_from(
    sorted({json.loads(text)["type"] for text, _ in [*FROM_DEVICE, *FROM_RELAY]})
)
NAMES = st.sampled_from(
    sorted({name for text, _ in [*FROM_DEVICE, *FROM_RELAY] for name in json.loads(text)})
)
NEARLY = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    TYPES | JSON,
    st.dictionaries(NAMES, JSON | st.sampled_from(["482916", JTI]), max_size=6),
)


# Nearly the usual spelling of a `data` frame, or just that: what is first here is mostly right.
SPACE = st.sampled_from(["", "", "", " ", "  ", "\n"])
PAYLOAD = st.text(st.sampled_from("Aa+/=_- ~!")) | st.text(
    st.sampled_from('A\\"\x00\x1f\x7f\x80é\u2028\ud83d\ude00'), max_size=4
)
NEARLY_PLAIN = st.builds(
    "".join,
    st.tuples(
        *(st.just("{"), SPACE, st.sampled_from(['"type":', '"type":', '"payload":"B","type":'])),
        *(SPACE, st.sampled_from(['"data"', '"data"', '"Data"', '"d\\u0061ta"', "data"]), SPACE),
        *(st.just(","), SPACE, st.just('"payload":'), SPACE, st.just('"'), PAYLOAD, st.just('"')),
        st.sampled_from(["", "", ',"payload":"C"', ',"type":"done"', ',"x":' + "[" * 40]),
        *(SPACE, st.sampled_from(["}", "}", "", "}}", "},{}", '"}'])),
    ),
)


@given(NEARLY_PLAIN)
@example('{"type":"data","payload":"AAEC/w=="}')
@example('{"type": "data", "payload": "AAEC/w=="}')
@example('{"type":"data","payload":"A","payload":"C"}')
@example('{"type":"data","payload":"A"}"}')
@example('{"type":"data","payload":"A"}}')
@example('{"type":"data","payload":"\\n"}')
@example('{"type":"data","payload":"\x1f"}')
@example('{"type":"data","payload":"\x7f"}')
@example('{"type":"data","payload":"\ud800"}')
@example('{"type":"data","payload":"é"}')
def test_the_usual_spelling_of_data_reads_as_any_other(text: str) -> None:
    """A pattern reads it, JSON's grammar all others: also what begins with a space."""
    for decoder in (wire.decode_from_device, wire.decode_from_relay):
        said: list[object] = []
        for spelling in (text, f" {text}"):
            try:
                said.append(decoder(spelling))
            except BadFrame as error:
                said.append((error.relay_code, str(error)))
        assert said[0] == said[1]


def decode(text: str | bytes) -> list[Any]:
    """What both readers make of `text`; anything but a frame or BadFrame is an error."""
    results: list[Any] = []
    codes = []
    for decoder in (wire.decode_from_device, wire.decode_from_relay):
        try:
            results.append(decoder(text))
        except BadFrame as error:
            codes.append(error.relay_code)
    assert wire.ERROR_CODES.issuperset(codes)
    return results


@given(st.text() | st.binary())
def test_any_input_is_a_frame_or_a_bad_frame(text: str | bytes) -> None:
    decode(text)


@given(NEARLY | JSON, st.booleans())
def test_any_json_is_a_frame_or_a_bad_frame(value: object, ascii_only: bool) -> None:
    for frame in decode(json.dumps(value, ensure_ascii=ascii_only)):
        text = wire.encode(frame)
        # What was accepted can be sent on, and reads the same there.
        assert len(text.encode("utf-8")) <= wire.MAX_FRAME_BYTES
        assert frame in decode(text)
