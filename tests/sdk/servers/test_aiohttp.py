"""The aiohttp server: streams, compressed bodies, and how it starts."""

from __future__ import annotations

import asyncio
import gzip

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler

from amesh_core.settings import Settings
from amesh_core.verification import AuthMeshIdentity
from amesh_sdk.aiohttp_server import AUTH_MESH, auth_mesh_middleware
from tests.sdk.devices import Device
from tests.sdk.servers.processes import AIOHTTP, call, running, started

DECOMPRESS_NOT = AIOHTTP.with_options(TEST_DECOMPRESS="no")


def test_a_handler_that_streams_its_body(target: Device, controller: Device) -> None:
    with running(AIOHTTP, target.home.directory) as server:
        for body in (b"", b"x", bytes(range(256)) * 1000):
            answer = call(server, "POST", "/streamed", by=controller, body=body)
            assert (answer.status, answer.json["body"]) == (200, body.hex())
        assert call(server, "POST", "/streamed", body=b"x").status == 400


def test_an_unread_body_does_not_hold_the_connection(target: Device, controller: Device) -> None:
    """Two requests on one connection; the handler of the first reads nothing of its body."""
    with running(AIOHTTP, target.home.directory) as server:
        large = b"x" * 900_000
        requests = b""
        for path, body, more in (
            ("/nowhere", large, ""),
            ("/echo/x", b"y", "Connection: close\r\n"),
        ):
            value = controller.sign("POST", path, body).decode()
            requests += (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n"
                f"Content-Length: {len(body)}\r\n{more}\r\n"
            ).encode("ascii") + body
        answer = server.send(requests)
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"HTTP/1.1 200" in answer


def test_a_body_that_aiohttp_has_decompressed_is_not_guessed_about(
    target: Device, controller: Device
) -> None:
    packed = gzip.compress(b"body" * 100)
    headers = {"Content-Encoding": "gzip"}
    with running(AIOHTTP, target.home.directory) as server:
        answer = call(server, "POST", "/streamed", by=controller, body=packed, headers=headers)
        assert answer.status == 500
        server.log.wait_for("auto_decompress=False")
        # Signed as it is inside: the wire does not say so, and we do not guess.
        value = {"Authorization": controller.sign("POST", "/streamed", b"body" * 100).decode()}
        inside = call(server, "POST", "/streamed", body=packed, headers=headers | value)
        assert inside.status == 500
    with running(DECOMPRESS_NOT, target.home.directory) as server:
        answer = call(server, "POST", "/streamed", by=controller, body=packed, headers=headers)
        assert (answer.status, bytes.fromhex(answer.json["body"])) == (200, packed)


def test_the_apps_own_limit_counts_too(target: Device, controller: Device) -> None:
    """`client_max_size` of the app is 4 MiB; ours may be larger."""
    with running(AIOHTTP, target.home.directory, max_body_bytes=6 * 1024 * 1024) as server:
        answer = call(server, "POST", "/echo/x", by=controller, body=b"x" * 5_000_000)
        assert answer.status == 413
        assert answer.body != b'{"error":"payload_too_large"}'


def test_nobody_else_says_who_the_caller_is(target: Device, controller: Device) -> None:
    """Neither a middleware in front, on paths that are verified or left open."""

    @web.middleware
    async def planting(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[AUTH_MESH] = AuthMeshIdentity("am_root", "root", 0)
        return await handler(request)

    async def who(request: web.Request) -> web.Response:
        known = request.get(AUTH_MESH)
        return web.json_response(known.device_id if known else None)

    ours = auth_mesh_middleware(settings=target.settings, exclude=("/open",))
    app = web.Application(middlewares=[planting, ours])
    app.router.add_get("/open", who)
    app.router.add_get("/who", who)

    async def ask() -> list[object]:
        async with TestClient(TestServer(app)) as client:
            headers = {"Authorization": controller.sign("GET", "/who").decode()}
            answers = [await client.get("/open"), await client.get("/who", headers=headers)]
            return [await answer.json() for answer in answers]

    assert asyncio.run(ask()) == [None, controller.device_id]


def test_without_an_identity_nothing_starts(target: Device) -> None:
    nowhere = Settings(target.home.directory / "nothing-here").directory
    with started(AIOHTTP, nowhere) as (process, log, _):
        log.wait_for("no identity in")
        assert process.wait(30) != 0
