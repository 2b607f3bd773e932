"""Servers with the middleware and without, one worker, connections kept

The server has one core, what loads it the other. What counts is the time that the server's own
process has on its core for a request, as the other core's load does not touch it. Our share is
all that the middleware adds to the same app beside the one P-256 verification: three servers
run at a time, and take turns.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from amesh_core.crypto import PrivateKey
from amesh_core.identity import Peer, Role, device_id
from amesh_core.io.home import Home
from amesh_core.request import NONCE_BYTES, sign
from amesh_core.settings import Settings
from bench.hello import MARK, PROCESS_ID_DIGITS
from bench.measuring import one_core
from bench.report import Row
from bench.request import BenchKey

TARGET: Final = b"/hello?b=2&a=1"
GOAL_US: Final = 40
ROUNDS: Final = 31
REQUESTS: Final = 400  # in one round, of one server: some 0.1 s
CONNECTIONS: Final = 16

_ANSWER_BYTES: Final = 4096  # more than any of them says
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one interface is served, and the names that bench/hello.py has for it."""

    name: str
    command: Callable[[str, int], list[str]]  # of the app, and of the open socket
    alone: str
    verifying: str
    guarded: str


def _uvicorn(app: str, listener: int) -> list[str]:
    factory = [] if app.endswith("alone") else ["--factory"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    kept = ["--http", "httptools", "--timeout-keep-alive", "60"]
    return ["uvicorn", *factory, *quiet, *kept, "--fd", str(listener), f"bench.hello:{app}"]


def _gunicorn(app: str, listener: int) -> list[str]:
    called = app if app.endswith("alone") else f"{app}()"
    # Of the workers that gunicorn has for WSGI, "sync" closes every connection.
    threads = ["--worker-class", "gthread", "--threads", "1", "--keep-alive", "60"]
    quiet = ["--log-level", "warning", "--no-control-socket"]
    return ["gunicorn", *threads, *quiet, "--bind", f"fd://{listener}", f"bench.hello:{called}"]


_KINDS: Final = (
    _Kind("ASGI, uvicorn", _uvicorn, "asgi_alone", "asgi_verifying", "asgi_guarded"),
    _Kind("WSGI, gunicorn", _gunicorn, "wsgi_alone", "wsgi_verifying", "wsgi_guarded"),
)


def run() -> list[Row]:
    """Measure both interfaces."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return [Row("servers under load", "needs Linux and two cores")]
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(Path(scratch) / "device")
        key = _paired(settings)
        return [row for kind in _KINDS for row in _rows(kind, _measured(kind, settings, key))]


# --- what is shown ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one block of requests took, for each of them."""

    wall_seconds: float
    cpu_seconds: float


def _rows(kind: _Kind, rounds: Sequence[tuple[_Turn, _Turn, _Turn]]) -> list[Row]:
    alone, verifying, guarded = (
        median(turn.cpu_seconds for turn in turns) * 1e6 for turns in zip(*rounds, strict=True)
    )
    # Of each round, as a machine that slows down slows all three of it.
    share = median((ours.cpu_seconds - bare.cpu_seconds) * 1e6 for _, bare, ours in rounds)
    rates = [1 / median(turn.wall_seconds for turn in turns) for turns in zip(*rounds, strict=True)]
    return [
        Row(f"{kind.name}: hello", f"{alone:.0f} us", f"{rates[0]:.0f}/s"),
        Row(f"{kind.name}: and a P-256 verify", f"{verifying:.0f} us", f"{rates[1]:.0f}/s"),
        Row(f"{kind.name}: with the middleware", f"{guarded:.0f} us", f"{rates[2]:.0f}/s"),
        Row(f"{kind.name}: its rate, of hello alone", f"{rates[2] / rates[0]:.0%}"),
        Row(f"{kind.name}: its rate, of hello and a verify", f"{rates[2] / rates[1]:.0%}"),
        Row(
            f"{kind.name}: the middleware without the verify",
            f"{share:.0f} us",
            f"<= {GOAL_US} us",
            share <= GOAL_US,
        ),
    ]


# --- the measurement --------------------------------------------------------------------


def _measured(kind: _Kind, settings: Settings, key: BenchKey) -> list[tuple[_Turn, _Turn, _Turn]]:
    servers_core, own_core = sorted(os.sched_getaffinity(0))[:2]
    with ExitStack() as stack:
        alone, verifying, guarded = (
            stack.enter_context(_serving(kind.command, app, settings, servers_core))
            for app in (kind.alone, kind.verifying, kind.guarded)
        )
        stack.enter_context(one_core(own_core))
        for server in (alone, verifying, guarded):
            server.meet(_signed(key))
        rounds = []
        for _ in range(ROUNDS + 1):
            requests = [_signed(key) for _ in range(REQUESTS)]
            # The two whose difference counts are neighbours.
            rounds.append((alone.turn(requests), verifying.turn(requests), guarded.turn(requests)))
    return rounds[1:]  # the first warms up


class _Server:
    """The connections to one server, and the clock of the process that answers on them."""

    def __init__(self, port: int) -> None:
        # The kernel takes them in before the server is up.
        self._connections = [
            socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS)
            for _ in range(CONNECTIONS)
        ]
        self._clock = 0

    def meet(self, request: bytes) -> None:
        """Ask for the process that answers."""
        self._connections[0].sendall(request)
        process_id = int(_answer(self._connections[0]).rpartition(MARK)[2])
        # What clock_getcpuclockid(3) returns: a clock with nanoseconds, of all its threads.
        self._clock = ~process_id << 3 | 2

    def turn(self, requests: Sequence[bytes]) -> _Turn:
        """Send them all, each connection one at a time."""
        wall, cpu = time.perf_counter(), time.clock_gettime(self._clock)
        busy: deque[socket.socket] = deque()
        for number, request in enumerate(requests):
            # The one that has waited longest: the server has the others to work on.
            connection = busy.popleft() if number >= CONNECTIONS else self._connections[number]
            if number >= CONNECTIONS:
                _answer(connection)
            connection.sendall(request)
            busy.append(connection)
        for connection in busy:
            _answer(connection)
        return _Turn(
            (time.perf_counter() - wall) / len(requests),
            (time.clock_gettime(self._clock) - cpu) / len(requests),
        )

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()


