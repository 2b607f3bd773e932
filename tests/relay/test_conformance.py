"""RFC 6455, in the order of the Autobahn test suite's cases, against a real relay.

A relay echoes nothing, so where Autobahn expects an echo these expect the answer to a `listen`
(`ack`), or to a text that is no frame (`invalid_message`, then 1008).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest

from amesh_core.wire import relay as wire
from tests.support.relay import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    RelayProcess,
    bystanders,
    frame,
    raw_websocket,
    read_to_end,
    relay_process,
)

PONG = 0xA
FIN = 0x80

Heard = list[tuple[int, bytes]]

ACK = (TEXT, wire.encode(wire.Ack()).encode())
INVALID = (TEXT, wire.encode(wire.RelayErrorFrame("invalid_message")).encode())

_codes = count()


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProcess]:
    """One for all cases: none of them harms the next."""
    options = ("--max-connections-per-address", "1000", "--max-sessions-per-address", "1000")
    with relay_process(*options) as running, bystanders(running) as others:
        yield running
        others.check()
        assert "Traceback" not in running.log()


def listen(size: int = 0) -> bytes:
    """A frame that is answered with `ack`, of so many bytes."""
    otc = f"{next(_codes):06d}"
    return wire.encode(wire.Listen(otc)).encode().ljust(size)


def parts(data: bytes) -> tuple[Heard, bytes]:
    """The frames a relay sent, neither masked nor in pieces, and what is not a whole one yet."""
    heard: Heard = []
    while len(data) >= 4 or (len(data) >= 2 and data[1] < 126):
        first, length, at = data[0], data[1], 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        if len(data) < at + length:
            break
        assert first & 0x70 == 0, "reserved bits"
        assert first & FIN, "in pieces"
        said = data[at : at + length]
        heard.append((first & 0x0F, said[:2] if first & 0x0F == CLOSE else said))
        data = data[at + length :]
    return heard, data


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


BYE = close(1000)
CLOSED = (CLOSE, (1000).to_bytes(2, "big"))


def closed(code: int) -> tuple[int, bytes]:
    return CLOSE, code.to_bytes(2, "big")


# Between what is sent: wait until one more frame has come.
ANSWER = None


def talk(relay: RelayProcess, *pieces: bytes | None) -> Heard:
    """Send these, each on its own; all that comes back, close frames without their reasons."""
    heard: Heard = []
    with raw_websocket(relay) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest = b""
        with suppress(ConnectionError):  # it need not read to the end
            for piece in pieces:
                if piece is not ANSWER:
                    raw.sendall(piece)
                    continue
                more: Heard = []
                while not more:
                    more, rest = parts(rest + raw.recv(4096))
                heard += more
        with suppress(OSError):  # a close frame may be read as the end of our direction, too
            raw.shutdown(socket.SHUT_WR)
        more, rest = parts(rest + read_to_end(raw))
        assert not rest
    return heard + more


def by_bytes(data: bytes) -> list[bytes]:
    """Chopped, one byte at a time."""
    return [data[at : at + 1] for at in range(len(data))]


# --- 1: framing -------------------------------------------------------------------------

SIZES = [125, 126, 127, 128, 65535, 65536]


@pytest.mark.parametrize("size", SIZES)
def test_1_1_a_text_of_any_size(relay: RelayProcess, size: int) -> None:
    assert talk(relay, frame(TEXT, listen(size)), ANSWER, BYE) == [ACK, CLOSED]


def test_1_1_1_an_empty_text(relay: RelayProcess) -> None:
    assert talk(relay, frame(TEXT, b"")) == [INVALID, closed(1008)]


def test_1_1_8_chopped(relay: RelayProcess) -> None:
    assert talk(relay, *by_bytes(frame(TEXT, listen(128))), ANSWER, BYE) == [ACK, CLOSED]
    whole = frame(TEXT, listen(65536))
    chopped = [whole[at : at + 997] for at in range(0, len(whole), 997)]
    assert talk(relay, *chopped, ANSWER, BYE) == [ACK, CLOSED]


@pytest.mark.parametrize("size", [0, *SIZES])
def test_1_2_a_binary_message_is_none_of_ours(relay: RelayProcess, size: int) -> None:
    assert talk(relay, frame(BINARY, listen(size)[:size])) == [INVALID, closed(1008)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_1_3_more_than_a_message_may_have(relay: RelayProcess, opcode: int) -> None:
    assert talk(relay, frame(opcode, b" " * 65537)) == [closed(1009)]


def test_1_4_lengths_that_are_not_the_shortest(relay: RelayProcess) -> None:
    """Section 5.2 wants the shortest. The library reads others too; nothing depends on it."""
    said = listen()
    longer = bytes([FIN | TEXT, 0x80 | 126]) + len(said).to_bytes(2, "big") + bytes(4) + said
    assert talk(relay, longer, ANSWER, BYE) == [ACK, CLOSED]
    negative = bytes([FIN | TEXT, 0x80 | 127]) + b"\xff" * 8
    assert talk(relay, negative) == [closed(1009)]


# --- 2: pings and pongs -----------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125]
)
def test_2_1_a_ping_is_answered_in_kind(relay: RelayProcess, payload: bytes) -> None:
    assert talk(relay, frame(PING, payload), BYE) == [(PONG, payload), CLOSED]
    assert talk(relay, *by_bytes(frame(PING, payload)), BYE) == [(PONG, payload), CLOSED]


def test_2_5_a_ping_that_is_too_long(relay: RelayProcess) -> None:
    assert talk(relay, frame(PING, b"x" * 126)) == [closed(1002)]


@pytest.mark.parametrize("payload", [b"", b"unsolicited"])
def test_2_7_a_pong_that_nobody_asked_for(relay: RelayProcess, payload: bytes) -> None:
    pieces = (frame(PONG, payload), frame(PING, b"then"), BYE)
    assert talk(relay, *pieces) == [(PONG, b"then"), CLOSED]


@pytest.mark.parametrize("chopped", [False, True])
def test_2_10_ten_pings(relay: RelayProcess, chopped: bool) -> None:
    payloads = [f"payload-{number}".encode() for number in range(10)]
    data = b"".join(frame(PING, payload) for payload in payloads)
    pieces = by_bytes(data) if chopped else [data]
    assert talk(relay, *pieces, BYE) == [*((PONG, payload) for payload in payloads), CLOSED]


# --- 3: reserved bits -------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_3_reserved_bits(relay: RelayProcess, bits: int, opcode: int) -> None:
    reserved = frame(opcode, b"x" * 2, first_bits=FIN | bits << 4)
    assert talk(relay, frame(TEXT, listen()), ANSWER, reserved, frame(PING, b"late")) == [
        ACK,
        closed(1002),
    ]


# --- 4: opcodes -------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_4_reserved_opcodes(relay: RelayProcess, opcode: int) -> None:
    for payload in (b"", b"reserved"):
        assert talk(relay, frame(opcode, payload)) == [closed(1002)]
        pieces = (frame(TEXT, listen()), ANSWER, frame(opcode, payload), frame(PING, b"late"))
        assert talk(relay, *pieces) == [ACK, closed(1002)]


def test_4_3_what_is_not_masked(relay: RelayProcess) -> None:
    for opcode in (TEXT, PING, CLOSE):
        assert talk(relay, frame(opcode, b"", masked=False)) == [closed(1002)]


# --- 5: fragments -----------------------------------------------------------------------


def pieces_of(said: bytes, many: int) -> list[bytes]:
    """A text in so many frames."""
    size = -(-len(said) // many)
    texts = [said[at : at + size] for at in range(0, len(said), size)]
    texts += [b""] * (many - len(texts))
    frames = [frame(CONTINUATION, text, first_bits=0) for text in texts]
    frames[0] = frame(TEXT, texts[0], first_bits=0)
    frames[-1] = frame(CONTINUATION, texts[-1])
    return frames


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_5_1_a_control_frame_in_pieces(relay: RelayProcess, opcode: int) -> None:
    halves = frame(opcode, b"xx", first_bits=0), frame(CONTINUATION, b"yy")
    assert talk(relay, *halves) == [closed(1002)]


@pytest.mark.parametrize("many", [2, 3, 64])
def test_5_3_a_text_in_pieces(relay: RelayProcess, many: int) -> None:
    for together in (False, True):
        pieces = pieces_of(listen(), many)
        sent = [b"".join(pieces)] if together else pieces
        assert talk(relay, *sent, ANSWER, BYE) == [ACK, CLOSED]
    assert talk(relay, *by_bytes(b"".join(pieces_of(listen(), many))), ANSWER, BYE) == [ACK, CLOSED]


@pytest.mark.parametrize("sizes", [(30000, 35536), (65536, 0), (0, 65536)])
def test_5_the_pieces_of_the_longest_text(relay: RelayProcess, sizes: tuple[int, int]) -> None:
    said = listen(65536)
    first = frame(TEXT, said[: sizes[0]], first_bits=0)
    second = frame(CONTINUATION, said[sizes[0] :])
    assert talk(relay, first, second, ANSWER, BYE) == [ACK, CLOSED]
    assert talk(relay, first, frame(CONTINUATION, b" " * (sizes[1] + 1))) == [closed(1009)]


def test_5_6_a_ping_in_between(relay: RelayProcess) -> None:
    first, second = pieces_of(listen(), 2)
    sent = (first, frame(PING, b"between"), ANSWER, frame(PONG, b""), second, ANSWER, BYE)
    assert talk(relay, *sent) == [(PONG, b"between"), ACK, CLOSED]


def test_5_8_a_close_in_between(relay: RelayProcess) -> None:
    first, second = pieces_of(listen(), 2)
    assert talk(relay, first, BYE, second) == [closed(1002)]


@pytest.mark.parametrize("first_bits", [0, FIN])
def test_5_9_a_continuation_of_nothing(relay: RelayProcess, first_bits: int) -> None:
    lost = frame(CONTINUATION, b"x", first_bits=first_bits)
    assert talk(relay, lost) == [closed(1002)]
    assert talk(relay, frame(TEXT, listen()), ANSWER, lost) == [ACK, closed(1002)]
    first, second = pieces_of(listen(), 2)
    assert talk(relay, first, second, ANSWER, lost) == [ACK, closed(1002)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_18_a_message_within_a_message(relay: RelayProcess, opcode: int) -> None:
    first, _ = pieces_of(listen(), 2)
    assert talk(relay, first, frame(opcode, listen())) == [closed(1002)]


def test_5_more_pieces_than_any_program_needs(relay: RelayProcess) -> None:
    assert talk(relay, *pieces_of(listen(), 65)) == [closed(1009)]


# --- 6: UTF-8 ---------------------------------------------------------------------------

GOOD = ["", "κόσμε", "Hello-µ@ßöäüàá-UTF-8!!", "\u0000", "\u0080", "\u07ff", "\u0800", "\uffff"]
GOOD += ["\U00010000", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\ufdd0", "\U0001fffe"]
BAD = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64",  # 6.3.1
    b"\xf4\x90\x80\x80",  # 6.4: above U+10FFFF
    b"\xce",  # 6.6: cut off
    b"\xce\xba\xe1",
    b"\xce\xba\xe1\xbd",
    b"\xf8\x88\x80\x80\x80",  # 6.8: five bytes
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",  # 6.10
    b"\xfb\xbf\xbf\xbf\xbf",
    b"\x80",  # 6.12: a continuation alone
    b"\xbf",
    b"\x80\xbf\x80",
    b"\xc0\x20",  # 6.13: a beginning alone
    b"\xe0\x20",
    b"\xf0\x20",
    b"\xc0",  # 6.14
    b"\xe0\x80",
    b"\xfe",  # 6.16
    b"\xff",
    b"\xc0\xaf",  # 6.17: longer than needed
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xc0\x80",
    b"\xed\xa0\x80",  # 6.20: surrogates
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
]


@pytest.mark.parametrize("text", GOOD, ids=ascii)
def test_6_text_is_handed_on_as_it_is(relay: RelayProcess, text: str) -> None:
    """In one piece, and cut in the middle of a character."""
    otc = f"{next(_codes):06d}"
    said = b'{"type":"data","payload":%b}' % json.dumps(text, ensure_ascii=False).encode()
    with raw_websocket(relay) as target, raw_websocket(relay) as controller:
        target.sendall(frame(TEXT, wire.encode(wire.Listen(otc)).encode()))
        assert parts(target.recv(4096)) == ([ACK], b"")
        controller.sendall(frame(TEXT, wire.encode(wire.Connect(otc)).encode()))
        assert b"peer_found" in target.recv(4096)
        assert b"peer_found" in controller.recv(4096)
        for sent in (frame(TEXT, said), b"".join(pieces_of(said, len(said)))):
            controller.sendall(sent)
            ((_, heard),), _ = parts(target.recv(4096))
            assert wire.decode_from_relay(heard.decode()) == wire.Data(text)


@pytest.mark.parametrize("data", BAD, ids=lambda data: data.hex())
def test_6_what_is_no_utf8(relay: RelayProcess, data: bytes) -> None:
    said = b'{"type":"data","payload":"%b"}' % data
    for pieces in ([frame(TEXT, said)], pieces_of(said, 3)):
        assert talk(relay, *pieces, frame(TEXT, listen())) == [closed(1007)]
        assert talk(relay, b"".join(pieces) + frame(TEXT, listen())) == [closed(1007)]


# --- 7: the end -------------------------------------------------------------------------


def test_7_1_the_end_is_the_end(relay: RelayProcess) -> None:
    assert talk(relay, BYE, BYE) == [CLOSED]
    assert talk(relay, BYE, frame(PING, b"late")) == [CLOSED]
    assert talk(relay, BYE, frame(TEXT, listen())) == [CLOSED]


def test_7_3_what_a_close_frame_may_hold(relay: RelayProcess) -> None:
    assert talk(relay, frame(CLOSE, b"")) == [(CLOSE, b"")]
    assert talk(relay, frame(CLOSE, b"\x03")) == [closed(1002)]
    assert talk(relay, close(1000, b"Hello World!")) == [CLOSED]
    assert talk(relay, close(1000, b"*" * 123)) == [CLOSED]
    assert talk(relay, close(1000, b"*" * 124)) == [closed(1002)]


def test_7_5_a_reason_that_is_no_text(relay: RelayProcess) -> None:
    assert talk(relay, close(1000, BAD[0])) == [closed(1007)]


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
def test_7_7_codes_that_may_be_sent(relay: RelayProcess, code: int) -> None:
    assert talk(relay, close(code)) == [closed(code)]


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_7_9_codes_that_may_not(relay: RelayProcess, code: int) -> None:
    assert talk(relay, close(code)) == [closed(1002)]
