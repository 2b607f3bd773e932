"""Sockets on their way in: the PROXY header first, then the TLS handshake, then a connection.

asyncio could accept and do the TLS by itself, but would tell of a socket only when that is done.
One that never finishes must be counted like any other, and a proxy's header comes before the TLS.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Final, Protocol, cast

from amesh_core.errors import Malformed
from amesh_relay import proxy_protocol
from amesh_relay.addresses import Address, plain
from amesh_relay.connection import Connection

log: Final = logging.getLogger("amesh.relay")

# After a socket could not be accepted, mostly for want of files; as long as asyncio waits.
RETRY_SECONDS: Final = 1.0


class Threshold(Protocol):
    """Where they come in."""

    def connection(self) -> Connection:
        """A connection without a socket yet."""

    def introduces(self, peer: Address) -> bool:
        """Whether its sockets begin with a PROXY header."""


class Entrance:
    """Accepts what comes to one listener."""

    def __init__(
        self, listener: socket.socket, house: Threshold, tls: ssl.SSLContext | None
    ) -> None:
        self._listener = listener
        self._house = house
        self._tls = tls
        # The event loop itself holds tasks only loosely.
        self._arriving: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        """Accept sockets until cancelled; those on their way in are the house's to cut."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            try:
                raw, address = await loop.sock_accept(self._listener)
            except OSError as error:
                log.error("no socket could be accepted: %s", error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(0)  # others have their turn, however many come
            arrival = _Arrival(raw, address)
            connection = self._house.connection()
            if not connection.accepted(arrival):
                continue
            arrival.task = loop.create_task(self._bring_in(raw, connection))
            self._arriving.add(arrival.task)
            arrival.task.add_done_callback(self._arriving.discard)

    async def _bring_in(self, raw: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        is_ours = True
        try:
            if self._house.introduces(connection.peer):
                client = await _client(raw)
                connection.peer = connection.peer if client is None else plain(client)
            is_ours = False  # asyncio closes it from now on
            await loop.connect_accepted_socket(lambda: _Handover(connection), raw, ssl=self._tls)
        except (OSError, Malformed, asyncio.CancelledError):
            # Of a TLS handshake, too; cancelled when it took too long. Who knocks at every door
            # of the internet is not worth a line in the log.
            if is_ours:
                raw.close()
            connection.connection_lost(None)


async def _client(raw: socket.socket) -> Address | None:
    """Read a PROXY header, to its last byte and no further."""
    header = b""
    while missing := proxy_protocol.missing(header):
        more = await asyncio.get_running_loop().sock_recv(raw, missing)
        if not more:
            raise ConnectionResetError
        header += more
    return proxy_protocol.client(header)


class _Arrival(asyncio.Transport):
    """In the place of a transport, as long as there is only a socket."""

    def __init__(self, raw: socket.socket, address: object) -> None:
        super().__init__({"peername": address})
        self._raw = raw
        self.task: asyncio.Task[None] | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written yet."""

    def abort(self) -> None:
        """Cut it."""
        if self.task is None:
            self._raw.close()
        else:
            self.task.cancel()


class _Handover(asyncio.Protocol):
    """Leaves to a connection what asyncio has made of its socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It can begin."""
        # uvloop's transports are no subclass.
        ready = cast(asyncio.Transport, transport)
        self._connection.attach(ready)
        ready.set_protocol(self._connection)
