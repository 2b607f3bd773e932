"""Real servers, each in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sdk.devices import Device
from tests.support.asgi import Served, read_to_end
from tests.support.cli import environment
from tests.support.ports import free_port

# Generous: two cores run the whole suite, and nothing here waits when all goes well.
PATIENCE_SECONDS = 30

_ROOT = Path(__file__).parents[3]
_APPS = "tests.sdk.servers.apps"
_ADDRESS = r"127\.0\.0\.1:([1-9][0-9]*)"


@dataclass(frozen=True)
class Program:
    """How one server is started; `{port}` in an argument is a port that was free."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    # What it prints when it takes requests; the first address in the log is taken for its own.
    ready: str = r"http://127\.0\.0\.1:[1-9]"

    def __str__(self) -> str:
        return self.name

    def before(self, argument: str, *arguments: str) -> Program:
        """The same with other arguments in front of one of its own."""
        at = self.arguments.index(argument)
        both = (*self.arguments[:at], *arguments, *self.arguments[at:])
        return Program(self.name, both, self.environment, self.ready)

    def with_options(self, *arguments: str, **more: str) -> Program:
        """The same with other arguments behind its own, and more in its environment."""
        return Program(
            self.name, (*self.arguments, *arguments), self.environment | more, self.ready
        )


def asgi(name: str, app: str = "asgi_app:app", **more: str) -> Program:
    """An ASGI server by its name."""
    where = f"{_APPS}.{app}"
    match name:
        case "uvicorn":
            return Program(name, ("-m", "uvicorn", where, "--port", "0"), more)
        case "hypercorn":
            return Program(name, ("-m", "hypercorn", where, "-b", "127.0.0.1:0"), more)
        case "granian":
            # It cannot say which port it took, and says that it listens before it does.
            return Program(name, _granian(where, "asgi"), more, ready=r"Started worker-1")
        case "daphne":
            ready = r"Listening on TCP address"
            return Program(name, ("-m", "daphne", where, "-p", "0"), more, ready)
        case _:
            raise ValueError(name)


def wsgi(name: str, app: str = "wsgi_app:app", **more: str) -> Program:
    """A WSGI server by its name."""
    where = f"{_APPS}.{app}"
    match name:
        case "gunicorn":
            arguments = ("-m", "gunicorn", where, "-b", "127.0.0.1:0", "--no-control-socket")
            return Program(name, arguments, more, ready=r"Booting worker")
        case "waitress":
            return Program(name, ("-m", "waitress", "--listen", "127.0.0.1:0", where), more)
        case "granian":
            return Program(name, _granian(where, "wsgi"), more, ready=r"Started worker-1")
        case _:
            return Program(name, ("-m", f"{_APPS}.plain_servers", name), more)


def _granian(where: str, interface: str) -> tuple[str, ...]:
    return ("-m", "granian", where, "--interface", interface, "--port", "{port}")


AIOHTTP = Program("aiohttp", ("-m", f"{_APPS}.aiohttp_app"))


class Log:
    """What a process wrote, as it comes."""

    def __init__(self) -> None:
        self._text = ""
        self._ended = False
        self._changed = threading.Condition()

    def drain(self, process: subprocess.Popen[str]) -> None:
        """Read until the process, and whatever it started, has closed its output."""
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self._text += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All of it, so far."""
        return self._text

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first place where the pattern matches; fails if that never comes."""

        def found() -> bool:
            return self._ended or re.search(pattern, self._text) is not None

        with self._changed:
            self._changed.wait_for(found, PATIENCE_SECONDS)
        match = re.search(pattern, self._text)
        assert match is not None, f"{pattern!r} is not in:\n{self._text}"
        return match


@dataclass(frozen=True)
class Running(Served):
    """A server that runs."""

    log: Log
    process: subprocess.Popen[str]

    def send_and_leave(self, data: bytes) -> bytes:
        """Send bytes, end our side of the connection, and return what still comes."""
        with socket.create_connection((self.host, self.port), PATIENCE_SECONDS) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            try:
                return read_to_end(connection)
            except ConnectionResetError:
                return b""

    @property
    def served(self) -> int:
        """How many requests its app was given."""
        return int(self.health["served"])

    @property
    def health(self) -> dict[str, Any]:
        """What the open path of its app says."""
        answer = call(self, "GET", "/health")
        assert answer.status == 200, answer.body
        return dict(answer.json)


@contextmanager
def running(program: Program, home: Path, **options: Any) -> Iterator[Running]:
    """Start a server in front of an app that lives in `home`; options are the middleware's."""
    with started(program, home, **options) as (process, log, granted):
        log.wait_for(program.ready)
        port = granted if "{port}" in program.arguments else int(log.wait_for(_ADDRESS)[1])
        wait_until_it_listens(port, process)
        yield Running("127.0.0.1", port, log, process)


def wait_until_it_listens(port: int, process: subprocess.Popen[str]) -> None:
    """Some say that they are ready a moment before one of their workers listens."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
        except ConnectionRefusedError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                break
        else:
            return
    raise AssertionError("the server never listened")


@contextmanager
def started(
    program: Program, home: Path, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], Log, int]]:
    """Start a server, which may fail to; with the port that it may have asked for."""
    more = {
        "HOME": str(home.parent),
        "PYTHONPATH": str(_ROOT),
        "PYTHONUNBUFFERED": "1",
        "TEST_OPTIONS": json.dumps(options),
        **program.environment,
    }
    clean = {k: v for k, v in environment(home).items() if k != "WEB_CONCURRENCY"}
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *(a.replace("{port}", str(port)) for a in program.arguments)],
        cwd=home.parent,
        env=clean | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    log = Log()
    reader = threading.Thread(target=log.drain, args=[process])
    reader.start()
    try:
        yield process, log, port
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            # With its workers, which would go on, and hold the pipe that the log comes from.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_SECONDS)
        reader.join(PATIENCE_SECONDS)
        assert process.stdout is not None
        process.stdout.close()


# --- requests, byte for byte ------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def call(
    server: Served,
    method: str,
    target: str,
    *,
    by: Device | None = None,
    body: bytes = b"",
    pieces: Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
    signed_target: str | None = None,
) -> Answer:
    """One request exactly as it is written here, signed by a device or not at all.

    `pieces` are sent as a chunked body; they must be those of `body`, which is signed.
    """
    lines = dict(headers or {})
    if by is not None:
        value = by.sign(method, target if signed_target is None else signed_target, body)
        lines["Authorization"] = value.decode("ascii")
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_SECONDS)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, text in lines.items():
            connection.putheader(name, text)
        if pieces is not None:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(pieces or body or None, encode_chunked=pieces is not None)
        response = connection.getresponse()
        content = response.read()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, content)
    finally:
        connection.close()


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Do the work in as many threads at one moment; the results in order."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        barrier.wait(PATIENCE_SECONDS)
        results[number] = work(number)

    threads = [threading.Thread(target=one, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return results
