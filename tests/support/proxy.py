"""Proxies between a client and a server: one that does whatever a test says, and a real nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.support.asgi import PATIENCE_SECONDS, Served
from tests.support.ports import free_port

NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@dataclass(frozen=True)
class Passing:
    """A request on its way through a proxy; header names in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def read(cls, connection: socket.socket) -> Passing | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ")
        pairs = [line.split(": ", 1) for line in lines]
        headers = tuple((name.lower(), value) for name, value in pairs)
        while len(body) < int(dict(headers).get("content-length", "0")):
            body += connection.recv(65536)
        return cls(method, target, headers, body)

    def with_header(self, name: str, value: str | None) -> Passing:
        kept = tuple(pair for pair in self.headers if pair[0] != name)
        return replace(self, headers=kept if value is None else (*kept, (name, value)))

    def encode(self) -> bytes:
        passed_on = self.with_header("connection", "close")
        if self.body or dict(self.headers).get("content-length"):
            passed_on = passed_on.with_header("content-length", str(len(self.body)))
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in passed_on.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


Change = Callable[[Passing], Passing | bytes]


@contextmanager
def proxy(upstream: Served, change: Change) -> Iterator[Served]:
    """A proxy that passes on what `change` makes of each request, or gives its bytes as answer."""
    failures: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection:
                connection.settimeout(PATIENCE_SECONDS)
                passing = Passing.read(connection)
                if passing is None:
                    return
                passed = change(passing)
                answer = passed if isinstance(passed, bytes) else upstream.send(passed.encode())
                connection.sendall(answer)

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the listener was shut down: the test is over
                    return
                try:
                    serve(connection)
                except (OSError, ValueError) as error:
                    failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield Served(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_SECONDS)
    assert not failures


@contextmanager
def nginx(upstream: Served, directory: Path, *location: str) -> Iterator[Served]:
    """A real nginx with one location, the lines of which may name `{upstream}`."""
    assert NGINX is not None, "this test needs nginx: make parts, or apt-get install nginx-light"
    port = free_port()
    places = "".join(
        f"{kind}_temp_path {directory}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    lines = " ".join(location).replace("{upstream}", upstream.url)
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{ }}\nhttp {{ access_log off; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; {lines} }} }}\n"
    )
    command = [NGINX, "-p", str(directory), "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            served = Served("127.0.0.1", port)
            wait_until_it_listens(served, process)
            yield served
        finally:
            process.terminate()
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait(PATIENCE_SECONDS) == 0, said


def wait_until_it_listens(served: Served, process: subprocess.Popen[bytes]) -> None:
    """Connect until somebody accepts; a process that ended never will."""
    while process.poll() is None:
        try:
            socket.create_connection((served.host, served.port), PATIENCE_SECONDS).close()
        except ConnectionRefusedError:
            continue
        return
    raise AssertionError("the proxy did not start")
