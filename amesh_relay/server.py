"""Sockets around the hub; nothing is decided here (docs/protocol.md section 4).

A frame comes in, the hub says what to do, and that is done at once and in order. Only then
the connection whose frame it was, and no other, waits until all of it is written: a peer
that does not read stalls who sends to it, and nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from itertools import count
from typing import Final, cast

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from amesh_core.errors import BadFrame
from amesh_core.wire import relay as wire
from amesh_core.wire.relay import MAX_FRAME_BYTES, ErrorCode
from amesh_relay.addresses import client_address, client_of
from amesh_relay.config import Config
from amesh_relay.connection import Doors, RelayConnection, quiet_logger
from amesh_relay.hub import Hub
from amesh_relay.roles import Deliver, Effect, Hangup

log: Final = logging.getLogger("amesh.relay")

BACKLOG: Final = 4096
TICK_SECONDS: Final = 1.0
HANDSHAKE_SECONDS: Final = 10.0
# A peer that is gone without a word is noticed after twice that and CLOSE_SECONDS.
PING_SECONDS: Final = 20.0
# How long the closing handshake of a connection may take, and of all of them at our own end.
CLOSE_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0


class Relay:
    """One relay: a hub, and the sockets it talks through."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never runs backwards."""
        self._config = config
        self._clock = clock
        self._hub = Hub(config.limits)
        self._doors = Doors(config.limits, config.trusted_proxies)
        self._numbers = count(1)
        self._sockets: dict[int, RelayConnection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def max_sockets(self) -> int:
        """How many sockets may be open at a time."""
        return self._doors.max_sockets

    async def run(
        self, listener: socket.socket, stop: asyncio.Event, started: Callable[[], None]
    ) -> None:
        """Serve until `stop` is set, then close every connection with 1001."""
        server = await serve(
            self._handle,
            sock=listener,
            backlog=BACKLOG,
            process_request=self._answer_http,
            create_connection=self._doors.connection_type(),
            logger=quiet_logger(),
            server_header=None,
            # Compression costs 32 KiB a connection, and what is sent does not compress.
            compression=None,
            max_size=MAX_FRAME_BYTES,
            max_queue=4,  # frames of 64 KiB that wait for a peer which does not read
            write_limit=32768,
            open_timeout=HANDSHAKE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=CLOSE_SECONDS,
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
            await self._close(server)

    async def _close(self, server: Server) -> None:
        server.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await server.wait_closed()
        except TimeoutError:
            self._doors.abort_all()
            await server.wait_closed()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._now()

    def _now(self) -> float:
        """The time; what it has run out for is ended first, and nobody waits for that."""
        now = self._clock()
        self._perform(self._hub.tick(now))
        return now

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        match request.path.partition("?")[0]:
            case "/ws":
                return None
            case "/health":
                state = {
                    "status": "ok",
                    "connections": self._hub.connections,
                    "sessions": self._hub.sessions,
                }
                response = connection.respond(HTTPStatus.OK, json.dumps(state) + "\n")
                del response.headers["Content-Type"]
                response.headers["Content-Type"] = "application/json"
                return response
            case _:
                return connection.respond(HTTPStatus.NOT_FOUND, "not found\n")

    async def _handle(self, connection: ServerConnection) -> None:
        # There are no others: `run` says what connections are made of.
        socket = cast(RelayConnection, connection)
        number = next(self._numbers)
        self._sockets[number] = socket
        log.debug("connection %d is open", number)
        try:
            forwarded = socket.request.headers.get_all("X-Forwarded-For") if socket.request else []
            address = client_address(socket.peer, forwarded, self._config.trusted_proxies)
            self._perform(self._hub.connect(number, client_of(address), self._now()))
            async for text in socket:
                for written_to in self._perform(self._frame(number, text)):
                    await written_to.flushed()
                # Frames that wait already are taken without a pause: let others have a turn.
                await asyncio.sleep(0)
        except ConnectionClosed:
            pass  # how it ended makes no difference
        finally:
            self._perform(self._hub.disconnect(number, self._now()))
            # Last: until then the hub may still speak of it, though nothing is sent any more.
            del self._sockets[number]
            log.debug("connection %d is closed", number)

    def _frame(self, number: int, text: str | bytes) -> list[Effect]:
        try:
            frame = wire.decode_from_device(text)
        except BadFrame as error:
            log.debug("connection %d sent something malformed", number)
            return self._hub.refuse(number, ErrorCode(error.relay_code), self._now())
        return self._hub.receive(number, frame, self._now())

    def _perform(self, effects: Iterable[Effect]) -> list[RelayConnection]:
        """Do what the hub says, without waiting, so that its order is the order on the wire.

        Returns the sockets that were written to; who caused it waits for them to be flushed.
        """
        touched = []
        for effect in effects:
            socket = self._sockets[effect.to]
            match effect:
                case Deliver(frame=frame):
                    broadcast((socket,), wire.encode(frame))
                    touched.append(socket)
                case Hangup(close_code=code):
                    # A task: the closing handshake waits for the other end.
                    task = asyncio.get_running_loop().create_task(socket.close(code))
                    self._closing.add(task)
                    task.add_done_callback(self._closing.discard)
        return touched
