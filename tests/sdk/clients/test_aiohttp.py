"""Signing with aiohttp: every attempt and every hop, to one origin only."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import ClientSession, InvalidUrlRedirectClientError, MultipartWriter
from yarl import URL

from amesh_core.errors import BadSignature, MalformedRequest, UsageError
from amesh_sdk.aiohttp_client import SigningMiddleware
from tests.sdk.clients.scripted import DROP, KEEP, OK, Scripted, redirect, scripted
from tests.sdk.devices import Device
from tests.sdk.service import Service
from tests.support.asgi import answer, serving
from tests.support.tls import Certificate

T = TypeVar("T")


def with_session(
    device: Device, origin: str, use: Callable[[ClientSession], Awaitable[T]], **options: Any
) -> T:
    """Run `use` with a session that signs for one origin."""

    async def main() -> T:
        middlewares = (device.amesh.aiohttp_middleware(origin),)
        async with ClientSession(middlewares=middlewares, **options) as session:
            return await use(session)

    return asyncio.run(main())


def send(device: Device, server: Scripted, method: str, path: str, **arguments: Any) -> int:
    """One request; returns the status."""

    async def use(session: ClientSession) -> int:
        async with session.request(method, server.url + path, **arguments) as response:
            await response.read()
            return response.status

    return with_session(device, server.url, use)


# --- wire truth -------------------------------------------------------------------------


async def chunks() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


def multipart() -> MultipartWriter:
    writer = MultipartWriter("mixed")
    writer.append("text")
    writer.append(io.BytesIO(b"\x00\r\n--\xff"))
    return writer


def form() -> aiohttp.FormData:
    data = aiohttp.FormData({"a": "1"})
    data.add_field("file", io.BytesIO(b"\x00\xff"), filename="x.bin")
    return data


@pytest.mark.parametrize(
    ("method", "path", "arguments"),
    [
        ("GET", "", {}),
        ("GET", "/orders?b=2&a=1", {}),
        ("GET", "/orders?b=2", {"params": {"q": "a b+c&d=é", "empty": ""}}),
        ("GET", "/orders", {"params": [("a", "2"), ("a", "1")]}),
        ("GET", "/caf\u00e9/a b/~x'y(z)", {}),
        ("GET", "/a%2Fb/%41/100%25/x[1]", {}),
        ("GET", "/a/../b/./c", {}),
        ("GET", "/x?y=[1]&z={}|^`\"'<>", {}),
        ("GET", "/x#fragment", {}),
        ("delete", "/orders/7", {}),
        ("HEAD", "/orders", {}),
        ("POST", "/orders", {"json": {"amount": 100, "note": "é"}}),
        ("POST", "/orders", {"data": {"a": "1 2", "b": "é&="}}),
        ("PUT", "/blob", {"data": bytes(range(256)) * 300}),
        ("PUT", "/blob", {"data": bytearray(b"\xff\xfe\x80")}),
        ("PUT", "/blob", {"data": "text, é"}),
        ("PUT", "/blob", {"data": io.StringIO("é")}),
        ("PUT", "/big", {"data": io.BytesIO(b"x" * (3 * 1024 * 1024))}),
        ("POST", "/empty", {"data": b""}),
        ("POST", "/none", {}),
        ("POST", "/form", {"data": form}),
        ("POST", "/parts", {"data": multipart}),
        ("POST", "/generator", {"data": chunks}),
        ("POST", "/chunked", {"data": b"body", "chunked": True}),
        ("PATCH", "/gzip", {"data": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}}),
        ("POST", "/orders", {"headers": {"Authorization": "Bearer mine"}, "data": b"x"}),
    ],
)
def test_what_is_sent_is_what_was_signed(
    controller: Device, method: str, path: str, arguments: dict[str, Any]
) -> None:
    async def use(session: ClientSession) -> int:
        # Some bodies belong to the event loop in which they are made.
        made = {k: v() if k == "data" and callable(v) else v for k, v in arguments.items()}
        async with session.request(method, server.url + path, **made) as response:
            return response.status

    with scripted(OK) as server:
        assert with_session(controller, server.url, use) == 200
    (wire,) = server.verified(by=controller)
    assert time.time() - 5 < int(wire.verified(by=controller).timestamp) <= time.time()
    assert wire.body == {"/generator": b"onetwo", "/chunked": b"body"}.get(path, wire.body)


def test_the_wire_test_has_teeth(controller: Device) -> None:
    with scripted(OK) as server:
        send(controller, server, "POST", "/", data=b"x")
    server.arrived[0].body = b"y"
    with pytest.raises(BadSignature):
        server.verified(by=controller)


def test_files_are_sent_from_where_they_stand(controller: Device, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    with scripted(OK) as server, path.open("rb") as file, os.fdopen(reading, "rb") as pipe:
        file.seek(4)
        send(controller, server, "PUT", "/", data=file)
        send(controller, server, "PUT", "/", data=pipe)
    assert [w.body for w in server.verified(by=controller)] == [b"456789", b"from a pipe"]


def test_a_file_that_grows_is_sent_as_it_was_signed(controller: Device, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"so far")

    async def use(session: ClientSession) -> None:
        with path.open("rb") as file:
            async with session.put(server.url, data=file):
                pass

    async def grow(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        with path.open("ab") as file:
            file.write(b" and more")
        answered: aiohttp.ClientResponse = await handler(request)
        return answered

    async def main() -> None:
        signing = controller.amesh.aiohttp_middleware(server.url)
        async with ClientSession(middlewares=(signing, grow)) as session:
            await use(session)

    with scripted(OK) as server:
        asyncio.run(main())
    assert [w.body for w in server.verified(by=controller)] == [b"so far"]


def test_a_base_url_and_headers_of_the_session(controller: Device) -> None:
    async def use(session: ClientSession) -> None:
        async with session.get("orders", params={"a": "1"}):
            pass

    with scripted(OK) as server:
        base, headers = f"{server.url}/v1/", {"X-Tenant": "7"}
        with_session(controller, server.url, use, base_url=base, headers=headers)
    (wire,) = server.verified(by=controller)
    assert wire.target == b"/v1/orders?a=1"
    assert b"X-Tenant: 7" in wire.head


def test_a_body_that_aiohttp_would_compress_is_an_error(controller: Device) -> None:
    with scripted(OK) as server:
        with pytest.raises(UsageError, match="Content-Encoding"):
            send(controller, server, "POST", "/", data=b"x" * 1000, compress="gzip")
        assert send(controller, server, "POST", "/", compress="gzip") == 200
    assert len(server.verified(by=controller)) == 1


def test_what_no_verifier_admits_is_not_sent(controller: Device) -> None:
    with scripted(OK) as server:
        with pytest.raises(MalformedRequest):
            send(controller, server, "GET", "//evil/admin")
        as_it_is = URL(f"{server.url}/caf\u00e9", encoded=True)
        with pytest.raises(MalformedRequest):
            with_session(controller, server.url, lambda session: session.get(as_it_is))
    assert server.arrived == []


def test_through_a_proxy(controller: Device) -> None:
    async def use(session: ClientSession) -> None:
        url = "http://api.example:8080/a%2Fb?x=1"
        async with session.post(url, data=b"body", proxy=proxy.url):
            pass

    with scripted(OK) as proxy:
        with_session(controller, "http://api.example:8080", use)
    (wire,) = proxy.arrived
    assert wire.target.startswith(b"http://api.example:8080/")
    wire.target = wire.target.removeprefix(b"http://api.example:8080")
    wire.verified(by=controller)


def test_a_websocket(target: Device, controller: Device) -> None:
    service = Service()

    async def use(session: ClientSession) -> str:
        url = server.url.replace("http", "ws") + "/ws?room=1"
        async with session.ws_connect(url) as socket:
            await socket.send_str("hello")
            return await socket.receive_str()

    with serving(target.protect(service.app)) as server:
        assert with_session(controller, server.url, use) == "laptop said hello"


# --- every attempt and hop --------------------------------------------------------------


def test_every_attempt_has_a_signature_of_its_own(controller: Device) -> None:
    """aiohttp asks again by itself when a connection that it had kept turns out to be gone."""

    async def use(session: ClientSession) -> list[int]:
        statuses = []
        for _ in range(2):
            async with session.put(server.url, data=chunks()) as response:
                await response.read()
                statuses.append(response.status)
        return statuses

    with scripted(KEEP, DROP, KEEP) as server:
        assert with_session(controller, server.url, use) == [200, 200]
    assert [w.body for w in server.verified(by=controller)] == [b"onetwo"] * 3


def test_an_attempt_of_the_callers_own(controller: Device) -> None:
    """A middleware outside of ours that tries again."""

    async def again(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await handler(request)
        if response.status == 503:
            response.close()
            response = await handler(request)
        return response

    async def main() -> int:
        signing = controller.amesh.aiohttp_middleware(server.url)
        async with (
            ClientSession(middlewares=(again, signing)) as session,
            session.post(server.url, data=chunks()) as response,
        ):
            return response.status

    with scripted(answer("503 Service Unavailable"), OK) as server:
        assert asyncio.run(main()) == 200
    assert [w.body for w in server.verified(by=controller)] == [b"onetwo"] * 2


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_a_redirect_within_the_origin_is_signed_anew(controller: Device, status: str) -> None:
    with scripted(redirect(status, "/hop/1?x"), redirect(status, "hop2"), OK) as server:
        assert send(controller, server, "POST", "/start", data=io.BytesIO(b"body")) == 200
    arrived = server.verified(by=controller)
    assert [w.target for w in arrived] == [b"/start", b"/hop/1?x", b"/hop/hop2"]
    keeps_body = status[:3] in ("307", "308")
    expected = (b"POST", b"body") if keeps_body else (b"GET", b"")
    assert [(w.method, w.body) for w in arrived[1:]] == [expected] * 2


def test_another_origin_gets_no_signature(controller: Device) -> None:
    with scripted(OK) as other, scripted(redirect("307 T", f"{other.url}/collect")) as server:
        assert send(controller, server, "POST", "/", data=b"body") == 200
    server.verified(by=controller)
    (wire,) = other.arrived
    assert (wire.target, wire.authorization) == (b"/collect", [])


def test_a_foreign_server_cannot_have_a_target_signed(controller: Device) -> None:
    with (
        scripted(lambda _: redirect("302 F", f"{server.url}/admin")) as other,
        scripted(redirect("302 F", other.url), OK) as server,
        pytest.raises(InvalidUrlRedirectClientError, match="would be signed"),
    ):
        send(controller, server, "GET", "/open-redirect")
    assert [w.target for w in server.arrived] == [b"/open-redirect"]


def test_what_the_session_sends_elsewhere_is_left_alone(controller: Device) -> None:
    with scripted(redirect("302 F", "/next"), OK) as server:

        async def use(session: ClientSession) -> int:
            async with session.get(server.url, headers={"Authorization": "Bearer x"}) as response:
                return response.status

        assert with_session(controller, "https://api.example", use) == 200
    assert [w.authorization for w in server.arrived] == [[b"Bearer x"]] * 2


def test_two_services_in_one_session(controller: Device) -> None:
    """From one to the other no redirect leads, or the first could use what the second allows."""
    with (
        scripted(OK, redirect("302 F", "/x"), OK) as one,
        scripted(OK, redirect("302 F", f"{one.url}/admin")) as two,
    ):

        async def main() -> None:
            middlewares = [controller.amesh.aiohttp_middleware(s.url) for s in (one, two)]
            async with ClientSession(middlewares=middlewares) as session:
                for url in (one.url, two.url, one.url):
                    async with session.get(url) as response:
                        assert response.status == 200
                with pytest.raises(InvalidUrlRedirectClientError):
                    await session.get(two.url)

        asyncio.run(main())
    assert (len(one.verified(by=controller)), len(two.verified(by=controller))) == (3, 2)


def test_a_redirect_from_https_to_http_is_refused(
    controller: Device, certificate: Certificate
) -> None:
    async def use(session: ClientSession) -> None:
        tls = certificate.for_client()
        async with session.post(server.url, data=b"x", ssl=tls) as response:
            assert response.status == 200
        async with session.post(server.url, data=b"secret", ssl=tls):
            pass

    with scripted(OK) as plain:
        away = redirect("307 T", plain.url)
        with (
            scripted(OK, away, tls=certificate.for_server()) as server,
            pytest.raises(InvalidUrlRedirectClientError, match="https to http"),
        ):
            with_session(controller, server.url, use)
    assert len(server.verified(by=controller)) == 2
    assert plain.arrived == []


@pytest.mark.parametrize("status", ["300 M", "302 F"])
def test_a_redirect_that_leads_nowhere_is_an_answer(controller: Device, status: str) -> None:
    with scripted(answer(status)) as server:
        assert send(controller, server, "GET", "/") == int(status[:3])


@pytest.mark.parametrize("location", ["http://[", "http://", "mailto:a@b"])
def test_a_location_that_is_no_url_is_an_error_of_aiohttp(
    controller: Device, location: str
) -> None:
    with scripted(redirect("302 F", location)) as server, pytest.raises(aiohttp.ClientError):
        send(controller, server, "GET", "/")


# --- which origin -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "url", "signed"),
    [
        ("https://api.example", "https://api.example:443/x", True),
        ("https://api.example:443/", "https://API.example/x", True),
        ("http://api.example", "ws://api.example/socket", True),
        ("https://api.example", "wss://api.example/socket", True),
        ("https://api.example", "http://api.example/", False),
        ("https://api.example", "ws://api.example/", False),
        ("https://api.example", "https://api.example:444/", False),
        ("https://api.example", "https://api.example.evil/", False),
        ("https://api.example", "https://user@api.example.evil/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(
    controller: Device, origin: str, url: str, signed: bool
) -> None:
    async def main() -> bool:
        async def handler(request: aiohttp.ClientRequest) -> Any:
            seen.append(request.headers.get("Authorization", "").startswith("AuthMesh v="))
            raise ConnectionResetError

        seen: list[bool] = []
        middleware = SigningMiddleware(controller.signer(), origin)
        request = aiohttp.ClientRequest("GET", URL(url))
        with pytest.raises(ConnectionResetError):
            await middleware(request, handler)
        return seen[0]

    assert asyncio.run(main()) is signed


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "api.example",
        "/path",
        "https://",
        "https://api.example/v1",
        "https://api.example?x",
        "https://api.example#x",
        "https://user:secret@api.example",
        "wss://api.example",
        "ftp://api.example",
        "https://api.example:99999",
        "https://[::1",
    ],
)
def test_what_is_not_an_origin_is_refused(controller: Device, origin: str) -> None:
    with pytest.raises(UsageError, match="an origin is needed") as caught:
        controller.amesh.aiohttp_middleware(origin)
    assert "secret" not in str(caught.value)


# --- many at a time ---------------------------------------------------------------------


def test_many_tasks_share_one_session(target: Device, controller: Device) -> None:
    service = Service()

    async def use(session: ClientSession) -> list[str]:
        async def call(number: int) -> str:
            async with session.post(f"{server.url}/x", data=str(number)) as response:
                return await response.text()

        return await asyncio.gather(*(call(number) for number in range(50)))

    with serving(target.protect(service.app)) as server:
        assert with_session(controller, server.url, use) == [str(n) for n in range(50)]
