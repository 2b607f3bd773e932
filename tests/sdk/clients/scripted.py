"""A server that answers by the book, and keeps every byte that came."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from tests.sdk.devices import Device
from tests.sdk.senders import Wire
from tests.support.asgi import PATIENCE_SECONDS, Served, answer

OK: Final = answer("200 OK", body=b"ok")
DROP: Final = b""  # the connection ends without an answer
KEEP: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"  # and the connection stays

Answer = Callable[[Wire], bytes]


@dataclass(frozen=True)
class Scripted(Served):
    """A server, and the requests that came, each whole and with its chunks put together."""

    scheme: str = "http"
    arrived: list[Wire] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def verified(self, by: Device) -> list[Wire]:
        """What arrived, once each signature fits what arrived, with a nonce of its own."""
        nonces = {wire.verified(by).nonce for wire in self.arrived}
        assert len(nonces) == len(self.arrived)
        return self.arrived


@contextmanager
def scripted(*script: bytes | Answer, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Answer the first request with the first of `script`, and so on; the last stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        server = Scripted(host, port, "https" if tls else "http")
        connections: list[socket.socket] = []
        threads: list[threading.Thread] = []
        lock = threading.Lock()

        def next_answer(wire: Wire) -> bytes:
            with lock:
                server.arrived.append(wire)
                reply = script[min(len(server.arrived), len(script)) - 1]
            whole = reply(wire) if callable(reply) else reply
            head, end, body = whole.partition(b"\r\n\r\n")
            return head + end + (b"" if wire.method == b"HEAD" else body)

        def talk(connection: socket.socket) -> None:
            # A client that hangs up, or does not like our certificate.
            with connection, contextlib.suppress(OSError):
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection, connection.makefile("rb") as stream:
                    while (data := _read_request(stream)) is not None:
                        reply = next_answer(Wire(data))
                        connection.sendall(reply)
                        if reply == DROP or b"Connection: close" in reply:
                            return

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(PATIENCE_SECONDS)
                    connections.append(connection)
                    threads.append(threading.Thread(target=talk, args=(connection,)))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            # Closing alone does not wake who waits in accept() or recv().
            for each in (listener, *connections):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in (acceptor, *threads):
                thread.join(PATIENCE_SECONDS)
                assert not thread.is_alive()


def _read_request(stream: BinaryIO) -> bytes | None:
    """Head and body of the next request; the body is put together from its chunks."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := stream.readline()):
            return None
        head += line
    lines = [line.lower() for line in head.split(b"\r\n")]
    if b"transfer-encoding: chunked" in lines:
        body = b""
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
        return head + body
    lengths = [line for line in lines if line.startswith(b"content-length:")]
    return head + stream.read(int(lengths[0].split(b":")[1]) if lengths else 0)


def redirect(status: str, location: str) -> bytes:
    """An answer that sends the client elsewhere."""
    return answer(status, f"Location: {location}")
