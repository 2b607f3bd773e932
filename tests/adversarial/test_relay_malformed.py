"""Threat: a frame, or something that is no frame, harms more than its own connection.

What stops it: every text is one frame or BadFrame (amesh_core.wire.relay), and the hub has
an answer to every frame in every role. In the original, four bytes from anybody, `null`,
ended the relay process.
"""

from __future__ import annotations

import json
import random
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from amesh_relay import limits
from amesh_relay.limits import Limits
from tests.support.hub import JTI, House, rows
from tests.support.relay import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    RelayProcess,
    bystanders,
    frame,
    raw_connection,
    raw_websocket,
    read_to_end,
    relay_process,
)

# --- the hub: any events in any order ---------------------------------------------------

CODES = st.sampled_from(["111111", "222222"])
JTIS = st.sampled_from([JTI, "bt_" + "f" * 32])
FRAMES: st.SearchStrategy[wire.DeviceFrame] = st.one_of(
    st.builds(wire.Listen, CODES),
    st.builds(wire.Connect, CODES),
    st.builds(wire.Data, st.sampled_from(["", "x", "A" * 65000])),
    st.builds(wire.Done),
    st.builds(wire.BootstrapWatch, JTIS),
    st.builds(wire.BootstrapInit, JTIS, st.just("A")),
    st.builds(wire.BootstrapAck, JTIS, st.just("A"), st.just("s")),
    st.builds(wire.BootstrapReject, JTIS, st.just("no")),
)
WHO = st.integers(min_value=0, max_value=5)
EVENTS = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])),
    st.tuples(st.just("say"), WHO, FRAMES),
    st.tuples(st.just("say"), WHO, FRAMES),
    st.tuples(st.just("bad"), WHO),
    st.tuples(st.just("leave"), WHO),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 30.0, 61.0, 121.0, 90000.0])),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_any_events_in_any_order(events: list[tuple[Any, ...]]) -> None:
    house = House(Limits(max_connections=6, max_connections_per_address=4, max_sessions=2))
    here: list[int] = []
    partner: dict[int, int] = {}
    for event in events:
        match event:
            case ("open", str(address)):
                here.append(house.open(address))
            case ("wait", float(seconds)):
                house.wait(seconds)
            case (str(what), int(who), *said) if who < len(here):
                number = here[who]
                if what == "say":
                    effects = house.say(number, said[0])
                elif what == "bad":
                    code = wire.ErrorCode.INVALID_MESSAGE
                    effects = house.perform(house.hub.refuse(number, code, house.now))
                else:
                    here.remove(number)
                    effects = house.leave(number)
                touched = {effect.to for effect in effects} - {number}
                if number in partner:
                    # In a session, or past one: nobody else is ever concerned.
                    assert touched <= {partner[number]}
                elif what == "bad":
                    assert not touched & partner.keys()
                met = [n for n, sent in house.sent.items() if wire.PeerFound() in sent]
                if met:
                    assert len(met) == 2
                    assert number in met
                    partner[met[0]], partner[met[1]] = met[1], met[0]
            case _:
                pass
        house.sent.clear()
    for number in here:
        house.leave(number)
    assert house.hub.connections == house.hub.sessions == 0
    house.wait(26 * 3600)
    assert rows(house.hub) == 0


def test_what_is_over_takes_no_memory() -> None:
    house = House()
    target, controller = house.session("111111")
    house.say(target, wire.Done())
    house.guess("222222")
    watcher, announcer = house.watching(), house.open()
    house.say(announcer, wire.BootstrapInit(JTI, "A"))
    house.say(watcher, wire.BootstrapAck(JTI, "A", "s"))
    for number in (target, controller, watcher, announcer):
        house.leave(number)
    # A used code, a guesser, a code guessed at, an announced jti, a jti that is used up.
    assert rows(house.hub) == 5
    house.wait(60)
    assert rows(house.hub) == 3
    house.wait(240)
    assert rows(house.hub) == 1
    house.wait(25 * 3600 - 300)
    assert rows(house.hub) == 0


