"""The middleware as it is deployed: FastAPI and Starlette under a real uvicorn."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.routing import Mount

from amesh_core.identity import Role
from amesh_sdk import AuthMeshMiddleware
from tests.sdk.devices import Device
from tests.sdk.service import Service, send
from tests.support.asgi import PATIENCE_SECONDS, Served, listening, serving


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def served(service: Service, target: Device, controller: Device) -> Iterator[Served]:
    service.app.add_middleware(
        AuthMeshMiddleware, settings=target.settings, exclude=("/health",), max_body_bytes=100_000
    )
    with serving(service.app) as server:
        yield server


# --- the story --------------------------------------------------------------------------


def test_a_signed_request_is_accepted_once(
    served: Served, service: Service, controller: Device
) -> None:
    headers = controller.amesh.sign("POST", served.url + "/orders?a=1", b"body")
    accepted = send(served, "POST", "/orders?a=1", headers, b"body")
    assert accepted.status_code == 200
    assert accepted.content == b"body"
    assert accepted.headers["X-Device"] == controller.device_id
    assert accepted.headers["X-Name"] == "laptop"
    assert accepted.headers["X-Database"] == "open"
    replayed = send(served, "POST", "/orders?a=1", headers, b"body")
    assert (replayed.status_code, replayed.content) == (401, b'{"error":"unauthorized"}')
    assert replayed.headers["WWW-Authenticate"] == "AuthMesh"
    assert replayed.headers["Cache-Control"] == "no-store"
    assert service.served == ["/orders"]


def test_whatever_is_changed_is_refused(
    served: Served, service: Service, controller: Device
) -> None:
    headers = controller.amesh.sign("POST", served.url + "/orders?a=1", b"body")
    for method, path, body in [
        ("PUT", "/orders?a=1", b"body"),
        ("POST", "/refunds?a=1", b"body"),
        ("POST", "/orders?a=2", b"body"),
        ("POST", "/orders", b"body"),
        ("POST", "/orders?a=1", b"other"),
        ("POST", "/orders?a=1", b""),
    ]:
        assert send(served, method, path, headers, body).status_code == 401
    assert service.served == []
    assert send(served, "POST", "/orders?a=1", headers, b"body").status_code == 200


def test_who_is_trusted_is_asked_at_every_request(
    served: Served, target: Device, controller: Device, stranger: Device
) -> None:
    """Revoked, paired, expired, in the wrong role: no restart, no delay."""

    def status(device: Device) -> int:
        return device.amesh.fetch(served.url + "/orders", method="POST", data="x").status_code

    assert (status(controller), status(stranger)) == (200, 401)
    target.revoke(controller)
    assert status(controller) == 401
    target.trust(stranger)
    assert status(stranger) == 200
    target.trust(controller, Role.TARGET)
    assert status(controller) == 401
    expire(target, stranger)
    assert status(stranger) == 401


def expire(target: Device, other: Device) -> None:
    with target.home.editing_allow_list(0) as edit:
        listed = edit.allow_list.find(other.device_id)
        ended = dataclasses.replace(listed, expires_at="2020-01-01T00:00:00.000Z")
        rest = tuple(d for d in edit.allow_list.devices if d is not listed)
        edit.allow_list = dataclasses.replace(edit.allow_list, devices=(*rest, ended))


def test_a_tampered_list_closes_the_door_until_it_is_mended(
    served: Served, target: Device, controller: Device, stranger: Device
) -> None:
    def answer() -> tuple[int, bytes]:
        response = controller.amesh.fetch(served.url + "/orders")
        return response.status_code, response.content

    assert answer()[0] == 200
    whole = target.list_file.read_bytes()
    forged = json.loads(whole)
    forged["devices"][0]["publicKey"] = stranger.home.identity.public_key.hex()
    target.list_file.write_text(json.dumps(forged))
    for _ in range(3):
        assert answer() == (500, b'{"error":"allow_list_integrity_failure"}')
    target.list_file.write_bytes(whole)
    assert answer()[0] == 200
    target.list_file.unlink()
    assert answer() == (500, b'{"error":"allow_list_integrity_failure"}')
    target.list_file.write_bytes(whole)
    assert answer()[0] == 200


def test_a_body_is_parsed_behind_the_guard(target: Device, controller: Device) -> None:
    """FastAPI tells nobody what is wrong with a body, before it is known who asks."""
    app = FastAPI()

    @app.post("/orders")
    async def orders(order: dict[str, int]) -> dict[str, int]:
        return order

    with serving(target.protect(app)) as server:
        url = server.url + "/orders"
        assert controller.amesh.fetch(url, method="POST", json={"a": 1}).json() == {"a": 1}
        assert controller.amesh.fetch(url, method="POST", data="{").status_code == 422
        assert send(server, "POST", "/orders", {}, b"{").status_code == 400
        unsigned = controller.amesh.sign("POST", url, b"{}")
        assert send(server, "POST", "/orders", unsigned, b"{").status_code == 401


# --- prefixes ---------------------------------------------------------------------------


def test_mounted_under_a_prefix(service: Service, target: Device, controller: Device) -> None:
    """The signature is for the path the client sent; exclusions are for the app's own."""
    inner = target.protect(service.app, exclude=("/health",))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"database": "open"}

    outer = Starlette(routes=[Mount("/api", app=inner)], lifespan=lifespan)
    with serving(outer) as server:
        accepted = controller.amesh.fetch(server.url + "/api/orders")
        assert (accepted.status_code, accepted.headers["X-Route"]) == (200, "orders")
        without = controller.amesh.sign("GET", server.url + "/orders")
        assert send(server, "GET", "/api/orders", without).status_code == 401
        assert send(server, "GET", "/api/health", {}).json() == {"known": False}
        assert send(server, "GET", "/api/orders", {}).status_code == 400


