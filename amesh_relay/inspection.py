"""An address of its own for operators: /metrics, /health and /ready, and no devices."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from websockets.http11 import Request, Response

from amesh_relay.connection import READ_BUFFER_BYTES, Connection
from amesh_relay.patience import Patience

# Enough for whoever scrapes, and no more.
MAX_SOCKETS: Final = 16


class Inspection:
    """A `House` of connections that ask one thing and go."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Request], Response],
        clock: Callable[[], float],
    ) -> None:
        self.read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._listener = listener
        self._answer = answer
        self._clock = clock
        self._patience = Patience()
        self._inside: set[Connection] = set()

    async def listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        """Begin to serve."""
        return await loop.create_server(lambda: Connection(self, 0), sock=self._listener)

    def tick(self) -> None:
        """A second is over, more or less."""
        self._patience.tick(self._clock())

    def enter(self, connection: Connection) -> bool:
        """A socket was accepted."""
        if len(self._inside) >= MAX_SOCKETS:
            return False
        self._inside.add(connection)
        self._patience.accepted(connection, self._clock())
        return True

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """What the relay says to plain HTTP; to a device as well."""
        self._patience.answered(connection)
        return self._answer(request)

    def open(self, connection: Connection, request: Request) -> None:
        """Never, as everything has an answer."""
        raise AssertionError(connection, request)

    def receive(self, connection: Connection, message: str | bytes) -> None:
        """Never, as nothing is a WebSocket."""
        raise AssertionError(connection, message)

    def controlled(self, connection: Connection) -> None:
        """Never, as nothing is a WebSocket."""
        raise AssertionError(connection)

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """It does not read, or does again."""
        self._patience.stalled(connection, is_stalled, self._clock())

    def closing(self, connection: Connection) -> None:
        """It has a moment to go."""
        self._patience.closing(connection, self._clock())

    def leave(self, connection: Connection) -> None:
        """A socket is closed."""
        self._patience.gone(connection)
        self._inside.discard(connection)
