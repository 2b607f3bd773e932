"""Clients of httpx2 and httpx as people set them up: what is sent is what was signed."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity

from amesh_core.errors import UsageError
from tests.sdk.clients.scripted import DROP, KEEP, OK, scripted
from tests.sdk.devices import Device
from tests.sdk.senders import LIBRARIES, Sender
from tests.support.asgi import PATIENCE_SECONDS, answer
from tests.support.ports import free_port
from tests.support.tls import Certificate


def one_two() -> Iterator[bytes]:
    yield b"one"
    yield b"two"


async def aone_two() -> AsyncIterator[bytes]:
    for chunk in one_two():
        yield chunk


@pytest.fixture(params=["httpx2", "httpx"])
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param]


def auth_of(device: Device, library: Any) -> Any:
    return device.amesh.auth() if library is LIBRARIES["httpx2"] else device.amesh.httpx_auth()


# --- how a client is set up -------------------------------------------------------------


def test_a_base_url_parameters_and_headers_of_the_client(
    sender: Sender, controller: Device
) -> None:
    with scripted(OK) as server:
        client = {
            "base_url": server.url + "/v1/",
            "params": {"tenant": "7", "q": "a b"},
            "headers": {"X-Tenant": "7"},
        }
        sender.send(controller, "GET", "orders/%2F", params={"z": "1", "a": "é"}, client=client)
    (wire,) = server.verified(by=controller)
    assert wire.target.startswith(b"/v1/orders/%2F?tenant=7&q=a")
    assert wire.target.endswith(b"&z=1&a=%C3%A9")
    assert b"X-Tenant: 7" in wire.head


def test_headers_that_are_set_later(library: Any, controller: Device) -> None:
    """They are not signed, so an event hook, which comes after the signature, may set them."""

    def trace(request: Any) -> None:
        request.headers["X-Trace"] = "hook"

    with (
        scripted(OK) as server,
        library.Client(auth=auth_of(controller, library), trust_env=False) as client,
    ):
        client.event_hooks = {"request": [trace], "response": []}
        client.headers["X-Later"] = "client"
        assert client.get(server.url + "/x?a=1").status_code == 200
    (wire,) = server.verified(by=controller)
    assert b"X-Trace: hook" in wire.head
    assert b"X-Later: client" in wire.head


def test_a_request_that_was_built_before(library: Any, controller: Device) -> None:
    with (
        scripted(KEEP) as server,
        library.Client(auth=auth_of(controller, library), trust_env=False) as client,
    ):
        request = client.build_request("POST", server.url + "/x", content=b"one")
        for _ in range(3):
            assert client.send(request).status_code == 200
    assert len(server.verified(by=controller)) == 3


def test_through_a_proxy(sender: Sender, controller: Device) -> None:
    with scripted(OK) as proxy:
        url = "http://api.example:8080/a%2Fb?x=1"
        sender.send(controller, "POST", url, content=b"body", client={"proxy": proxy.url})
    (wire,) = proxy.arrived
    assert wire.target == b"http://api.example:8080/a%2Fb?x=1"
    wire.target = b"/a%2Fb?x=1"
    wire.verified(by=controller)


def test_over_tls(sender: Sender, controller: Device, certificate: Certificate) -> None:
    with scripted(OK, tls=certificate.for_server()) as server:
        client = {"verify": certificate.for_client()}
        sender.send(controller, "POST", server.url + "/x", json={"a": 1}, client=client)
    server.verified(by=controller)


# --- bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_files_are_sent_from_where_they_stand(
    library: Any, controller: Device, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") if kind == "file" else io.BytesIO(path.read_bytes()) as file:
        file.seek(4)
        with (
            scripted(OK) as server,
            library.Client(auth=auth_of(controller, library), trust_env=False) as client,
        ):
            client.put(server.url, content=file)
    assert [w.body for w in server.verified(by=controller)] == [b"456789"]


def test_generators_are_held_in_memory(
    sender: Sender, controller: Device, request: pytest.FixtureRequest
) -> None:
    is_async = "async" in request.node.callspec.id
    with scripted(OK) as server:
        body = aone_two() if is_async else one_two()
        sender.send(controller, "POST", server.url, content=body)
    assert [w.body for w in server.verified(by=controller)] == [b"onetwo"]


def test_a_body_of_the_other_kind_of_client_is_an_error(
    sender: Sender, controller: Device, request: pytest.FixtureRequest
) -> None:
    is_async = "async" in request.node.callspec.id
    with scripted(OK) as server, pytest.raises(UsageError, match="async iterable"):
        sender.send(controller, "POST", server.url, content=one_two() if is_async else aone_two())
    assert server.arrived == []


def test_no_body_and_an_empty_one_are_the_same(sender: Sender, controller: Device) -> None:
    """Over HTTP they are: a server is told neither."""
    with scripted(OK) as server:
        bodies: list[dict[str, Any]] = [{}, {"content": b""}, {"content": ""}, {"data": {}}]
        for arguments in bodies:
            sender.send(controller, "POST", server.url, **arguments)
    arrived = server.verified(by=controller)
    assert [w.body for w in arrived] == [b""] * 4
    assert all(b"Content-Length: 0" in w.head for w in arrived)


def test_a_body_that_the_caller_compressed(sender: Sender, controller: Device) -> None:
    """What is signed is what travels, not what it means."""
    body = gzip.compress(b"x" * 1000)
    with scripted(OK) as server:
        headers = {"Content-Encoding": "gzip"}
        sender.send(controller, "POST", server.url, content=body, headers=headers)
    assert [w.body for w in server.verified(by=controller)] == [body]


# --- attempts ---------------------------------------------------------------------------


def test_retries_of_the_transport_only_connect(library: Any, controller: Device) -> None:
    """Before anything was sent: the nonce is still unspent."""
    port = free_port()
    transport = library.HTTPTransport(retries=3)
    attempts: list[str] = []

    def trace(event: str, _: Any) -> None:
        attempts.append(event)
        if event == "connection.connect_tcp.failed" and not opened:
            opened.append(socket.create_server(("127.0.0.1", port)))
            threads.append(threading.Thread(target=_answer_one, args=(opened[0], arrived)))
            threads[0].start()

    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []
    arrived: list[bytes] = []
    auth = auth_of(controller, library)
    with library.Client(auth=auth, transport=transport, trust_env=False) as client:
        url = f"http://127.0.0.1:{port}/x"
        assert client.get(url, extensions={"trace": trace}).status_code == 200
    threads[0].join(PATIENCE_SECONDS)
    assert attempts.count("connection.connect_tcp.failed") == 1
    assert len(arrived) == 1


def _answer_one(listener: socket.socket, arrived: list[bytes]) -> None:
    with listener:
        connection, _ = listener.accept()
        with connection:
            arrived.append(connection.recv(65536))
            connection.sendall(OK)


def test_connections_that_the_server_closed_are_made_anew(library: Any, controller: Device) -> None:
    with (
        scripted(OK) as server,
        library.Client(auth=auth_of(controller, library), trust_env=False) as client,
    ):
        for _ in range(3):
            assert client.get(server.url).status_code == 200
    assert len(server.verified(by=controller)) == 3


@pytest.mark.parametrize("failure", [DROP, answer("503 Service Unavailable")])
def test_attempts_of_the_callers_own(library: Any, controller: Device, failure: bytes) -> None:
    """tenacity, backoff, or a loop: the call is made again, so it is signed again."""
    auth = auth_of(controller, library)
    with (
        scripted(failure, failure, OK) as server,
        library.Client(auth=auth, trust_env=False) as client,
    ):

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(3),
            retry=tenacity.retry_if_exception_type(library.HTTPError),
        )
        def call() -> None:
            client.post(server.url, content=b"x").raise_for_status()

        call()
    assert len(server.verified(by=controller)) == 3


def test_many_tasks_share_one_client(library: Any, controller: Device) -> None:
    async def main() -> list[int]:
        auth = auth_of(controller, library)
        async with library.AsyncClient(auth=auth, trust_env=False) as client:

            async def call(number: int) -> int:
                response = await client.post(f"{server.url}/{number}", content=str(number))
                return int(response.status_code)

            return await asyncio.gather(*(call(number) for number in range(50)))

    with scripted(KEEP) as server:
        assert asyncio.run(main()) == [200] * 50
    arrived = server.verified(by=controller)
    assert all(wire.target == b"/" + wire.body for wire in arrived)
    assert len(arrived) == 50
