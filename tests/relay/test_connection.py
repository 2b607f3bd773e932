"""One socket as asyncio drives it, for what cannot be brought about from outside."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from ipaddress import ip_address

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from amesh_relay.connection import (
    MAX_FRAGMENTS,
    MAX_HEAD_BYTES,
    PIECE_BYTES,
    READ_BUFFER_BYTES,
    WRITE_LIMIT_BYTES,
    Connection,
)
from amesh_relay.doors import Doors
from amesh_relay.limits import Limits
from tests.support.relay import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Transport(asyncio.Transport):
    """Remembers what was asked of it; full or not, as a test says."""

    def __init__(self, peer: tuple[str, int] | None = ("192.0.2.1", 1)) -> None:
        super().__init__({"peername": peer})
        self.sent: list[bytes] = []
        self.limit: int | None = None
        self.is_reading_ = True
        self.ended = self.aborted = self.closed = 0
        self.half_closes = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limit = high

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.sent.append(bytes(data))

    def can_write_eof(self) -> bool:
        return self.half_closes

    def write_eof(self) -> None:
        self.ended += 1

    def pause_reading(self) -> None:
        self.is_reading_ = False

    def resume_reading(self) -> None:
        self.is_reading_ = True

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1


class House:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self.has_room = True
        self.messages: list[str | bytes] = []
        self.stalls: list[bool] = []
        self.opened = self.closed = self.left = self.controls = 0
        self.plain: Response | None = None

    def enter(self, connection: Connection) -> bool:
        return self.has_room

    def answer(self, connection: Connection, request: Request) -> Response | None:
        return self.plain

    def open(self, connection: Connection, request: Request) -> None:
        self.opened += 1

    def receive(self, connection: Connection, message: str | bytes) -> None:
        self.messages.append(message)

    def controlled(self, connection: Connection) -> None:
        self.controls += 1

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        self.stalls.append(is_stalled)

    def closing(self, connection: Connection) -> None:
        self.closed += 1

    def leave(self, connection: Connection) -> None:
        self.left += 1


def accepted(house: House, number: int = 1) -> tuple[Connection, Transport]:
    """A connection whose socket was accepted a moment ago."""
    connection, transport = Connection(house, number), Transport()
    connection.connection_made(transport)
    return connection, transport


def opened(house: House, number: int = 1) -> tuple[Connection, Transport]:
    """A connection after its handshake."""
    connection, transport = accepted(house, number)
    feed(connection, HANDSHAKE)
    assert transport.sent.pop().startswith(b"HTTP/1.1 101 ")
    return connection, transport


def feed(connection: Connection, data: bytes) -> None:
    """Hand it bytes as asyncio does, in pieces of what the buffer holds."""
    for at in range(0, len(data), READ_BUFFER_BYTES):
        piece = data[at : at + READ_BUFFER_BYTES]
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))


def close_code(transport: Transport) -> int:
    """Of the close frame that was sent last."""
    last = transport.sent[-1]
    at = last.rindex(bytes([0x80 | CLOSE]))
    return int.from_bytes(last[at + 2 : at + 4], "big")


def test_a_message_is_handed_on_whole() -> None:
    house = House()
    connection, _ = opened(house)
    long = "x" * 60_000
    feed(connection, frame(TEXT, b"one") + frame(BINARY, b"\xff") + frame(TEXT, long.encode()))
    feed(connection, frame(TEXT, b"in ", first_bits=0))
    feed(connection, frame(PING, b"") + frame(CONTINUATION, b"pie", first_bits=0))
    feed(connection, frame(CONTINUATION, b"ces"))
    assert house.messages == ["one", b"\xff", long, "in pieces"]


def test_a_handshake_byte_by_byte() -> None:
    house = House()
    connection, transport = accepted(house)
    for byte in HANDSHAKE[:-1]:
        feed(connection, bytes([byte]))
    assert (house.opened, transport.sent) == (0, [])
    feed(connection, HANDSHAKE[-1:] + frame(TEXT, b"at once"))
    assert (house.opened, house.messages) == (1, ["at once"])


def test_a_request_has_so_many_bytes() -> None:
    """In all, and not only a line of it: websockets itself would keep 128 lines of 8 KiB."""
    line = b"X-Long: %b\r\n" % (b"x" * 1000)
    lines = MAX_HEAD_BYTES // len(line) - 1
    longest = HANDSHAKE[:-2] + line * lines
    house = House()
    connection, transport = accepted(house)
    feed(connection, longest + b"\r\n" + frame(TEXT, b"x" * MAX_HEAD_BYTES))
    assert (house.opened, len(house.messages)) == (1, 1), "what follows is not of the request"
    for data in (longest + line * 2, longest + line * 2 + b"\r\n" + frame(TEXT, b"no")):
        house = House()
        connection, transport = accepted(house)
        feed(connection, data)
        feed(connection, line * 100 + b"\r\n")
        assert [sent.partition(b"\r\n")[0] for sent in transport.sent] == [
            b"HTTP/1.1 431 Request Header Fields Too Large"
        ]
        assert (house.opened, house.messages) == (0, [])
        assert (house.closed, transport.ended) == (1, 1)


def test_what_is_no_message_is_told_too() -> None:
    """Else pings would be free, however many."""
    house = House()
    connection, _ = opened(house)
    feed(connection, frame(PING, b"") * 3 + frame(PONG, b"") + frame(TEXT, b"x"))
    assert (house.controls, house.messages) == (4, ["x"])


class Strict(House):
    """Holds back whoever sends anything, until a test lets go."""

    def receive(self, connection: Connection, message: str | bytes) -> None:
        super().receive(connection, message)
        connection.hold_back(self)


def test_who_is_held_back_is_not_heard_to_the_end_of_a_read() -> None:
    """A read of the smallest frames takes 40 ms, so it must not count as one."""

    async def run() -> None:
        house = Strict()
        connection, transport = opened(house)
        sent = [f"{number:04d}" for number in range(500)]
        data = b"".join(frame(TEXT, text.encode()) for text in sent)
        feed(connection, data)
        heard = []
        while len(house.messages) < len(sent):
            assert not transport.is_reading_
            heard.append(len(house.messages))
            assert len(house.messages) <= (len(heard) * PIECE_BYTES) // 10
            connection.let_go(house)
            # Twice, and something is in between: once is enough, and in order.
            connection.hold_back("another reason")
            connection.let_go("another reason")
            await asyncio.sleep(0)
        assert house.messages == sent
        assert len(heard) == len(data) // PIECE_BYTES
        connection.let_go(house)
        assert transport.is_reading_

    asyncio.run(run())


def test_the_end_of_one_that_is_held_back() -> None:
    """TLS tells of it at once; what was not looked at by then has nobody to be answered to."""

    async def run() -> None:
        house = Strict()
        defects: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: defects.append(what))
        connection, transport = opened(house)
        feed(connection, frame(TEXT, b"0000") * 500)
        before = len(house.messages)
        assert connection.eof_received() is False
        connection.let_go(house)
        await asyncio.sleep(0)
        assert len(house.messages) == before
        assert transport.ended
        assert not defects

    asyncio.run(run())


def test_what_comes_though_it_is_held_back_comes_last() -> None:
    """TLS has read on, and what it has comes in spite of `pause_reading`."""

    async def run() -> None:
        house = Strict()
        connection, _ = opened(house)
        feed(connection, frame(TEXT, b"first") + b"".join([frame(TEXT, b"x" * 2000)] * 2))
        feed(connection, frame(TEXT, b"last"))
        while house.messages[-1] != "last":
            connection.let_go(house)
            await asyncio.sleep(0)
        assert [str(message)[:5] for message in house.messages] == [
            *("first", "xxxxx", "xxxxx", "last")
        ]

    asyncio.run(run())


def test_what_a_lost_connection_sent_is_forgotten() -> None:
    async def run() -> None:
        house = Strict()
        connection, _ = opened(house)
        feed(connection, frame(TEXT, b"one") * 500)
        heard = len(house.messages)
        connection.let_go(house)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert len(house.messages) == heard

    asyncio.run(run())


KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (b"", b"", 101),
        (b"Connection: Upgrade", b"Connection: keep-alive, upgrade", 101),
        (b"Host: relay\r\n", b"Sec-WebSocket-Protocol: a, b\r\nOrigin: http://a\r\n", 101),
        (b"Host: relay\r\n", b"Sec-WebSocket-Extensions: permessage-deflate\r\n", 101),
        (b"GET", b"POST", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
        (b"Connection: Upgrade", b"Connection: close", 426),
        (b"Connection: Upgrade\r\n", b"", 426),
        (b"Connection: Upgrade", b'Connection: "', 400),
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c", 426),
        (b"Version: 13", b"Version: 8", 400),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 400),
        (KEY, b"", 400),
        (KEY, KEY * 2, 400),
        (b"AAAA==", b"==", 400),
        (b"AAAA==", b"AA==", 400),
        (b"AAAA==", b"AA\xe9==", 400),
        (b"Host: relay\r\n", b"Origin: http://a\r\nOrigin: http://b\r\n", 400),
    ],
)
def test_a_handshake_is_answered_as_websockets_does(
    before: bytes, after: bytes, status: int
) -> None:
    """But for what time it is; every check of a request is there."""
    request = HANDSHAKE.replace(before, after, 1)
    websocket = ServerProtocol()
    websocket.receive_data(request)
    (event,) = websocket.events_received()
    assert isinstance(event, Request)
    expected = websocket.accept(event)
    websocket.send_response(expected)
    theirs = b"".join(websocket.data_to_send())

    house = House()
    connection, transport = accepted(house)
    feed(connection, request)
    assert expected.status_code == status
    assert at_any_time(b"".join(transport.sent)) == at_any_time(theirs)
    assert house.opened == (status == HTTPStatus.SWITCHING_PROTOCOLS)
    assert transport.ended == (status != HTTPStatus.SWITCHING_PROTOCOLS)


def at_any_time(response: bytes) -> bytes:
    return re.sub(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", b"Date: any", response)


def test_too_many_pieces_of_one_message() -> None:
    house = House()
    connection, transport = opened(house)
    feed(connection, frame(TEXT, b"", first_bits=0))
    feed(connection, frame(CONTINUATION, b"", first_bits=0) * (MAX_FRAGMENTS - 2))
    assert transport.sent == []
    feed(connection, frame(CONTINUATION, b"", first_bits=0))
    assert close_code(transport) == 1009
    feed(connection, frame(CONTINUATION, b"") + frame(TEXT, b"late"))
    assert house.messages == []


def test_nothing_after_the_first_mistake_is_handed_on() -> None:
    house = House()
    connection, transport = opened(house)
    feed(connection, frame(TEXT, b"good") + frame(TEXT, b"\xff") + frame(TEXT, b"after"))
    assert close_code(transport) == 1007
    assert house.messages == ["good"]


def test_what_was_said_before_a_farewell_counts() -> None:
    """A device may say `done` and close in one breath."""
    house = House()
    connection, transport = opened(house)
    feed(connection, frame(TEXT, b"done") + frame(CLOSE, (1000).to_bytes(2, "big")))
    assert house.messages == ["done"]
    assert close_code(transport) == 1000


def test_what_is_said_goes_out_in_one_piece() -> None:
    connection, transport = opened(House())
    connection.send("one")
    connection.send("two")
    connection.close(1000)
    assert transport.sent == []
    connection.flush()
    assert transport.sent == [b"\x81\x03one\x81\x03two\x88\x02\x03\xe8"]


def test_nothing_is_said_after_the_end() -> None:
    house = House()
    connection, transport = opened(house)
    connection.close(1000)
    connection.send("late")
    connection.ping()
    connection.close(1001)
    connection.flush()
    assert transport.sent == [b"\x88\x02\x03\xe8"]
    assert house.closed == 1


def test_the_end_is_said_once_and_the_other_half_stays_open() -> None:
    """What is on its way to the peer arrives, as the socket is not closed under it."""
    house = House()
    connection, transport = opened(house)
    feed(connection, frame(CLOSE, (1000).to_bytes(2, "big")))
    assert transport.sent == [b"\x88\x02\x03\xe8"]
    feed(connection, b"whatever else")
    assert not connection.eof_received()  # asyncio closes the socket
    assert (transport.ended, transport.closed, house.closed) == (1, 0, 1)
    connection.connection_lost(None)
    assert house.left == 1


def test_tls_has_no_half() -> None:
    connection, transport = accepted(House())
    transport.half_closes = False
    feed(connection, HANDSHAKE + frame(CLOSE, b""))
    assert (transport.ended, transport.closed) == (0, 1)


def test_plain_http_gets_its_answer_and_no_websocket() -> None:
    house = House()
    house.plain = Response(200, "OK", Headers(), b"fine")
    connection, transport = accepted(house)
    feed(connection, b"GET /health HTTP/1.1\r\n\r\n" + frame(TEXT, b"no"))
    assert transport.sent[0].endswith(b"\r\n\r\nfine")
    assert (house.opened, house.messages, transport.ended) == (0, [], 1)


@pytest.mark.parametrize("follows", [b"GET /metrics HTTP/1.1\r\n\r\n", b"\r\n", b"\xff" * 2000])
@pytest.mark.parametrize("request_", [b"GET /health HTTP/1.1\r\n\r\n", HANDSHAKE])
def test_what_comes_with_a_request_and_is_no_frame(request_: bytes, follows: bytes) -> None:
    """It raised, so that a stranger could fill the log with tracebacks."""
    house = House()
    house.plain = Response(200, "OK", Headers(), b"fine") if request_ != HANDSHAKE else None
    connection, transport = accepted(house)
    feed(connection, request_ + follows)
    assert (house.opened, house.messages, transport.ended) == (0, [], 1)
    assert house.closed == 1


def test_who_does_not_read_is_not_read_from() -> None:
    house = House()
    connection, transport = opened(house)
    assert transport.limit == WRITE_LIMIT_BYTES
    connection.pause_writing()
    assert (transport.is_reading_, house.stalls) == (False, [True])
    connection.resume_writing()
    assert (transport.is_reading_, house.stalls) == (True, [True, False])


def test_who_writes_to_one_that_does_not_read_waits_for_it() -> None:
    house = House()
    slow, slow_transport = opened(house, 1)
    sender, sender_transport = opened(house, 2)
    sender.hold_back_for(slow)
    seen = [(slow_transport.is_reading_, sender_transport.is_reading_)]  # there is room
    slow.pause_writing()
    sender.hold_back_for(slow)
    seen.append((slow_transport.is_reading_, sender_transport.is_reading_))
    slow.resume_writing()
    seen.append((slow_transport.is_reading_, sender_transport.is_reading_))
    assert seen == [(True, True), (False, False), (True, True)]


def test_room_here_is_no_reason_to_outrun_another() -> None:
    """A connection is held back for two reasons, and one of them ends."""
    house = House()
    slow, _ = opened(house, 1)
    sender, transport = opened(house, 2)
    slow.pause_writing()
    sender.hold_back_for(slow)
    sender.pause_writing()
    sender.resume_writing()
    assert not transport.is_reading_
    slow.resume_writing()
    assert transport.is_reading_


def test_nobody_waits_for_a_lost_connection() -> None:
    house = House()
    slow, _ = opened(house, 1)
    sender, transport = opened(house, 2)
    slow.pause_writing()
    sender.hold_back_for(slow)
    slow.connection_lost(None)
    assert transport.is_reading_


def test_a_lost_connection_is_not_woken() -> None:
    house = House()
    slow, _ = opened(house, 1)
    sender, transport = opened(house, 2)
    slow.pause_writing()
    sender.hold_back_for(slow)
    sender.connection_lost(None)
    slow.resume_writing()
    assert not transport.is_reading_


def test_a_ping_is_answered_by_anything() -> None:
    connection, transport = opened(House())
    connection.ping()
    assert transport.sent == [b"\x89\x00"]
    assert not connection.is_alive
    feed(connection, b"\x8a")
    assert connection.is_alive


def test_no_room_in_the_house() -> None:
    house = House()
    house.has_room = False
    _, transport = accepted(house)
    assert transport.aborted == 1


def test_a_peer_without_a_name_is_a_client_like_others() -> None:
    """As macOS accepts a socket whose other end is gone already."""
    connection = Connection(House(), 1)
    connection.connection_made(Transport(None))
    doors = Doors(Limits(max_connections_per_address=1), [])
    assert [doors.enter(number, connection.peer) for number in range(3)] == [True, True, False]
    doors.leave(0)
    assert doors.enter(3, connection.peer)


def test_there_are_so_many_sockets_in_all() -> None:
    doors = Doors(Limits(max_connections=1), [])
    entered = [
        doors.enter(number, ip_address(f"198.51.{number // 250}.{number % 250}"))
        for number in range(doors.max_sockets + 1)
    ]
    assert entered == [True] * 1001 + [False]