def test_behind_a_proxy_that_strips_a_prefix(
    service: Service, target: Device, controller: Device
) -> None:
    """uvicorn --root-path /api: what the client signed is the path before the proxy's cut."""
    service.app.add_middleware(AuthMeshMiddleware, settings=target.settings, exclude=("/health",))
    with serving(service.app, root_path="/api") as server:

        def strip(request: bytes) -> bytes:
            assert b" /api/" in request
            request = request.replace(b" /api/", b" /", 1)
            return server.send(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

        with listening(strip, connections=2) as proxy:
            accepted = controller.amesh.fetch(proxy.url + "/api/orders?x=1")
            assert (accepted.status_code, accepted.headers["X-Route"]) == (200, "orders")
            assert send(proxy, "GET", "/api/health", {}).json() == {"known": False}


# --- in the company of other middleware -------------------------------------------------


def test_other_middleware_sees_who_called(
    service: Service, target: Device, controller: Device
) -> None:
    """Outside of ours, after the answer; and what it planted before does not get in."""
    callers: list[str] = []

    class Audit(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            request.state.auth_mesh = "planted"
            response = await call_next(request)
            callers.append(getattr(request.state.auth_mesh, "device_id", "?"))
            return response

    service.app.add_middleware(AuthMeshMiddleware, settings=target.settings)
    service.app.add_middleware(Audit)
    with serving(service.app) as server:
        response = controller.amesh.fetch(server.url + "/orders")
    assert response.headers["X-Device"] == controller.device_id
    assert callers == [controller.device_id]


def test_two_guards_in_one_app_do_not_take_each_other_for_a_replay(
    service: Service, target: Device, controller: Device
) -> None:
    with serving(target.protect(target.protect(service.app))) as server:
        assert controller.amesh.fetch(server.url + "/orders").status_code == 200


def test_an_error_of_the_app_stays_its_own(target: Device, controller: Device) -> None:
    app = FastAPI()

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418)

    with serving(target.protect(app)) as server:
        assert controller.amesh.fetch(server.url + "/teapot").status_code == 418


# --- as a process -----------------------------------------------------------------------

PROGRAM = """
from fastapi import FastAPI, Request
from amesh_sdk.asgi import AuthMeshMiddleware

app = FastAPI()
app.add_middleware(AuthMeshMiddleware)

@app.post("/orders")
async def orders(request: Request):
    return {"from": request.state.auth_mesh.friendly_name}
"""


def start(tmp_path: Path, directory: Path) -> subprocess.Popen[str]:
    (tmp_path / "service.py").write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AMESH", "AUTH_MESH"))}
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "service:app", "--port", "0", "--app-dir", str(tmp_path)],
        env=environment | {"AUTH_MESH_DIR": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_quick_start_as_a_process(tmp_path: Path, target: Device, controller: Device) -> None:
    """With an encrypted-file identity and nothing set by hand but the directory."""
    with start(tmp_path, target.home.directory) as process:
        assert process.stderr is not None
        try:
            url = next(line for line in process.stderr if "running on" in line)
            url = url.split("running on ")[1].split(" ")[0]
            response = controller.amesh.fetch(url + "/orders", method="POST", json={"amount": 100})
            assert (response.status_code, response.json()) == (200, {"from": "laptop"})
        finally:
            process.terminate()
            process.stderr.read()


def test_a_process_without_an_identity_ends_with_a_clear_error(tmp_path: Path) -> None:
    with start(tmp_path, tmp_path / "nothing-here") as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) != 0
    assert f"AuthMesh: no identity in {tmp_path / 'nothing-here'}" in said
    assert "Traceback" not in said
