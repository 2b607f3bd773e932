"""FastAPI, with the middleware that is there and the dependency that reads from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse
from starlette.routing import Mount

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app
from tests.sdk.servers.apps.contract import EVENTS, METHODS, Counter, options
from tests.support.asgi import Receive, Scope, Send

counter = Counter()


def leave_mark(text: str) -> None:
    """Print what a test in another process waits for."""
    print(f"mark: {text}", flush=True)  # noqa: T201 its output is what the test reads


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"database": "open"}


app = FastAPI(lifespan=lifespan)
app.add_middleware(AuthMeshMiddleware, **options())


@app.api_route("/echo/{rest:path}", methods=METHODS)
async def echo(request: Request, device: CurrentDevice) -> dict[str, Any]:
    answer = counter.echo(device, request.method, request.url.path, await request.body())
    # daphne has no lifespan, and so no state.
    return answer | {"database": getattr(request.state, "database", None)}


@app.post("/form")
async def form(request: Request, device: CurrentDevice) -> dict[str, Any]:
    body = await request.body()
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in (await request.form()).items():
        if isinstance(value, UploadFile):
            files[name] = await value.read()
        else:
            fields[name] = value
    return counter.form(fields, files, body)


@app.get("/events")
async def events() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        for event in EVENTS:
            yield event

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    return counter.health(hasattr(request.state, "auth_mesh"))


@app.post("/later")
async def later(tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(leave_mark, "done")
    return {"status": "taken"}


async def forever(scope: Scope, receive: Receive, send: Send) -> None:
    """Ends only when the client leaves; in plain ASGI, as nothing else shows when that is."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    leave_mark("left")


app.mount("/forever", forever)


@app.websocket("/ws")
async def talk(socket: WebSocket, device: CurrentDevice) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{device.friendly_name} said {text}")


check_app(app)


@asynccontextmanager
async def outer_lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    yield {"database": "open"}  # mounted apps get no lifespan of their own


mounted = Starlette(routes=[Mount("/api", app=app)], lifespan=outer_lifespan)
