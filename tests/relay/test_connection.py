"""One socket as asyncio drives it, for what cannot be brought about from outside."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from websockets.asyncio.server import Server
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from amesh_relay.connection import Doors, RelayConnection
from amesh_relay.limits import Limits


class Transport(asyncio.Transport):
    """Remembers what was asked of it."""

    def __init__(self, peer: tuple[str, int] | None) -> None:
        super().__init__({"peername": peer})
        self._reading = True
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def abort(self) -> None:
        self.aborted = True


async def accepted(doors: Doors, peer: tuple[str, int] | None) -> tuple[RelayConnection, Transport]:
    """A connection as it is when asyncio has just accepted its socket."""

    async def handler(_: object) -> None:
        """The handshake, which is not played here."""

    server = Server(cast(Any, None), cast(Any, handler))
    connection = doors.connection_type()(ServerProtocol(), server, max_queue=1)
    transport = Transport(peer)
    connection.connection_made(transport)
    return connection, transport


def test_room_to_write_is_no_reason_to_read_what_nobody_takes() -> None:
    """Its frames wait for a peer that does not read, while it takes all that we send it."""

    async def story() -> None:
        connection, transport = await accepted(Doors(Limits(), []), ("192.0.2.1", 1))
        connection.pause_writing()
        for _ in range(2):
            connection.recv_messages.put(Frame(Opcode.TEXT, b"null"))
        assert not transport.is_reading()
        connection.resume_writing()
        assert not transport.is_reading()
        await connection.recv_messages.get()
        await connection.recv_messages.get()
        assert transport.is_reading()
        connection.connection_lost(None)

    asyncio.run(story())


def test_room_in_the_queue_is_no_reason_to_read_while_nothing_can_be_written() -> None:
    async def story() -> None:
        connection, transport = await accepted(Doors(Limits(), []), ("192.0.2.1", 1))
        connection.pause_writing()
        connection.data_received(b"GET /ws HTTP/1.1\r\n")
        assert not transport.is_reading()
        connection.resume_writing()
        assert transport.is_reading()
        connection.connection_lost(None)

    asyncio.run(story())


def test_nobody_waits_for_a_lost_connection() -> None:
    async def story() -> None:
        connection, _ = await accepted(Doors(Limits(), []), ("192.0.2.1", 1))
        connection.pause_writing()
        waiting = asyncio.create_task(connection.flushed())
        await asyncio.sleep(0)
        assert not waiting.done()
        connection.connection_lost(None)
        await asyncio.wait_for(waiting, 10)

    asyncio.run(story())


def test_a_peer_without_a_name_is_a_client_like_others() -> None:
    """As macOS accepts a socket whose other end is gone already."""

    async def story() -> None:
        doors = Doors(Limits(max_connections_per_address=1), [])
        connections = [await accepted(doors, None) for _ in range(3)]
        assert [transport.aborted for _, transport in connections] == [False, False, True]
        for connection, _ in connections:
            connection.connection_lost(None)
        _, transport = await accepted(doors, None)
        assert not transport.aborted

    asyncio.run(story())


def test_there_are_so_many_sockets_in_all() -> None:
    async def story() -> None:
        doors = Doors(Limits(max_connections=1), [])
        opened = [
            await accepted(doors, (f"198.51.{number // 250}.{number % 250}", 1))
            for number in range(doors.max_sockets + 1)
        ]
        assert [transport.aborted for _, transport in opened] == [False] * 1001 + [True]
        doors.abort_all()
        assert all(transport.aborted for _, transport in opened)

    asyncio.run(story())
