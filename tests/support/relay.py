"""A real relay: `python -m amesh_relay --port 0` in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from amesh_relay import process
from amesh_relay.config import Config
from amesh_relay.server import Relay
from amesh_relay.sockets import bind, url

_LISTENING = re.compile(r"listening on (wss?://(.+):([0-9]+)/ws|unix:.+)\n")
_STOP_SECONDS = 20
_COMMAND = (sys.executable, "-m", "amesh_relay")
_ITS_OWN = ("HOST", "PORT", "PYTHONUNBUFFERED")


@dataclass(frozen=True)
class RelayProcess:
    """A relay that listens; `url` is what devices connect to, or `unix:` and a path."""

    url: str
    host: str
    port: int
    process: subprocess.Popen[str]
    _log: Path

    def log(self) -> str:
        """What it has written to standard error so far."""
        return self._log.read_text(encoding="utf-8")

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has written something to standard error, so many times."""
        until = time.monotonic() + _STOP_SECONDS
        while self.log().count(text) < times:
            assert time.monotonic() < until, f"not said: {text!r}, but {self.log()!r}"
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.02)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(_STOP_SECONDS)


@contextmanager
def relay_process(
    *options: str,
    host: str = "127.0.0.1",
    command: Sequence[str] = _COMMAND,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RelayProcess]:
    """Start a relay and wait until it listens; stop it, and see that it ended well.

    Without a `host` it listens on all addresses. It ends with this process, whatever happens
    to us: its standard input is a pipe of ours.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _ITS_OWN}
    environment |= variables or {}
    where = ("--host", host, "--port", "0") if host else ("--port", "0")
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with (
            log.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                [*command, "--stop-on-eof", "--drain-seconds", "0", *where, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                # Not readline at once: a relay that says nothing must fail, not hang.
                select.select([process.stdout], [], [], _STOP_SECONDS)
                os.set_blocking(process.stdout.fileno(), False)
                line = process.stdout.readline()
                found = _LISTENING.fullmatch(line)
                assert found, f"the relay said {line!r} and {log.read_text(encoding='utf-8')!r}"
                where_it_is = (found[2] or "").strip("[]"), int(found[3] or 0)
                yield RelayProcess(found[1], *where_it_is, process, log)
                if process.poll() is None:
                    process.terminate()
                assert process.wait(_STOP_SECONDS) == 0, log.read_text(encoding="utf-8")
            finally:
                process.kill()


@contextmanager
def relay_url(*options: str) -> Iterator[str]:
    """The URL of a real relay that lives as long as the context."""
    with relay_process(*options) as relay:
        yield relay.url


TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def raw_connection(relay: RelayProcess, *, buffer_bytes: int = 0) -> socket.socket:
    """A plain TCP connection to a relay; with small buffers, if given, of its own."""
    family = socket.AF_INET6 if ":" in relay.host else socket.AF_INET
    raw = socket.socket(family)
    raw.settimeout(_STOP_SECONDS)
    if buffer_bytes:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            raw.setsockopt(socket.SOL_SOCKET, buffer, buffer_bytes)
    raw.connect((relay.host, relay.port))
    return raw


def raw_websocket(relay: RelayProcess, *, buffer_bytes: int = 0) -> socket.socket:
    """A TCP connection on which the WebSocket handshake is over and nothing else is done."""
    raw = raw_connection(relay, buffer_bytes=buffer_bytes)
    raw.sendall(
        b"GET /ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += raw.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return raw


def frame(opcode: int, payload: bytes, *, first_bits: int = 0x80, masked: bool = True) -> bytes:
    """One WebSocket frame (RFC 6455 section 5.2), masked with zeros so that it can be read."""
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        length = bytes([mask | len(payload)])
    elif len(payload) < 65536:
        length = bytes([mask | 126]) + len(payload).to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + len(payload).to_bytes(8, "big")
    return bytes([first_bits | opcode]) + length + (bytes(4) if masked else b"") + payload


def read_to_end(raw: socket.socket) -> bytes:
    """All that a relay still sends until it closes the connection, or cuts it."""
    data = b""
    try:
        while piece := raw.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@dataclass(frozen=True)
class Bystanders:
    """Two devices in a session of their own, to whom nothing may happen."""

    target: ClientConnection
    controller: ClientConnection

    def check(self) -> None:
        """Their session works, both ways, and neither was sent anything else."""
        for sender, receiver in (
            (self.target, self.controller),
            (self.controller, self.target),
        ):
            sender.send(wire.encode(wire.Data("unharmed")))
            assert hear(receiver) == wire.Data("unharmed")


@contextmanager
def bystanders(relay: RelayProcess, otc: str = "999999") -> Iterator[Bystanders]:
    """Let two devices meet, and keep them there."""
    with (
        connect(relay.url, proxy=None) as target,
        connect(relay.url, proxy=None) as controller,
    ):
        target.send(wire.encode(wire.Listen(otc)))
        assert hear(target) == wire.Ack()
        controller.send(wire.encode(wire.Connect(otc)))
        assert hear(target) == hear(controller) == wire.PeerFound()
        yield Bystanders(target, controller)


def hear(device: ClientConnection) -> wire.RelayFrame:
    """The next frame that a device is sent."""
    return wire.decode_from_relay(device.recv(timeout=_STOP_SECONDS))


@asynccontextmanager
async def relay_in_process(
    config: Config | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[str]:
    """The same relay in this event loop, for tests that move its clock; gives its URL."""
    relay = Relay(config or Config(host="127.0.0.1", port=0), clock)

    async def tick() -> None:
        while True:
            await asyncio.sleep(process.TICK_SECONDS)
            relay.tick()

    with bind("127.0.0.1", 0) as listener:
        server = await asyncio.get_running_loop().create_server(relay.connection, sock=listener)
        ticking = asyncio.create_task(tick())
        try:
            yield url(listener)
        finally:
            ticking.cancel()
            server.close()
            await relay.close()
