"""The aiohttp server middleware: `request[AUTH_MESH]` in every handler.

    app = web.Application()
    setup(app, exclude=("/health",))

or, without the check at start-up, `web.Application(middlewares=[auth_mesh_middleware()])`.
"""

from __future__ import annotations

import asyncio
from typing import Final, Unpack

from amesh_core.errors import MalformedRequest, UsageError
from amesh_core.verification import AuthMeshIdentity
from amesh_sdk.extras import missing
from amesh_sdk.gate import Gate, Options, Refused

try:
    from aiohttp import web
    from aiohttp.streams import StreamReader
    from aiohttp.typedefs import Handler, Middleware
except ImportError as error:
    raise missing("aiohttp", error) from error

AUTH_MESH: Final = web.RequestKey("auth_mesh", AuthMeshIdentity)


def setup(app: web.Application, **options: Unpack[Options]) -> None:
    """Let only requests reach this app that are signed by a controller of this device.

    In front of the middleware that is there already; options as of
    `amesh_sdk.asgi.AuthMeshMiddleware`. A missing identity stops the start.

    Raises:
        UsageError: options that cannot work.
    """
    gate = Gate(**options)

    async def prepare(_: web.Application) -> None:
        await gate.guard.prepare()

    app.middlewares.insert(0, _middleware(gate))
    app.on_startup.insert(0, prepare)


def auth_mesh_middleware(**options: Unpack[Options]) -> Middleware:
    """As `setup`, as one middleware for `web.Application(middlewares=[...])`, the first.

    Raises:
        UsageError: options that cannot work.
    """
    return _middleware(Gate(**options))


def _middleware(gate: Gate) -> Middleware:
    @web.middleware
    async def verify(request: web.Request, handler: Handler) -> web.StreamResponse:
        # Nobody but the guard says who the caller is, on paths that are left open neither.
        request.pop(AUTH_MESH, None)
        body = b""

        async def read(limit_bytes: int) -> bytes:
            nonlocal body
            body = await _read_body(request, limit_bytes)
            return body

        path, _, query = request.raw_path.partition("?")
        scope = {
            "path": request.path,
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": query.encode("utf-8", "surrogateescape"),
        }
        try:
            identity = await gate.acheck(request.method, scope, request.raw_headers, read)
        except Refused as refused:
            return _response(refused)
        if identity is not None:
            request[AUTH_MESH] = identity
            _put_body(request, body)
        return await handler(request)

    return verify


async def _read_body(request: web.Request, limit_bytes: int) -> bytes:
    """The body, and at most one piece more of it than the limit."""
    if request.body_exists and request.content.total_compressed_bytes is not None:
        # aiohttp hands out what is inside; signed is what was sent.
        raise UsageError(
            "aiohttp decompresses bodies before they can be verified: make the runner with "
            "web.AppRunner(app, auto_decompress=False)"
        )
    body = bytearray()
    try:
        while len(body) <= limit_bytes and (piece := await request.content.readany()):
            body += piece
    except (web.RequestPayloadError, OSError) as error:
        raise MalformedRequest("the body could not be read to its end") from error
    return bytes(body)


def _put_body(request: web.Request, body: bytes) -> None:
    """Let the handler read what was verified, by whichever of aiohttp's ways it likes."""
    if not body:
        return
    # As high a limit as there are bytes: nothing is to hold back the connection for these.
    stream = StreamReader(request.protocol, len(body), loop=asyncio.get_running_loop())
    stream.feed_data(body)
    stream.feed_eof()
    request._payload = stream  # .read(), .json(), .post() and .multipart() start here
    request._cache.pop("content", None)  # .content remembers where it started


def _response(refused: Refused) -> web.Response:
    what = refused.answer
    headers = {
        name.decode("ascii").title(): value.decode("ascii")
        for name, value in what.headers
        if name != b"content-length"  # aiohttp's own
    }
    return web.Response(status=what.status, headers=headers, body=what.body)
