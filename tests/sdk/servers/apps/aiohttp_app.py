"""aiohttp, which has its own server: `python -m tests.sdk.servers.apps.aiohttp_app`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from aiohttp import WSMsgType, web

from amesh_sdk.aiohttp_server import AUTH_MESH, setup
from tests.sdk.servers.apps.contract import EVENTS, Counter, options

counter = Counter()


async def echo(request: web.Request) -> web.Response:
    identity = request[AUTH_MESH]
    body = await request.read()
    return web.json_response(counter.echo(identity, request.method, request.path, body))


async def form(request: web.Request) -> web.Response:
    """The parsed form by `post`, which reads the stream, and the bytes by a second way."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    body = b"" if request.content_type.startswith("multipart/") else await request.read()
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            files[name] = value.file.read()
        else:
            fields[name] = str(value)
    return web.json_response(counter.form(fields, files, body))


async def streamed(request: web.Request) -> web.Response:
    """The body by `request.content`, as it comes."""
    body = b"".join([piece async for piece in request.content.iter_chunked(1000)])
    return web.json_response({"body": body.hex()})


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in EVENTS:
        await response.write(event.encode())
    await response.write_eof()
    return response


async def talk(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(f"{request[AUTH_MESH].friendly_name} said {message.data}")
    return socket


async def health(request: web.Request) -> web.Response:
    return web.json_response(counter.health(AUTH_MESH in request))


def make_app() -> web.Application:
    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("*", "/echo/{rest:.*}", echo)
    app.router.add_post("/form", form)
    app.router.add_post("/streamed", streamed)
    app.router.add_get("/events", events)
    app.router.add_get("/ws", talk)
    app.router.add_get("/health", health)
    setup(app, **options())
    return app


async def serve() -> None:
    runner_options: dict[str, Any] = {}
    if os.environ.get("TEST_DECOMPRESS") == "no":
        runner_options["auto_decompress"] = False
    runner = web.AppRunner(make_app(), **runner_options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    print(f"listening on http://127.0.0.1:{address[1]}", file=sys.stderr, flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