def test_the_tables_stay_bounded_under_a_flood_of_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each from another address, with another code and another token."""
    assert limits.MAX_ROWS == 65536
    monkeypatch.setattr(limits, "MAX_ROWS", 1000)
    house = House(Limits())
    chance = random.Random(1)
    for number in range(3000):
        address = str(ip_address(0x20010DB8 << 96 | number << 64))
        jti = f"bt_{number:032x}"
        target, guesser, watcher = house.open(address), house.open(address), house.open(address)
        otc = f"{chance.randrange(10**6):06d}"
        house.say(guesser, wire.Connect(otc))
        house.say(target, wire.Listen(otc))
        house.leave(target)
        house.say(watcher, wire.BootstrapWatch(jti))
        house.say(guesser, wire.BootstrapInit(jti, "A"))
        house.say(watcher, wire.BootstrapAck(jti, "A", "s"))
        house.leave(watcher)
        house.leave(guesser)
        house.sent.clear()
    # Guessers, codes guessed at, codes of the past, announced and used up tokens: each table
    # is as full as it may be.
    assert rows(house.hub) == 5 * 1000


# --- the process: whatever bytes ----------------------------------------------------------

BAD_TEXTS = [
    "null",
    "",
    "{",
    "[]",
    "7",
    '"listen"',
    "{}",
    '{"type":null}',
    '{"type":"hello"}',
    '{"type":"listen"}',
    '{"type":"listen","otc":null}',
    '{"type":"listen","otc":{"toString":7}}',
    '{"type":"listen","otc":"999999","otc":"999999"}',
    '{"type":"connect","otc":["999999"]}',
    '{"type":"data"}',
    '{"type":"data","payload":"x"}',  # well formed, but nobody is at the other end
    '{"type":"done"}',
    '{"type":"data","payload":"\\ud800"}',
    '{"type":"bootstrap_init","jti":null}',
    '{"type":"bootstrap_ack","jti":"bt_0123456789abcdef0123456789abcdef"}',
    '{"__proto__":{"type":"listen"},"constructor":"x"}',
    "[" * 60000,
    '{"a":' * 10000 + "1" + "}" * 10000,
    "9" * 65000,
    '{"type":"done","x":1e99999}',
    "\x00" * 1000,
    "\u2028\u202e😀" * 100,
]


def test_no_text_does_more_than_end_its_own_connection() -> None:
    with relay_process("--max-connections-per-address", "1000") as relay:
        with bystanders(relay) as others:
            for text in BAD_TEXTS:
                with connect(relay.url, proxy=None) as device:
                    device.send(text)
                    answer = json.loads(device.recv(timeout=10))
                    assert answer["type"] == "error"
                    assert answer["code"] in {"invalid_message", "unknown_type", "invalid_otc"}
                    with pytest.raises(ConnectionClosed) as closed:
                        device.recv(timeout=10)
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1008
                others.check()
        assert "Traceback" not in relay.log()


def close_code(raw: socket.socket) -> int | None:
    """The code of the close frame that a relay sends last."""
    answer = b""
    while piece := raw.recv(65536):
        answer += piece
        at = answer.rfind(bytes([0x80 | CLOSE]))
        if 0 <= at <= len(answer) - 4:
            return int.from_bytes(answer[at + 2 : at + 4], "big")
    return None


BAD_FRAMES = {
    "binary": (frame(BINARY, b'{"type":"done"}'), 1008),
    "binary, not UTF-8": (frame(BINARY, b"\xff\xfe\xfd"), 1008),
    "text that is not UTF-8": (frame(TEXT, b'{"type":"\xff"}'), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "65537 bytes": (frame(TEXT, b" " * 65537), 1009),
    "a length of 2^62 and no more": (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),
    "65537 bytes in two": (
        frame(TEXT, b" " * 40000, first_bits=0) + frame(CONTINUATION, b" " * 25537),
        1009,
    ),
    "very many empty fragments": (
        frame(TEXT, b"", first_bits=0) + frame(CONTINUATION, b"", first_bits=0) * 200_000,
        1009,
    ),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "not masked": (frame(TEXT, b'{"type":"done"}', masked=False), 1002),
    "a reserved opcode": (frame(0x3, b"x"), 1002),
    "reserved bits, as for compression": (frame(TEXT, b"x", first_bits=0xC0), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a fragmented ping": (frame(PING, b"x", first_bits=0), 1002),
    "a close code of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close code that is not one": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
}


def test_no_websocket_frame_does_more_than_end_its_own_connection() -> None:
    with relay_process() as relay:
        with bystanders(relay) as others:
            for name, (data, code) in BAD_FRAMES.items():
                with raw_websocket(relay) as raw:
                    with suppress(ConnectionError):  # it need not read to the end
                        raw.sendall(data)
                    assert close_code(raw) == code, name
                others.check()
        assert "Traceback" not in relay.log()


BAD_HANDSHAKES = [
    b"",
    b"\x00" * 5000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"A" * 100,  # TLS
    b"null",
    b"GET /ws HTTP/1.1\r\n",
    b"GET /ws HTTP/1.1\r\n\r\n",
    b"GET /ws HTTP/9.9\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET  HTTP/1.1\r\n\r\n",
    b"POST /ws HTTP/1.1\r\nContent-Length: 4\r\n\r\nnull",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"a" * 100_000,
    b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"X-Forwarded-For: " + b", ".join([b"\xff[::::", b"%00", b"'\"", b"1.2.3.4.5"]) + b"\r\n\r\n",
]


def test_no_handshake_does_more_than_end_its_own_connection() -> None:
    with relay_process("--trusted-proxy", "127.0.0.0/8") as relay:
        with bystanders(relay) as others:
            for data in BAD_HANDSHAKES:
                with raw_connection(relay) as raw:
                    send_and_stop(raw, data)
                    read_to_end(raw)
                others.check()
        # Neither a harm nor a noise: a port scan fills no log.
        assert "Traceback" not in relay.log()


def send_and_stop(raw: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # it need not read to the end
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)


def test_a_connection_cut_at_any_byte() -> None:
    """Mid-handshake, mid-frame, mid-close, by an end of stream and by a reset."""
    whole = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        + frame(TEXT, b'{"type":"listen","otc":"123456"}')
        + frame(CLOSE, b"\x03\xe8")
    )
    with relay_process("--max-connections-per-address", "1000") as relay:
        with bystanders(relay) as others:
            for end in range(0, len(whole) + 1, 3):
                cut(relay, whole[:end], reset=end % 2 == 0)
            others.check()
        assert "Traceback" not in relay.log()


def cut(relay: RelayProcess, data: bytes, *, reset: bool) -> None:
    with raw_connection(relay) as raw:
        if reset:
            linger_for_no_time = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        raw.sendall(data)


NOISE = st.lists(
    st.binary(max_size=40)
    | st.builds(
        frame,
        st.sampled_from([TEXT, BINARY, CONTINUATION, CLOSE, PING]),
        st.binary(max_size=130) | st.sampled_from([text.encode() for text in BAD_TEXTS]),
        first_bits=st.sampled_from([0, 0x80, 0xC0]),
        masked=st.booleans(),
    ),
    max_size=8,
)


def test_noise_after_the_handshake() -> None:
    with relay_process() as relay, bystanders(relay) as others:

        @settings(max_examples=100, deadline=None)
        @given(NOISE)
        def send(noise: list[bytes]) -> None:
            with raw_websocket(relay) as raw:
                send_and_stop(raw, b"".join(noise))
                read_to_end(raw)
            others.check()

        send()
        assert "Traceback" not in relay.log()
