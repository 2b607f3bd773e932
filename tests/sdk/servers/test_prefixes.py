"""Apps under a prefix: what is signed is the path that the client sent, whoever cut it."""

from __future__ import annotations

import pytest

from tests.sdk.devices import Device
from tests.sdk.servers.processes import Program, asgi, call, running, wsgi

ROOT_PATHS = {
    "uvicorn": asgi("uvicorn").with_options("--root-path", "/api"),
    "hypercorn": asgi("hypercorn").with_options("--root-path", "/api"),
    "granian": asgi("granian").with_options("--url-path-prefix", "/api"),
    "daphne": asgi("daphne").with_options("--root-path", "/api"),
    "waitress": wsgi("waitress").before("--listen", "--url-prefix=/api"),
    "django-uvicorn": asgi("uvicorn", "django_app:app", TEST_DJANGO="asgi").with_options(
        "--root-path", "/api", "--lifespan", "off"
    ),
    # FORCE_SCRIPT_NAME, which Django's own router goes by.
    "django-uvicorn-forced": asgi(
        "uvicorn", "django_app:app", TEST_DJANGO="asgi", TEST_SCRIPT_NAME="/api"
    ).with_options("--lifespan", "off"),
    "django-gunicorn": wsgi("gunicorn", "django_app:app", TEST_SCRIPT_NAME="/api"),
}


@pytest.mark.parametrize("program", list(ROOT_PATHS.values()), ids=list(ROOT_PATHS))
def test_behind_a_proxy_that_cuts_the_prefix_off(
    program: Program, target: Device, controller: Device
) -> None:
    """Here the proxy is the test: it signs for /api/..., and sends the rest."""
    with running(program, target.home.directory) as server:
        whole = "/api/echo/x?a=1"
        accepted = call(server, "GET", "/echo/x?a=1", by=controller, signed_target=whole)
        assert accepted.status == 200, accepted.body
        # ASGI servers differ in whether the prefix is part of the path.
        assert accepted.json["path"] in ("/api/echo/x", "/echo/x")
        # Not for the path that is left, nor for another prefix.
        for other in ("/echo/x?a=1", "/apis/echo/x?a=1", "/api/api/echo/x?a=1"):
            refused = call(server, "GET", "/echo/x?a=1", by=controller, signed_target=other)
            assert refused.status == 401
        assert call(server, "GET", "/health").json["known"] is False
        assert call(server, "GET", "/echo/x").status == 400


KEPT = {name: ROOT_PATHS[name] for name in ("hypercorn", "granian", "daphne", "waitress")} | {
    "gunicorn": wsgi("gunicorn", SCRIPT_NAME="/api"),
    "flask-gunicorn": wsgi("gunicorn", "flask_app:app", SCRIPT_NAME="/api"),
    "django-gunicorn": wsgi("gunicorn", "django_app:app", SCRIPT_NAME="/api"),
    "uvicorn-mount": asgi("uvicorn", "asgi_app:mounted"),
    "hypercorn-mount": asgi("hypercorn", "asgi_app:mounted"),
    "granian-mount": asgi("granian", "asgi_app:mounted"),
    "daphne-mount": asgi("daphne", "asgi_app:mounted"),
}


@pytest.mark.parametrize("program", list(KEPT.values()), ids=list(KEPT))
def test_mounted_or_behind_a_proxy_that_keeps_the_prefix(
    program: Program, target: Device, controller: Device
) -> None:
    with running(program, target.home.directory) as server:
        accepted = call(server, "GET", "/api/echo/x?a=1", by=controller)
        assert accepted.status == 200, accepted.body
        assert accepted.json["path"] == "/api/echo/x"
        without = call(server, "GET", "/api/echo/x", by=controller, signed_target="/echo/x")
        assert without.status == 401
        assert call(server, "GET", "/api/health").json["known"] is False
        assert call(server, "GET", "/api/echo/x").status == 400


def test_a_prefix_in_a_header_behind_proxy_fix(target: Device, controller: Device) -> None:
    """ProxyFix stands outside of AuthMesh, and says which prefix the proxy has cut off."""
    with running(wsgi("gunicorn", "flask_app:proxied"), target.home.directory) as server:
        prefix = {"X-Forwarded-Prefix": "/api"}
        accepted = call(
            server, "GET", "/echo/x", by=controller, signed_target="/api/echo/x", headers=prefix
        )
        assert (accepted.status, accepted.json["path"]) == (200, "/api/echo/x")


def test_a_header_does_not_move_the_app(target: Device, controller: Device) -> None:
    """gunicorn lets localhost say SCRIPT_NAME: one signature would be good for two routes."""
    with running(wsgi("gunicorn"), target.home.directory) as server:
        move = {"SCRIPT_NAME": "/echo"}
        before = server.served
        answer = call(server, "GET", "/echo/health", by=controller, headers=move)
        assert (answer.status, answer.body) == (500, b'{"error":"internal_error"}')
        # Nor is what is open under one name opened under another.
        assert call(server, "GET", "/echo/health", headers=move).status == 500
        assert server.served == before
        server.log.wait_for("SCRIPT_NAME was taken from a header, which is not signed")


def test_a_route_that_looks_like_the_prefix_twice(target: Device, controller: Device) -> None:
    """Open is what the router takes for open: /api/health of the app is not /health."""
    program = wsgi("gunicorn", SCRIPT_NAME="/echo")
    with running(program, target.home.directory, exclude=["/x"]) as server:
        # The app's own path is /echo/x; without its prefix twice over it would be /x.
        assert call(server, "GET", "/echo/echo/x").status == 400
        assert call(server, "GET", "/echo/echo/x", by=controller).status == 200
