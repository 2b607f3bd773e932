"""What a ceremony costs below Python's part of it: accept, receive, send and close, and the loop.

It knows nothing but the bytes of tests/support/load.py: no HTTP, no WebSocket, no JSON is parsed.
What bench/relay.py shows for it is the floor for every relay in this process on this machine.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Final, cast

_WELCOME: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
_CLOSE: Final = b"\x88\x02\x03\xe8"
_ACK: Final = b'{"type":"ack"}'
_FOUND: Final = b'{"type":"peer_found"}'
_waiting: Final[dict[bytes, Bare]] = {}


def _short(text: bytes) -> bytes:
    return bytes([0x81, len(text)]) + text


class Bare(asyncio.Protocol):
    """One device."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport
        self.peer = self
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """It sent one frame, or its handshake; the frames are masked with zeros."""
        if not self.is_open:
            self.is_open = True
            self.transport.write(_WELCOME)
        elif data[0] == _CLOSE[0]:
            self.transport.close()
        elif b'"listen"' in data:
            _waiting[data[-8:]] = self
            self.transport.write(_short(_ACK))
        elif b'"connect"' in data:
            self.peer = _waiting.pop(data[-8:])
            self.peer.peer = self
            for one in (self.peer, self):
                one.transport.write(_short(_FOUND))
        elif b'"done"' in data:
            self.peer.transport.write(_short(data[6:]) + _CLOSE)
            self.transport.write(_CLOSE)
        else:
            self.peer.transport.write(data[:1] + bytes([126]) + data[2:4] + data[8:])


async def main() -> None:
    """Serve until killed, and say where."""
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on ws://127.0.0.1:{port}/ws", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop) as runner:
        runner.run(main())
