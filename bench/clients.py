"""Signing clients against bare ones, and the nonce store in Redis against a bare SET

What the client's own process spends on a call over a kept connection, with a signature and
without, in turn; the server answers at once, in another process.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
import httpx2
import redis
import redis.asyncio
import requests

from amesh_core.identity import DeviceKey
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_sdk import Amesh
from amesh_sdk.redis import RedisNonceStore
from bench import measuring
from bench.measuring import Comparison, one_core
from bench.report import Row

CALLS: Final = 1000
GOAL_US: Final = 60
ROUNDS: Final = 31  # of 50 calls, each of which is a system call or ten
DEVICE: Final = "am_0123456789abcdef"

_MESSAGE: Final = b"x" * 120

# Bytes enough to be an HTTP server for GET.
SERVER: Final = """
import asyncio

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.endswith(b"\\r\\n\\r\\n"):
            self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def run() -> list[Row]:
    """Measure each client, and the store."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(Path(scratch) / "device")
        Home.create(settings, name="bench", backend="encrypted-file", now=time.time())
        amesh = Amesh(settings)
        key = Home.open(settings).key()
        with _server() as url, one_core():
            rows = [*_in_threads(amesh, key, url), *_in_loops(amesh, key, url)]
    if shutil.which("redis-server") is None:
        return [*rows, Row("RedisNonceStore", "no redis-server")]
    with _redis() as url, one_core():
        return [*rows, *_store(url)]


# --- clients ----------------------------------------------------------------------------


def _in_threads(amesh: Amesh, key: DeviceKey, url: str) -> list[Row]:
    with (
        httpx2.Client(trust_env=False) as bare,
        httpx2.Client(auth=amesh.auth(), trust_env=False) as ours,
    ):
        rows = _more(
            "httpx2.Client",
            lambda: bare.get(url),
            lambda: (bare.get(url), _sign(key)),
            lambda: ours.get(url),
        )
    with requests.Session() as session, amesh.requests_session() as signing:
        session.trust_env = signing.trust_env = False
        return [
            *rows,
            *_more(
                "requests.Session",
                lambda: session.get(url),
                lambda: (session.get(url), _sign(key)),
                lambda: signing.get(url),
            ),
        ]


def _in_loops(amesh: Amesh, key: DeviceKey, url: str) -> list[Row]:
    async def httpx2_clients() -> Pair:
        bare = httpx2.AsyncClient(trust_env=False)
        ours = httpx2.AsyncClient(auth=amesh.auth(), trust_env=False)
        return lambda: bare.get(url), lambda: ours.get(url), (bare.aclose, ours.aclose)

    async def aiohttp_sessions() -> Pair:
        bare = aiohttp.ClientSession()
        ours = aiohttp.ClientSession(middlewares=(amesh.aiohttp_middleware(url),))

        async def get(session: aiohttp.ClientSession) -> None:
            async with session.get(url) as response:
                await response.read()

        return lambda: get(bare), lambda: get(ours), (bare.close, ours.close)

    rows = []
    for name, make in (
        ("httpx2.AsyncClient", httpx2_clients),
        ("aiohttp.ClientSession", aiohttp_sessions),
    ):
        with _in_a_loop(make) as (bare, ours):
            rows += _more(name, bare, _followed_by(bare, lambda: _sign(key)), ours)
    return rows


def _followed_by(call: Callable[[], object], after: Callable[[], object]) -> Callable[[], object]:
    return lambda: (call(), after())


def _sign(key: DeviceKey) -> bytes:
    return key.sign(_MESSAGE)


def _more(
    name: str,
    bare: Callable[[], object],
    with_signature: Callable[[], object],
    ours: Callable[[], object],
) -> list[Row]:
    """What signing adds, and how much of that is not the signature.

    A signature just after a call costs two or three times what it does in a row of its own: it
    reads 150 KB of tables, and each call has put others into the processor's caches.
    """
    times = measuring.in_turn(bare, with_signature, ours, rounds=ROUNDS, calls=50)
    alone_us = median(one for one, _, _ in times) * 1e6
    more_us = median(three - one for one, _, three in times) * 1e6
    own_us = median(three - two for _, two, three in times) * 1e6
    return [
        Row(f"{name}, bare", f"{alone_us:.0f} us"),
        Row(f"{name}, signing", f"+{more_us:.0f} us", f"<= {GOAL_US} us", more_us <= GOAL_US),
        Row(f"{name}, signing, without the P-256 sign", f"{own_us:+.0f} us"),
    ]


Call = Callable[[], Awaitable[object]]
Pair = tuple[Call, Call, tuple[Call, ...]]  # the two that are compared, and what closes them


@contextmanager
def _in_a_loop(
    make: Callable[[], Awaitable[Pair]],
) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Two coroutine functions, to be called; what it takes to enter the loop falls on both."""

    async def done(call: Call) -> object:
        return await call()

    async def made() -> Pair:
        return await make()

    loop = asyncio.new_event_loop()
    try:
        bare, ours, closing = loop.run_until_complete(made())
        yield (
            lambda: loop.run_until_complete(done(bare)),
            lambda: loop.run_until_complete(done(ours)),
        )
        for close in closing:
            loop.run_until_complete(done(close))
    finally:
        loop.close()


def compare(bare: Callable[[], object], ours: Callable[[], object]) -> Comparison:
    """As in bench/measuring.py, shorter."""
    return measuring.compare(bare, ours, rounds=ROUNDS, calls=50)


@contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


# --- the store --------------------------------------------------------------------------


def _store(url: str) -> list[Row]:
    store = RedisNonceStore(url)
    numbers = count()

    async def asynchronous() -> Pair:
        client = redis.asyncio.Redis.from_url(url)
        return (
            lambda: client.set(f"bare:{next(numbers)}", 1, nx=True, ex=60),
            lambda: store.aspend(DEVICE, str(next(numbers)), 60),
            (client.aclose, store.aclose),
        )

    with redis.Redis.from_url(url) as client:
        seen = compare(
            lambda: client.set(f"bare:{next(numbers)}", 1, nx=True, ex=60),
            lambda: store.spend(DEVICE, str(next(numbers)), 60),
        )
        before = _commands(client)
        for _ in range(CALLS):
            store.spend(DEVICE, str(next(numbers)), 60)
        commands = _commands(client) - before - 1  # the question itself
    store.close()
    with _in_a_loop(asynchronous) as (bare, ours):
        aseen = compare(bare, ours)
    return [
        Row("redis-py SET", f"{seen.bare_seconds * 1e6:.0f} us"),
        Row("RedisNonceStore.spend", f"{seen.ours_seconds * 1e6:.0f} us"),
        Row("redis-py SET, asyncio", f"{aseen.bare_seconds * 1e6:.0f} us"),
        Row("RedisNonceStore.aspend", f"{aseen.ours_seconds * 1e6:.0f} us"),
        Row("commands for one spend", f"{commands / CALLS:.2f}", "1", commands == CALLS),
    ]


def _commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


@contextmanager
def _redis() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "Ready to accept connections" in line:
                    break
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