def _answer(connection: socket.socket) -> bytes:
    """One answer, read to its end."""
    answer = b""
    while MARK not in answer or len(answer.rpartition(MARK)[2]) < PROCESS_ID_DIGITS:
        answer += (more := connection.recv(_ANSWER_BYTES))
        if not more or not b"HTTP/1.1 200".startswith(answer[:12]):
            raise RuntimeError(f"the server answered {answer!r}")
    return answer


@contextmanager
def _serving(
    command: Callable[[str, int], list[str]], app: str, settings: Settings, core: int
) -> Iterator[_Server]:
    environment = {**os.environ, "AUTH_MESH_DIR": str(settings.directory)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Inherited by every connection: uvicorn sets it by itself, but not on an inherited socket.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port, number = listener.getsockname()[1], listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", *command(app, number)], env=environment, pass_fds=[number]
        )
    os.sched_setaffinity(process.pid, {core})  # before it starts threads or a worker
    try:
        with closing(_Server(port)) as server:
            yield server
    finally:
        process.terminate()
        process.wait()


def _paired(settings: Settings) -> BenchKey:
    """Make the device that verifies, and the one that it lets in."""
    now = time.time()
    home = Home.create(settings, name="bench", backend="encrypted-file", now=now).home
    key = BenchKey(PrivateKey.generate())
    peer = Peer(device_id(key.public), key.public, "load", Role.CONTROLLER)
    with home.editing_allow_list(now) as edit:
        edit.allow_list = edit.allow_list.record(peer, added_by="handshake", now=now, limit=1)
    return key


def _signed(key: BenchKey) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    value = sign("GET", TARGET, b"", key, now=int(time.time()), nonce=nonce)
    lines = (
        f"GET {TARGET.decode()} HTTP/1.1",
        "Host: 127.0.0.1",
        "Accept: */*",
        "User-Agent: bench",
        f"Authorization: {value}",
    )
    return "\r\n".join([*lines, "\r\n"]).encode()
