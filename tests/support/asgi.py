"""Drive an ASGI app by hand, serve one for real, and speak HTTP without a library."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import uvicorn

PATIENCE_SECONDS: Final = 20

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


# --- by hand ----------------------------------------------------------------------------


@dataclass
class Exchange:
    """What one run of an app read and sent."""

    sent: list[Message] = field(default_factory=list)
    messages_read: int = 0

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers of the answer."""
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """The body of the answer."""
        return b"".join(message["body"] for message in self.sent[1:])


def scope_of(
    method: str = "GET",
    target: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    **other: Any,
) -> dict[str, Any]:
    """The scope that a conforming server makes of a request."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    } | other


def body_of(*chunks: bytes) -> list[Message]:
    """The messages in which a server hands over a body."""
    *first, last = chunks or (b"",)
    return [
        *({"type": "http.request", "body": chunk, "more_body": True} for chunk in first),
        {"type": "http.request", "body": last, "more_body": False},
    ]


async def exchange(app: App, scope: Scope, incoming: Iterable[Message]) -> Exchange:
    """Run the app on one connection; reading past the end of `incoming` is a failure."""
    result = Exchange()
    messages = iter(incoming)

    async def receive() -> Message:
        result.messages_read += 1
        for message in messages:
            return message
        raise AssertionError("the app read more than there is")

    async def send(message: Message) -> None:
        result.sent.append(message)

    await app(scope, receive, send)
    return result


def run(app: App, scope: Scope, incoming: Iterable[Message] = ()) -> Exchange:
    """`exchange` in an event loop of its own."""
    return asyncio.run(exchange(app, scope, incoming))


# --- for real ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A server that listens on localhost."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    def send(self, data: bytes) -> bytes:
        """Send bytes as they are, and return everything until the server hangs up."""
        with socket.create_connection((self.host, self.port), PATIENCE_SECONDS) as connection:
            connection.sendall(data)
            return read_to_end(connection)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


def status_of(answer: bytes) -> int:
    """The status of an HTTP/1 answer."""
    return int(answer.split(b" ", 2)[1])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()


@contextmanager
def serving(app: App, **config: Any) -> Iterator[Served]:
    """The app under a real uvicorn, in a thread of this process."""
    options: dict[str, Any] = {"log_config": None, "lifespan": "on"} | config
    server = _Server(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.settled.wait(PATIENCE_SECONDS)
        assert server.started, "the server did not start"
        yield Served(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@contextmanager
def listening(answer: Callable[[bytes], bytes], *, connections: int = 1) -> Iterator[Served]:
    """A server of a few lines, which sees each request exactly as it was sent.

    `answer` gets a whole request, head and body; every connection serves one.
    """
    failures: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)

        def work() -> None:
            for _ in range(connections):
                try:
                    connection, _ = listener.accept()
                    with connection:
                        connection.settimeout(PATIENCE_SECONDS)
                        connection.sendall(answer(_read_request(connection)))
                except OSError as error:
                    failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        yield Served(*listener.getsockname())
        thread.join(PATIENCE_SECONDS)
    assert not failures
    assert not thread.is_alive(), "fewer connections came than were expected"


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 answer after which the connection ends."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
