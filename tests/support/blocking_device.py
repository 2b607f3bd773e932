"""A device of one thread, over any socket.

The blocking client of websockets reads in a thread of its own. Over TLS that is two threads at one
OpenSSL object, which before Python 3.13 sometimes loses what arrives.
"""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Self

from amesh_core.wire import relay as wire
from tests.support.relay import TEXT, RelayProcess, frame, raw_connection


class BlockingDevice:
    """A WebSocket to a relay; only what a relay sends can be read."""

    def __init__(self, raw: socket.socket, *, lines: bytes = b"") -> None:
        """`lines` are header lines of the request, each with its CRLF."""
        self._raw = raw
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            + lines
            + b"\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._read(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._raw.close()

    def say(self, said: wire.DeviceFrame) -> None:
        """Send a frame."""
        self._raw.sendall(frame(TEXT, wire.encode(said).encode()))

    def hear(self) -> wire.RelayFrame:
        """The next frame, which has to be a text."""
        first, length = self._read(2)
        assert first == 0x80 | TEXT, f"{first:#x} {length}"
        if length == 126:
            length = int.from_bytes(self._read(2), "big")
        return wire.decode_from_relay(self._read(length).decode())

    def listens(self, otc: str) -> wire.RelayFrame:
        """Ask for a code; the answer."""
        self.say(wire.Listen(otc))
        return self.hear()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._raw.recv(count - len(data))
            assert piece, "it hung up"
            data += piece
        return data


def device(
    relay: RelayProcess, *, header: bytes = b"", trust: ssl.SSLContext | None = None
) -> BlockingDevice:
    """A device at a relay, perhaps behind a proxy that says first for whom it speaks."""
    raw = raw_connection(relay)
    raw.sendall(header)
    if trust is not None:
        raw = trust.wrap_socket(raw, server_hostname="127.0.0.1")
    return BlockingDevice(raw)
