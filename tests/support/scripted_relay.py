"""Relays that do as a test says: cut the line, lie, or say nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from amesh_core.wire import relay as wire


@dataclass
class Device:
    """A device, seen from the relay's end of its socket."""

    socket: ServerConnection

    async def say(self, *frames: wire.RelayFrame) -> None:
        for frame in frames:
            await self.socket.send(wire.encode(frame))

    async def hear(self) -> wire.DeviceFrame:
        return wire.decode_from_device(await self.socket.recv())

    async def payload(self) -> str:
        frame = await self.hear()
        assert isinstance(frame, wire.Data), frame
        return frame.payload

    async def gone(self) -> None:
        """Wait until the device has closed its end."""
        with suppress(ConnectionClosed):
            while True:
                await self.socket.recv()

    def cut(self) -> None:
        """End the line as a lost network does: no closing handshake."""
        self.socket.transport.abort()


@asynccontextmanager
async def scripted(
    script: Callable[[Device], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A relay that runs `script` for each connection; gives its URL. Its failures count."""
    failures: list[BaseException] = []

    async def handle(socket: ServerConnection) -> None:
        try:
            await script(Device(socket))
        except ConnectionClosed:
            pass
        except AssertionError as error:
            failures.append(error)

    async with serve(handle, "127.0.0.1", 0, ssl=tls, ping_interval=None) as server:
        (address,) = [listener.getsockname() for listener in server.sockets]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{address[1]}/ws"
    if failures:
        raise failures[0]


@dataclass
class CuttingRelay:
    """Brings two devices together, hands on `messages` payloads, then cuts both lines."""

    messages: int
    connections: int = 0
    _peers: dict[str, Device] = field(default_factory=dict)
    _met: asyncio.Event = field(default_factory=asyncio.Event)

    async def script(self, device: Device) -> None:
        self.connections += 1
        match await device.hear():
            case wire.Listen():
                self._peers["target"] = device
                await device.say(wire.Ack())
                other = "controller"
            case _:
                self._peers["controller"] = device
                self._met.set()
                other = "target"
        await self._met.wait()
        await device.say(wire.PeerFound())
        while True:
            frame = await device.hear()
            if isinstance(frame, wire.Done):
                continue
            if not self.messages:
                for peer in self._peers.values():
                    peer.cut()
                return
            self.messages -= 1
            assert isinstance(frame, wire.Data)
            await self._peers[other].say(frame)
