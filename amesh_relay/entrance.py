"""A socket on its way in: the PROXY header first, then the TLS handshake, then it is a connection.

asyncio could do the TLS by itself, but would tell of a socket only when that is done. One that
never finishes must be counted like any other, and a proxy's header comes before the TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from amesh_core.errors import Malformed
from amesh_relay import proxy_protocol
from amesh_relay.addresses import Address, plain
from amesh_relay.connection import Connection
from amesh_relay.patience import HANDSHAKE_SECONDS

# What a client may send together with the end of its TLS handshake; the rest is read later.
_EARLY_BYTES: Final = 16 * 1024


class Entrance(asyncio.BufferedProtocol):
    """Stands before one connection until that can begin."""

    def __init__(
        self,
        connection: Connection,
        tls: ssl.SSLContext | None,
        introduces: Callable[[Address], bool],
    ) -> None:
        """`introduces` says whose connections begin with a PROXY header."""
        self._connection = connection
        self._tls = tls
        self._introduces = introduces
        self._transport: asyncio.Transport
        self._header = b""
        self._buffer = bytearray()
        self._early = b""  # came before the connection was ready for it
        self._is_shaking = self._is_gone = False
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted; it counts from now on."""
        # uvloop's transports are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        if not self._connection.accepted(self._transport):
            return
        if self._introduces(self._connection.peer):
            self._expect_header()
        else:
            self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 exactly what is missing
        """Room for what belongs to the header, or for what comes early."""
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        """Something came in."""
        if self._is_shaking:
            self._early += self._buffer[:nbytes]
            return
        self._header += self._buffer[:nbytes]
        self._expect_header()

    def eof_received(self) -> bool:
        """It ends before it began; False closes the socket."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed; nobody else is told twice."""
        if not self._is_gone:
            self._is_gone = True
            self._connection.connection_lost(exc)

    def _expect_header(self) -> None:
        try:
            missing = proxy_protocol.missing(self._header)
            client = None if missing else proxy_protocol.client(self._header)
        except Malformed:
            self._transport.abort()
            return
        self._buffer = bytearray(missing)
        if client is not None:
            self._connection.peer = plain(client)
        if not missing:
            self._go_on()

    def _go_on(self) -> None:
        if self._tls is None:
            self._transport.set_protocol(self._connection)
        else:
            self._is_shaking = True
            self._buffer = bytearray(_EARLY_BYTES)
            self._shaking = asyncio.get_running_loop().create_task(self._shake(self._tls))

    async def _shake(self, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(
                self._transport,
                self,
                tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:  # also every error of TLS, and its time-out
            self.connection_lost(error)
            return
        # It may have gone in the same moment; asyncio then has no transport to give.
        if transport is None or self._is_gone:
            self.connection_lost(None)
            return
        self._connection.attach(transport)
        transport.set_protocol(self._connection)
        if self._early:
            self._connection.take(self._early)
