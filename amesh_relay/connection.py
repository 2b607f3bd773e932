"""One socket, guarded where websockets leaves it to the application.

Before the handshake: a socket that never finishes it holds memory and a file descriptor all
the same, so sockets are counted as soon as they are accepted.

Under backpressure: websockets answers pings without waiting for room and waits without an
end for room to send its own, so a peer that sends and never reads would grow our memory or
stay for ever. Here it is not read from while it does not read, and is cut when that lasts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import ClassVar, Final

from websockets.asyncio.server import ServerConnection

from amesh_relay.addresses import Network, client_address, client_of
from amesh_relay.limits import Limits, Tally

# At least 3 KiB/s, for the 64 KiB frame that may be waiting; a modem of 1998 does that.
SLOW_PEER_SECONDS: Final = 20.0
# Sockets over the limit of connections that may exist for a moment: in the handshake, being
# told that they are too many, or closing. One client may have as many again as it may have
# connections.
SPARE_SOCKETS: Final = 1000


class Doors:
    """All accepted sockets, counted per client and in all."""

    def __init__(self, limits: Limits, trusted_proxies: Sequence[Network]) -> None:
        self._trusted_proxies = trusted_proxies
        self.max_sockets = limits.max_connections + SPARE_SOCKETS
        self._tally: Tally[bytes] = Tally(2 * limits.max_connections_per_address, self.max_sockets)
        self._inside: dict[RelayConnection, bytes] = {}

    def connection_type(self) -> type[RelayConnection]:
        """What websockets is to make connections of, so that they pass these doors."""

        class Connection(RelayConnection):
            doors = self

        return Connection

    def enter(self, connection: RelayConnection) -> bool:
        """Let a socket in; False when it has to go."""
        address = client_address(connection.peer, [], ())
        if any(address in network for network in self._trusted_proxies):
            # Whom a proxy speaks for is not known before the handshake.
            key = connection.id.bytes
        else:
            key = client_of(address)
        if not self._tally.enter(key):
            return False
        self._inside[connection] = key
        return True

    def leave(self, connection: RelayConnection) -> None:
        """A socket is closed, whether it had been let in or not."""
        key = self._inside.pop(connection, None)
        if key is not None:
            self._tally.leave(key)

    def abort_all(self) -> None:
        """Cut all sockets."""
        for connection in list(self._inside):
            connection.transport.abort()


class RelayConnection(ServerConnection):
    """A connection that stops reading while it cannot write, and is cut when that lasts."""

    doors: ClassVar[Doors]
    peer: str
    _stall: asyncio.TimerHandle | None = None
    _writable: asyncio.Event | None = None

    async def flushed(self) -> None:
        """Wait until what was sent is below the write limit, or the connection is lost."""
        if self._writable is not None:
            await self._writable.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: a socket was accepted."""
        super().connection_made(transport)
        # macOS has no name for a peer that is gone before it was accepted.
        name = transport.get_extra_info("peername")
        self.peer = str(ip_address(name[0])) if name else "::"
        if not self.doors.enter(self):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: the socket is closed."""
        super().connection_lost(exc)
        self.doors.leave(self)
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: something came in."""
        super().data_received(data)
        # Here and not in pause_writing: taking a frame from the queue resumes reading too.
        if self.paused:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Called by asyncio: more than the write limit waits to be sent."""
        super().pause_writing()
        self._writable = asyncio.Event()
        self._stall = self.loop.call_later(SLOW_PEER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by asyncio: there is room again."""
        super().resume_writing()
        self._go_on()
        # Unless its queue of frames is full, and wants no more either.
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        if self._stall is not None and self._writable is not None:
            self._stall.cancel()
            self._writable.set()
            self._stall = self._writable = None


def quiet_logger() -> logging.Logger:
    """A logger for websockets that keeps its defects and none of its frames or headers.

    At DEBUG websockets logs what it carries, so its level does not follow ours.
    """
    logger = logging.getLogger("amesh.relay.websockets")
    logger.setLevel(logging.WARNING)
    return logger
