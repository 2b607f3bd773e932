"""amesh.fetch and amesh.afetch against a real server, one at a time and many."""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from amesh_sdk import httpx as signing
from tests.sdk.devices import Device
from tests.sdk.senders import OK, Wire
from tests.support.asgi import (
    PATIENCE_SECONDS,
    Receive,
    Scope,
    Send,
    Served,
    answer,
    listening,
    serving,
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the id of the caller and the body it sent."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = (await receive())["body"]
    identity = scope["state"]["auth_mesh"].device_id.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": identity + b" " + body})


@pytest.fixture
def served(target: Device, controller: Device) -> Any:
    with serving(target.protect(echo)) as server:
        yield server


@pytest.mark.parametrize("number", [12, 50])
def test_parallel_calls_all_succeed(
    served: Served, controller: Device, derivations: list[int], number: int
) -> None:

    async def main() -> list[tuple[int, str]]:
        calls = (
            controller.amesh.afetch(f"{served.url}/{n}", method="POST", data=str(n))
            for n in range(number)
        )
        return [(r.status_code, r.text) for r in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == [(200, f"{controller.device_id} {n}") for n in range(number)]
    assert len(derivations) == 1


def test_sixteen_threads_share_one_client(
    served: Served, controller: Device, derivations: list[int]
) -> None:
    together = threading.Barrier(16)
    with httpx2.Client(auth=controller.amesh.auth(), trust_env=False) as client:

        def calls(number: int) -> list[str]:
            together.wait(PATIENCE_SECONDS)
            bodies = [f"{number}.{n}" for n in range(10)]
            return [client.post(served.url, content=body).text for body in bodies]

        with ThreadPoolExecutor(16) as threads:
            results = list(threads.map(calls, range(16)))
    assert results == [
        [f"{controller.device_id} {number}.{n}" for n in range(10)] for number in range(16)
    ]
    assert len(derivations) == 1


def test_fetch_in_every_spelling_of_a_body(served: Served, controller: Device) -> None:
    def text(**arguments: Any) -> str:
        response = controller.amesh.fetch(served.url + "/x", method="POST", **arguments)
        assert response.status_code == 200
        device_id, _, body = response.text.partition(" ")
        assert device_id == controller.device_id
        return body

    assert text(json={"a": [1, None]}) == '{"a":[1,null]}'
    assert text(data={"a": "1", "b": "2"}) == "a=1&b=2"
    assert text(data="text as it is") == "text as it is"
    assert text(data=b"bytes") == "bytes"
    assert text(content=b"bytes") == "bytes"
    assert text(content=iter([b"one", b"two"])) == "onetwo"
    assert text() == ""
    assert text(params={"a": "1"}, headers={"X-Y": "z"}, timeout=10) == ""


def test_fetch_keeps_no_cookies(controller: Device) -> None:
    arrived: list[bytes] = []

    def take(data: bytes) -> bytes:
        arrived.append(data)
        return answer("200 OK", "Set-Cookie: session=1; Path=/")

    with listening(take, connections=2) as server:
        for _ in range(2):
            controller.amesh.fetch(server.url)
    assert all(b"cookie" not in data.lower() for data in arrived)


def test_fetch_follows_redirects_and_signs_them(controller: Device) -> None:
    arrived: list[Wire] = []

    def reply(data: bytes) -> bytes:
        arrived.append(Wire(data))
        return OK if len(arrived) % 2 == 0 else answer("302 Found", "Location: /next")

    async def afetch(url: str) -> httpx2.Response:
        return await controller.amesh.afetch(url)

    with listening(reply, connections=5) as server:
        assert controller.amesh.fetch(server.url).status_code == 200
        assert asyncio.run(afetch(server.url)).status_code == 200
        assert controller.amesh.fetch(server.url, follow_redirects=False).status_code == 302
    assert len({wire.verified(by=controller).nonce for wire in arrived}) == 5


def test_certificate_authorities_are_read_once_and_not_by_the_event_loop(
    served: Served, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes up to 100 ms, for which no other task could run."""
    readers: list[threading.Thread] = []
    real = httpx2.create_ssl_context

    def watched() -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return real()

    monkeypatch.setattr(httpx2, "create_ssl_context", watched)
    signing._tls.cache_clear()

    async def main() -> list[int]:
        calls = [controller.amesh.afetch(served.url, method="POST") for _ in range(2)]
        return [(await call).status_code for call in calls]

    assert asyncio.run(main()) == [200, 200]
    assert [reader is threading.main_thread() for reader in readers] == [False]
