"""Sockets around the hub; nothing is decided here (docs/protocol.md section 4).

A frame comes in, the hub says what to do, and that is done at once and in order. Then the
connection whose frame it was, and no other, is not read from until all of it is written: a
peer that does not read stalls who sends to it, and nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from itertools import count
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from amesh_core.errors import BadFrame
from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode
from amesh_relay.addresses import client_address, client_of
from amesh_relay.config import Config
from amesh_relay.connection import READ_BUFFER_BYTES, Connection
from amesh_relay.doors import Doors
from amesh_relay.hub import Hub
from amesh_relay.limits import Timers
from amesh_relay.roles import Deliver, Effect, Hangup

log: Final = logging.getLogger("amesh.relay")

BACKLOG: Final = 4096
TICK_SECONDS: Final = 1.0
# How late what runs out may be noticed while others speak.
RESOLUTION_SECONDS: Final = 0.1
HANDSHAKE_SECONDS: Final = 10.0
# A peer that is gone without a word is noticed after twice that.
PING_SECONDS: Final = 20.0
# At least 3 KiB/s, for the 64 KiB frame that may be waiting; a modem of 1998 does that.
SLOW_PEER_SECONDS: Final = 20.0
# How long the closing handshake of a connection may take, and of all of them at our own end.
CLOSE_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0
GOING_AWAY: Final = 1001


class Relay:
    """One relay: a hub, and the sockets it talks through."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never runs backwards."""
        self.read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._config = config
        self._clock = clock
        self._hub = Hub(config.limits)
        self._doors = Doors(config.limits, config.trusted_proxies)
        self._numbers = count(1)
        self._sockets: dict[int, Connection] = {}
        self._inside: set[Connection] = set()
        self._shaking: Timers[Connection] = Timers(HANDSHAKE_SECONDS)
        self._asking: Timers[Connection] = Timers(PING_SECONDS)
        self._slow: Timers[Connection] = Timers(SLOW_PEER_SECONDS)
        self._closing: Timers[Connection] = Timers(CLOSE_SECONDS)
        self._next_tick = 0.0
        self._busy: list[Connection] = []  # who sent something within this second
        self._empty = asyncio.Event()

    @property
    def max_sockets(self) -> int:
        """How many sockets may be open at a time."""
        return self._doors.max_sockets

    async def run(
        self, listener: socket.socket, stop: asyncio.Event, started: Callable[[], None]
    ) -> None:
        """Serve until `stop` is set, then close every connection with 1001."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self, next(self._numbers)), sock=listener, backlog=BACKLOG
        )
        try:
            # A task group, so that a defect in the ticking ends the process instead of leaving
            # a relay behind in which no code ever expires.
            async with asyncio.TaskGroup() as tasks:
                ticking = tasks.create_task(self._tick())
                started()
                await stop.wait()
                ticking.cancel()
        finally:
            log.info("stopping with %d connections open", len(self._sockets))
            server.close()
            await self._close()

    async def _close(self) -> None:
        for connection in list(self._inside):
            if connection.is_open:
                connection.close(GOING_AWAY)
                connection.flush()
            else:
                connection.abort()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            for connection in list(self._inside):
                connection.abort()
            await asyncio.sleep(0)  # asyncio tells of a cut socket in its next turn

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._now()
            busy, self._busy = self._busy, []
            for connection in busy:
                connection.messages = 0
                connection.let_go(self)
            for connection in self._shaking.due(now):
                connection.abort()
            for connection in self._slow.due(now):
                connection.abort()
            for connection in self._closing.due(now):
                connection.abort()
            for connection in self._asking.due(now):
                if connection.is_alive:
                    connection.ping()
                    self._asking.start(connection, now)
                else:
                    connection.abort()

    def _now(self) -> float:
        """The time; what it has run out for is ended first, and nobody waits for that."""
        now = self._clock()
        # Not at every frame: to look for what ran out costs as much as a frame does.
        if now >= self._next_tick:
            self._next_tick = now + RESOLUTION_SECONDS
            self._perform(self._hub.tick(now))
        return now

    # --- what a connection tells (connection.House) -------------------------------------

    def enter(self, connection: Connection) -> bool:
        """A socket was accepted."""
        if not self._doors.enter(connection.number, connection.peer):
            return False
        self._inside.add(connection)
        self._shaking.start(connection, self._clock())
        return True

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """Plain HTTP is answered here."""
        self._shaking.stop(connection)
        match request.path.partition("?")[0]:
            case "/ws":
                return None
            case "/health":
                state = {
                    "status": "ok",
                    "connections": self._hub.connections,
                    "sessions": self._hub.sessions,
                }
                return _response(HTTPStatus.OK, "application/json", json.dumps(state) + "\n")
            case _:
                return _response(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "not found\n")

    def open(self, connection: Connection, request: Request) -> None:
        """A WebSocket is found a place at the hub."""
        forwarded = request.headers.get_all("X-Forwarded-For")
        address = client_address(connection.peer, forwarded, self._config.trusted_proxies)
        now = self._now()
        self._sockets[connection.number] = connection
        self._asking.start(connection, now)
        log.debug("connection %d is open", connection.number)
        self._perform(self._hub.connect(connection.number, client_of(address), now))

    def receive(self, connection: Connection, message: str | bytes) -> None:
        """A message is here."""
        number = connection.number
        connection.messages += 1
        if connection.messages == 1:
            self._busy.append(connection)
        elif connection.messages > self._config.limits.max_messages_per_second:
            connection.hold_back(self)  # until the next second
        try:
            frame = wire.decode_from_device(message)
        except BadFrame as error:
            log.debug("connection %d sent something malformed", number)
            effects = self._hub.refuse(number, ErrorCode(error.relay_code), self._now())
        else:
            effects = self._hub.receive(number, frame, self._now())
        for touched in self._perform(effects):
            connection.hold_back_for(touched)

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """It does not read, or it does again."""
        if is_stalled:
            self._slow.start(connection, self._clock())
        else:
            self._slow.stop(connection)

    def closing(self, connection: Connection) -> None:
        """It has a moment to agree to its end."""
        self._asking.stop(connection)
        self._closing.start(connection, self._clock())

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        for timers in (self._shaking, self._asking, self._slow, self._closing):
            timers.stop(connection)
        if connection in self._inside:
            self._inside.remove(connection)
            self._doors.leave(connection.number)
        if connection.number in self._sockets:
            self._perform(self._hub.disconnect(connection.number, self._now()))
            # Last: until then the hub may still speak of it, though nothing is sent any more.
            del self._sockets[connection.number]
            log.debug("connection %d is closed", connection.number)
        if not self._inside:
            self._empty.set()

    def _perform(self, effects: Iterable[Effect]) -> list[Connection]:
        """Do what the hub says, in its order, which is the order on the wire.

        Returns the connections that were written to; who caused it waits until they have room.
        """
        touched: dict[Connection, None] = {}
        for effect in effects:
            connection = self._sockets[effect.to]
            match effect:
                case Deliver(frame=frame):
                    connection.send(wire.encode(frame))
                case Hangup(close_code=code):
                    connection.close(code)
            touched[connection] = None
        for connection in touched:
            connection.flush()
        return list(touched)


def _response(status: HTTPStatus, content_type: str, body: str) -> Response:
    data = body.encode()
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(data)),
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, data)
