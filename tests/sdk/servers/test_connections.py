"""What is more than a request and an answer: WebSocket, HTTP/2, tasks, and who leaves."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.sdk.devices import Device
from tests.sdk.servers.processes import (
    AIOHTTP,
    PATIENCE_SECONDS,
    Program,
    Running,
    asgi,
    call,
    running,
)

SERVERS = {name: asgi(name) for name in ("uvicorn", "hypercorn", "granian", "daphne")}
WITH_WEBSOCKETS = SERVERS | {"aiohttp": AIOHTTP}


@pytest.fixture(scope="module", params=list(WITH_WEBSOCKETS.values()), ids=list(WITH_WEBSOCKETS))
def talking(
    request: pytest.FixtureRequest, target: Device, controller: Device
) -> Iterator[Running]:
    assert isinstance(request.param, Program)
    with running(request.param, target.home.directory) as server:
        yield server


def test_a_websocket_is_verified_at_its_handshake(
    talking: Running, controller: Device, stranger: Device
) -> None:
    url = f"ws://127.0.0.1:{talking.port}/ws?room=1"
    signed = {"Authorization": controller.sign("GET", "/ws?room=1").decode()}
    with connect(url, additional_headers=signed, proxy=None) as one:
        one.send("hello")
        assert one.recv(PATIENCE_SECONDS) == "laptop said hello"
    for headers in (
        signed,  # once is enough
        {},
        {"Authorization": stranger.sign("GET", "/ws?room=1").decode()},
        {"Authorization": controller.sign("GET", "/ws?room=2").decode()},
    ):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(url, additional_headers=headers, proxy=None),
        ):
            pass
        assert refused.value.response.status_code in (400, 401, 403)


@pytest.fixture(scope="module", params=list(SERVERS.values()), ids=list(SERVERS))
def server(request: pytest.FixtureRequest, target: Device, controller: Device) -> Iterator[Running]:
    assert isinstance(request.param, Program)
    with running(request.param, target.home.directory) as one:
        yield one


def test_a_background_task_runs(server: Running, controller: Device) -> None:
    assert call(server, "POST", "/later", by=controller).json == {"status": "taken"}
    server.log.wait_for("mark: done")


def test_an_app_notices_when_its_client_leaves(server: Running, controller: Device) -> None:
    value = controller.sign("GET", "/forever/").decode()
    head = f"GET /forever/ HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n\r\n"
    with socket.create_connection((server.host, server.port), PATIENCE_SECONDS) as connection:
        connection.sendall(head.encode("ascii"))
        assert connection.recv(12) == b"HTTP/1.1 200"
    server.log.wait_for("mark: left")
    assert call(server, "GET", "/echo/x", by=controller).status == 200


def test_http_2(target: Device, controller: Device) -> None:
    """hypercorn, without TLS; the same bytes are signed, whatever carries them."""
    with running(asgi("hypercorn"), target.home.directory) as server:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing here speaks TLS

        def headers(method: str, path: str, body: bytes) -> dict[str, str]:
            return {"Authorization": controller.sign(method, path, body).decode()}

        async def many() -> list[httpx.Response]:
            async with httpx.AsyncClient(
                http1=False, http2=True, trust_env=False, verify=tls, base_url=server.url
            ) as client:
                requests = [
                    client.post(
                        f"/echo/{n}%2Fx?b=2&a=1",
                        content=b"%d" % n,
                        headers=headers("POST", f"/echo/{n}%2Fx?b=2&a=1", b"%d" % n),
                    )
                    for n in range(20)
                ]
                good = await asyncio.gather(*requests)
                again = {"Authorization": good[0].request.headers["Authorization"]}
                bad = await client.post("/echo/0%2Fx?b=2&a=1", content=b"0", headers=again)
                none = await client.get("/echo/x")
                return [*good, bad, none]

        *good, bad, none = asyncio.run(many())
    assert {answer.http_version for answer in (*good, bad, none)} == {"HTTP/2"}
    assert [answer.status_code for answer in good] == [200] * 20
    assert [answer.json()["path"] for answer in good] == [f"/echo/{n}/x" for n in range(20)]
    assert [bytes.fromhex(answer.json()["body"]) for answer in good] == [
        b"%d" % n for n in range(20)
    ]
    assert (bad.status_code, bad.content) == (401, b'{"error":"unauthorized"}')
    assert none.status_code == 400
