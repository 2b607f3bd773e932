"""One socket as asyncio drives it, for what cannot be brought about from outside."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from amesh_relay.connection import (
    MAX_FRAGMENTS,
    READ_BUFFER_BYTES,
    WRITE_LIMIT_BYTES,
    Connection,
)
from amesh_relay.doors import Doors
from amesh_relay.limits import Limits
from tests.support.relay import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

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
        self.opened = self.closed = self.left = 0
        self.plain: Response | None = None

    def enter(self, connection: Connection) -> bool:
        return self.has_room

    def answer(self, connection: Connection, request: Request) -> Response | None:
        return self.plain

    def open(self, connection: Connection, request: Request) -> None:
        self.opened += 1

    def receive(self, connection: Connection, message: str | bytes) -> None:
        self.messages.append(message)

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
