"""Many processes, one Redis: a request is accepted once, whoever is asked, whatever happens."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.sdk.devices import Device
from tests.sdk.workers import Workers, uvicorn_workers
from tests.support.asgi import PATIENCE_SECONDS, Served, status_of
from tests.support.redis import RedisServer, redis_server

PROGRAM: Final = """
import os
from fastapi import FastAPI, Response
from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.redis import RedisNonceStore

store = RedisNonceStore(os.environ["REDIS_URL"])
app = FastAPI()
app.add_middleware(AuthMeshMiddleware, nonce_store=store, exclude=("/open",))

@app.get("/{path:path}")
async def answer(path: str) -> Response:
    return Response(headers={"X-Process": str(os.getpid())})
"""


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """As docs/redis.md has it, so that a restart forgets nothing."""
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def four(tmp_path: Path, target: Device, durable: RedisServer) -> Iterator[Workers]:
    identity = target.home.directory
    with uvicorn_workers(PROGRAM, tmp_path, identity, 4, REDIS_URL=durable.url) as workers:
        yield workers


def request(device: Device, number: int) -> bytes:
    """A signed request, which may go to any worker."""
    value = device.sign("GET", f"/orders/{number}").decode()
    return _get(f"/orders/{number}", f"Authorization: {value}")


def _get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def processes_of(server: Served, number: int) -> set[bytes]:
    """Ask until that many processes have answered."""
    seen: set[bytes] = set()
    for _ in range(2000):
        head = server.send(_get("/open")).split(b"\r\n\r\n")[0]
        seen |= {line for line in head.split(b"\r\n") if line.lower().startswith(b"x-process")}
        if len(seen) == number:
            break
    return seen


def all_at_once(data: bytes, servers: list[Served], number: int) -> Counter[int]:
    """The statuses of one request, sent over connections that start together."""
    together = threading.Barrier(number)

    def send(index: int) -> int:
        together.wait(PATIENCE_SECONDS)
        return status_of(servers[index % len(servers)].send(data))

    with ThreadPoolExecutor(number) as threads:
        return Counter(threads.map(send, range(number)))


def test_four_workers_accept_a_request_once(four: Workers, controller: Device) -> None:
    assert len(processes_of(four, 4)) == 4
    for number in range(3):
        statuses = all_at_once(request(controller, number), [four], 200)
        assert statuses == {200: 1, 401: 199}


def test_two_machines_accept_a_request_once(
    tmp_path: Path, target: Device, controller: Device, durable: RedisServer
) -> None:
    """Two masters that share nothing but the Redis (and the identity)."""
    with ExitStack() as stack:
        machines: list[Served] = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            machines.append(
                stack.enter_context(
                    uvicorn_workers(
                        PROGRAM,
                        tmp_path / name,
                        target.home.directory,
                        2,
                        REDIS_URL=durable.url,
                    )
                )
            )
        assert all(len(processes_of(machine, 2)) == 2 for machine in machines)
        for number in range(3):
            statuses = all_at_once(request(controller, number), machines, 200)
            assert statuses == {200: 1, 401: 199}


class Load:
    """Eight clients that send requests, and now and then one that was accepted before."""

    def __init__(self, server: Served, device: Device) -> None:
        self._server = server
        self._device = device
        self._numbers = count()
        self._stop = threading.Event()
        self._seen = threading.Condition()
        self.fresh: Counter[int] = Counter()
        self.replayed: Counter[int] = Counter()
        self.accepted: list[bytes] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._seen:
                number = next(self._numbers)
                old = self.accepted[number % len(self.accepted)] if self.accepted else None
            data = request(self._device, number)
            status = status_of(self._server.send(data))
            again = old and status_of(self._server.send(old))
            with self._seen:
                self.fresh[status] += 1
                if status == 200:
                    self.accepted.append(data)
                if again:
                    self.replayed[again] += 1
                self._seen.notify_all()

    def until(self, status: int, more: int) -> None:
        """Wait for so many more answers to fresh requests."""
        with self._seen:
            enough = self.fresh[status] + more
            assert self._seen.wait_for(lambda: self.fresh[status] >= enough, PATIENCE_SECONDS)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


def test_redis_is_killed_and_comes_back_under_load(
    four: Workers, controller: Device, durable: RedisServer
) -> None:
    assert len(processes_of(four, 4)) == 4
    load = Load(four, controller)
    try:
        load.until(200, 100)
        durable.kill()
        load.until(503, 100)
        # Nobody is let in now: neither who is new nor who was there.
        statuses = [status_of(four.send(request(controller, 10**6 + n))) for n in range(20)]
        assert statuses == [503] * 20
        replays = {status_of(four.send(data)) for data in load.accepted[:50]}
        assert replays <= {401, 503}
        durable.start()
        load.until(200, 100)
    finally:
        load.stop()
    assert set(load.fresh) == {200, 503}
    assert set(load.replayed) <= {401, 503}
    # It works again in every process, and what was accepted is known to all of them.
    for data in load.accepted:
        assert status_of(four.send(data)) == 401
    assert all_at_once(request(controller, 10**7), [four], 100) == {200: 1, 401: 99}
    said = "".join(four.log)
    assert f"nonce_store_unreachable: Redis at 127.0.0.1:{durable.port}: " in said
    assert "Traceback" not in said


def test_a_wrong_password_is_503_and_a_clear_line(
    tmp_path: Path, target: Device, controller: Device
) -> None:
    with redis_server(tmp_path, "--requirepass", "right-secret") as server:
        url = server.url.replace("//", "//:wrong-secret@")
        identity = target.home.directory
        with uvicorn_workers(PROGRAM, tmp_path, identity, 1, REDIS_URL=url) as workers:
            answer = workers.send(request(controller, 1))
            assert status_of(answer) == 503
            assert answer.endswith(b'{"error":"unavailable"}')
    said = "".join(workers.log)
    assert "nonce_store_unreachable" in said
    assert "invalid username-password pair" in said
    assert "secret" not in said
