"""A service with some of everything, and a client that sends headers of our own making."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket
from starlette.responses import StreamingResponse

from tests.support.asgi import Served

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Service:
    """A FastAPI app, and what it noticed."""

    def __init__(self) -> None:
        self.app = FastAPI(lifespan=self._lifespan)
        self.served: list[str] = []
        self.background = threading.Event()
        self.streaming = threading.Event()
        self.left = threading.Event()
        self.app.websocket("/ws")(self.talk)
        self.app.get("/events")(self.events)
        self.app.get("/forever")(self.forever)
        self.app.post("/later")(self.later)
        self.app.get("/health")(self.health)
        self.app.api_route("/{path:path}", methods=METHODS)(self.echo)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"database": "open"}

    async def echo(self, request: Request) -> Response:
        """Everything the app sees of a request."""
        self.served.append(request.url.path)
        body = await request.body()
        identity = request.state.auth_mesh
        return Response(
            body,
            headers={
                "X-Method": request.method,
                "X-Path": request.scope["path"],
                "X-Route": request.path_params["path"],
                "X-Device": identity.device_id,
                "X-Name": identity.friendly_name,
                "X-Database": request.state.database,
            },
        )

    async def health(self, request: Request) -> dict[str, bool]:
        return {"known": hasattr(request.state, "auth_mesh")}

    async def later(self, tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(self.background.set)
        return {"status": "taken"}

    async def events(self) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def forever(self, request: Request) -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            try:
                yield b"x"
                self.streaming.set()
                await asyncio.Event().wait()
            finally:
                self.left.set()

        return StreamingResponse(stream())

    async def talk(self, socket: WebSocket) -> None:
        self.served.append("/ws")
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(f"{socket.state.auth_mesh.friendly_name} said {text}")


# Nothing here speaks TLS; without this each client would read all certificate authorities.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def send(
    server: Served, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> httpx2.Response:
    """One request with headers of our own making."""
    with httpx2.Client(trust_env=False, verify=_TLS) as client:
        return client.request(method, server.url + path, headers=headers, content=body)
