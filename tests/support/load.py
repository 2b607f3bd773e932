"""Many devices at once, of a few bytes each: frames are made once, and nothing is checked twice."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Longer than any limit that a ceremony here can run into: who still waits then, hangs.
HUNG_SECONDS: Final = 45

HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_TEXT, _CLOSE = 0x81, 0x88
_LONG: Final = 126  # lengths from here on have two bytes
_CLOSED: Final = bytes([_CLOSE, 0x82, 0, 0, 0, 0, 3, 0xE8])


def frame(**fields: str) -> bytes:
    """A text frame, masked with zeros."""
    text = json.dumps(fields).encode()
    if len(text) < _LONG:
        return bytes([_TEXT, 0x80 | len(text), 0, 0, 0, 0]) + text
    return bytes([_TEXT, 0x80 | _LONG]) + struct.pack("!HI", len(text), 0) + text


class Ended(Exception):
    """What a device was told instead of what it waits for; `lost` when nothing was said."""


@dataclass(slots=True)
class Peer:
    """A device that is connected."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    told: str = ""  # the error before the end

    @classmethod
    async def open(cls, port: int, address: str = "127.0.0.1") -> Peer:
        """Connect and shake hands.

        Raises:
            Ended: nobody is there, or it is refused.
        """
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            writer.write(HANDSHAKE)
            status = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            raise Ended("lost") from None
        if not status.startswith(b"HTTP/1.1 101 "):
            writer.close()
            raise Ended(status.split()[1].decode())
        return cls(reader, writer)

    def say(self, message: bytes) -> None:
        """Send what `frame` made."""
        self.writer.write(message)

    async def hear(self) -> dict[str, str]:
        """The next frame.

        Raises:
            Ended: with the error code that came before the end, if one did.
        """
        try:
            opcode, length = await self.reader.readexactly(2)
            if length == _LONG:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            data = await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            raise Ended(self.told or "lost") from None
        if opcode == _CLOSE:
            raise Ended(self.told or f"closed {int.from_bytes(data[:2], 'big')}")
        message: dict[str, str] = json.loads(data)
        if message["type"] == "error":
            self.told = message["code"]
            return await self.hear()
        return message

    async def expect(self, kind: str) -> dict[str, str]:
        """The next frame, which is of that type."""
        message = await self.hear()
        if message["type"] != kind:
            raise AssertionError(f"{message} instead of {kind}")
        return message

    async def close(self) -> None:
        """Agree to the end, and see the socket closed."""
        try:
            self.writer.write(_CLOSED)
            await self.reader.read()
        except OSError:
            pass
        self.writer.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a ceremony ended for each side: `ok`, or the word that says why not."""

    target: str
    controller: str


Pause = Callable[[str], Awaitable[None]]


async def no_pause(stage: str) -> None:
    """Go on at once."""


class Ceremony:
    """Two devices meet, say four things that name their ceremony, and part."""

    def __init__(
        self, otc: str, target_port: int, controller_port: int, pause: Pause, address: str
    ) -> None:
        self._otc = otc
        self._target_port, self._controller_port = target_port, controller_port
        self._pause = pause
        self._address = address
        self._is_listening: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._words = [frame(type="data", payload=f"{otc} {n} ".ljust(200, "A")) for n in range(4)]

    async def run(self) -> Outcome:
        """Both sides at once; `hung` for one that never comes to an end."""
        target = asyncio.create_task(self._side(self._target))
        controller = asyncio.create_task(self._side(self._controller))
        outcome = await controller
        if outcome != "ok" and outcome != "peer_disconnected" and not self._has_met:
            # Nobody comes any more. A person would stop here; the code would wait for a minute.
            target.cancel()
            try:
                return Outcome(await target, outcome)
            except asyncio.CancelledError:
                return Outcome("stopped", outcome)
        return Outcome(await target, outcome)

    _has_met = False

    async def _side(self, part: Callable[[], Awaitable[None]]) -> str:
        try:
            async with asyncio.timeout(HUNG_SECONDS):
                await part()
        except Ended as end:
            return str(end)
        except TimeoutError:
            return "hung"
        finally:
            if not self._is_listening.done():
                self._is_listening.set_result(False)
        return "ok"

    async def _target(self) -> None:
        await self._pause("before")
        peer = await Peer.open(self._target_port, self._address)
        try:
            peer.say(frame(type="listen", otc=self._otc))
            await peer.expect("ack")
            self._is_listening.set_result(True)
            await peer.expect("peer_found")
            await self._pause("met")
            await self._tell(peer, 0)
            await self._hear(peer, 1)
            await self._pause("halfway")
            await self._tell(peer, 2)
            await self._hear(peer, 3)
            peer.say(frame(type="done"))
            await self._end(peer)
        finally:
            peer.writer.close()

    async def _controller(self) -> None:
        if not await self._is_listening:
            raise Ended("not begun")
        await self._pause("waiting")
        peer = await Peer.open(self._controller_port, self._address)
        try:
            peer.say(frame(type="connect", otc=self._otc))
            await peer.expect("peer_found")
            self._has_met = True
            await self._pause("met")
            await self._hear(peer, 0)
            await self._tell(peer, 1)
            await self._pause("halfway")
            await self._hear(peer, 2)
            await self._tell(peer, 3)
            await peer.expect("done")
            await self._end(peer)
        finally:
            peer.writer.close()

    async def _tell(self, peer: Peer, number: int) -> None:
        peer.say(self._words[number])

    async def _hear(self, peer: Peer, number: int) -> None:
        payload = (await peer.expect("data"))["payload"]
        if not payload.startswith(f"{self._otc} {number} "):
            raise AssertionError(f"{payload[:10]} in ceremony {self._otc}")

    async def _end(self, peer: Peer) -> None:
        try:
            await peer.hear()
        except Ended as end:
            if str(end) != "closed 1000":
                raise
        await peer.close()


class Idle:
    """Connections that are there and do nothing, from a few addresses."""

    def __init__(self, port: int, count: int, first_words: Callable[[int], bytes]) -> None:
        """`first_words` is what each says at once, if anything."""
        self.sockets: list[socket.socket] = []
        batch = 100
        for begin in range(0, count, batch):
            new = [
                socket.create_connection(
                    ("127.0.0.1", port), timeout=HUNG_SECONDS, source_address=(address(n), 0)
                )
                for n in range(begin, min(begin + batch, count))
            ]
            for number, one in enumerate(new, begin):
                one.sendall(HANDSHAKE + first_words(number))
            for one in new:
                said = one.recv(4096)
                if not said.startswith(b"HTTP/1.1 101 "):
                    raise AssertionError(said)
            self.sockets += new

    def close(self) -> None:
        """All of them leave."""
        for one in self.sockets:
            one.close()


def address(number: int) -> str:
    """One of fifty addresses of this machine."""
    return f"127.0.0.{2 + number % 50}"


def allow_files() -> int:
    """Let this process open as many files as it may; returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def resident_bytes(process_id: int) -> int:
    """How much memory a process has."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
