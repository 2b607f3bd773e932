"""Service A, the caller: it signs what it asks service B."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, HTTPException, Request

from amesh_sdk import amesh

SERVICE_B = os.environ.get("SERVICE_B_URL", "http://localhost:4000")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, httpx2.AsyncClient]]:
    async with httpx2.AsyncClient(base_url=SERVICE_B, auth=amesh.auth()) as client:
        yield {"service_b": client}


app = FastAPI(title="Service A", lifespan=lifespan)


@app.get("/hello/{user_id}")
async def hello(user_id: int, request: Request) -> dict[str, str]:
    service_b: httpx2.AsyncClient = request.state.service_b
    try:
        response = await service_b.get(f"/internal/users/{user_id}")
        if response.status_code == 404:
            raise HTTPException(404, "no such user")
        response.raise_for_status()
    except httpx2.HTTPError as error:
        # Why it refused is in the log of service B, and nobody else's business.
        raise HTTPException(502, "service B did not answer as it should") from error
    return {"message": f"Hello, {response.json()['name']}!"}
