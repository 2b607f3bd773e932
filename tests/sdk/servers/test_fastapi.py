"""CurrentDevice: reads what the middleware verified, and never lets its absence pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from starlette.middleware.cors import CORSMiddleware

from amesh_core.errors import UsageError
from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app, scheme
from tests.sdk.devices import Device
from tests.sdk.recorder import signed
from tests.support.asgi import App, body_of, run, scope_of


def app_that_asks() -> FastAPI:
    app = FastAPI()

    @app.post("/orders")
    async def orders(device: CurrentDevice, order: dict[str, int]) -> dict[str, object]:
        return {"from": device.device_id, "order": order}

    @app.post("/form")
    async def form(device: CurrentDevice, name: Annotated[str, Form()]) -> dict[str, str]:
        return {"from": device.friendly_name, "name": name}

    return app


def test_a_route_knows_who_calls(target: Device, controller: Device) -> None:
    app = app_that_asks()
    app.add_middleware(AuthMeshMiddleware, settings=target.settings)
    scope = signed(controller, "POST", "/orders", b'{"a":1}')
    scope["headers"].append((b"content-type", b"application/json"))
    result = run(app, scope, body_of(b'{"a":1}'))
    assert result.status == 200
    assert controller.device_id.encode() in result.body


def test_a_form_beside_it(target: Device, controller: Device) -> None:
    """A dependency that read the body would leave nothing for the form parser."""
    app = app_that_asks()
    app.add_middleware(AuthMeshMiddleware, settings=target.settings)
    scope = signed(controller, "POST", "/form", b"name=x")
    scope["headers"].append((b"content-type", b"application/x-www-form-urlencoded"))
    result = run(app, scope, body_of(b"name=x"))
    assert (result.status, result.body) == (200, b'{"from":"laptop","name":"x"}')


def test_nobody_is_told_what_is_wrong_with_a_body_before_it_is_known_who_asks(
    target: Device, controller: Device
) -> None:
    app = app_that_asks()
    app.add_middleware(AuthMeshMiddleware, settings=target.settings)
    assert run(app, scope_of("POST", "/orders"), body_of(b"{")).status == 400
    assert b"missing_header" in run(app, scope_of("POST", "/orders"), body_of(b"{")).body
    assert run(app, signed(controller, "POST", "/orders", b"{"), body_of(b"{")).status == 422


def test_the_document_has_the_scheme() -> None:
    document = app_that_asks().openapi()
    scheme = document["components"]["securitySchemes"]["AuthMesh"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "AuthMesh")
    assert document["paths"]["/orders"]["post"]["security"] == [{"AuthMesh": []}]
    parameters = document["paths"]["/orders"]["post"].get("parameters", [])
    assert parameters == [], "the dependency asks the caller for nothing"


def admin(device: CurrentDevice) -> str:
    return device.device_id


# --- without the middleware -------------------------------------------------------------


def raised_by(app: App, scope: dict[str, object]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        run(app, scope, body_of(b"{}"))
    return caught.value


def test_a_missing_middleware_stops_the_program_at_its_start() -> None:
    with pytest.raises(UsageError, match=r"/orders .* app\.add_middleware\(AuthMeshMiddleware\)"):
        check_app(app_that_asks())


def test_it_is_found_behind_dependencies_of_dependencies() -> None:
    app = FastAPI()

    @app.get("/admin")
    async def route(who: Annotated[str, Depends(admin)]) -> str:
        return who

    with pytest.raises(UsageError, match="/admin"):
        check_app(app)
    app.add_middleware(AuthMeshMiddleware)
    check_app(app)


def included(app: FastAPI) -> None:
    router, inner = APIRouter(prefix="/v1"), APIRouter(prefix="/of")
    inner.get("/asks")(admin)
    router.include_router(inner)
    app.include_router(router)


def included_with_dependencies(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1/of")
    router.get("/asks")(lambda: "hello")
    app.include_router(router, dependencies=[Depends(scheme)])


def mounted(app: FastAPI) -> None:
    inner = FastAPI()
    inner.get("/v1/of/asks")(admin)
    app.mount("/inner", inner)


def a_websocket(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1")
    router.add_api_websocket_route("/of/asks", admin)
    app.include_router(router)


@pytest.mark.parametrize("build", [included, included_with_dependencies, mounted, a_websocket])
def test_it_is_found_wherever_the_route_is(build: Callable[[FastAPI], None]) -> None:
    app = FastAPI()
    build(app)
    with pytest.raises(UsageError, match=r"^/v1/of/asks asks for CurrentDevice"):
        check_app(app)
    app.add_middleware(AuthMeshMiddleware)
    check_app(app)


def test_a_mounted_app_may_have_a_middleware_of_its_own() -> None:
    app, inner = FastAPI(), FastAPI()
    inner.get("/asks")(admin)
    app.mount("/inner", inner)
    inner.add_middleware(AuthMeshMiddleware)
    check_app(app)


def test_an_app_that_asks_nobody_needs_no_middleware() -> None:
    app = FastAPI()
    app.get("/")(lambda: "hello")
    check_app(app)


@pytest.mark.parametrize("planted", [{}, {"auth_mesh": "root"}, {"auth_mesh": {"device_id": "x"}}])
def test_a_missing_middleware_is_never_an_anonymous_caller(
    controller: Device, planted: dict[str, object]
) -> None:
    scope = dict(signed(controller, "POST", "/orders", b"{}", state=planted))
    error = raised_by(app_that_asks(), scope)
    assert "add the middleware" in str(error)


def test_the_caller_hears_500(controller: Device) -> None:
    transport = httpx2.ASGITransport(app_that_asks(), raise_app_exceptions=False)

    async def ask() -> int:
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.post("/orders", json={})).status_code

    assert asyncio.run(ask()) == 500


def test_a_route_that_is_excluded_and_asks_is_a_mistake(target: Device) -> None:
    app = app_that_asks()
    app.add_middleware(AuthMeshMiddleware, settings=target.settings, exclude=("/orders",))
    assert "do not exclude this path" in str(raised_by(app, scope_of("POST", "/orders")))


# --- preflights -------------------------------------------------------------------------


def test_cors_stands_in_front(target: Device, controller: Device) -> None:
    """A browser cannot sign a preflight: who answers it must stand outside, added last."""
    app = app_that_asks()
    app.add_middleware(AuthMeshMiddleware, settings=target.settings)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["POST"])
    preflight = [
        (b"origin", b"https://a.example"),
        (b"access-control-request-method", b"POST"),
    ]
    result = run(app, scope_of("OPTIONS", "/orders", preflight), body_of())
    assert result.status == 200
    assert result.headers[b"access-control-allow-origin"] == b"https://a.example"
    refused = run(app, scope_of("POST", "/orders", preflight[:1]), body_of())
    assert refused.status == 400
    assert refused.headers[b"access-control-allow-origin"] == b"https://a.example"
    # An OPTIONS request that is no preflight is a request like any other.
    assert run(app, scope_of("OPTIONS", "/orders"), body_of()).status == 400
