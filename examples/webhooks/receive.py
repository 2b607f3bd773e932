"""A web site with an open page, and webhooks that only paired devices may send."""

from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app


class Event(BaseModel):
    id: UUID
    type: str
    data: dict[str, Any]


app = FastAPI()
# The rest stays open. A route that asks for CurrentDevice and is not named here fails with 500.
app.add_middleware(AuthMeshMiddleware, include=("/webhooks",))

handled: set[tuple[str, UUID]] = set()  # in a real service: a unique index in the database


@app.post("/webhooks")
async def receive(device: CurrentDevice, event: Event) -> dict[str, str]:
    # A sender who got no answer sends the event again: a new request, under a new signature.
    key = (device.device_id, event.id)
    if key in handled:
        return {"status": "known"}
    handled.add(key)
    print(f"{event.type!r} from {device.friendly_name!r}: {event.data!r}", flush=True)
    return {"status": "received"}


@app.get("/")
async def front_page() -> PlainTextResponse:
    return PlainTextResponse("Welcome, everybody.")


check_app(app)
