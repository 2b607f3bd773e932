"""Servers that show a decoded path only: refused, with the name of what to change."""

from __future__ import annotations

import pytest

from tests.sdk.devices import Device
from tests.sdk.servers.processes import Program, asgi, call, running, wsgi

HIDING = {
    "granian": wsgi("granian"),
    "wsgiref": wsgi("wsgiref"),
    "granian-flask": wsgi("granian", "flask_app:app"),
    "granian-django": wsgi("granian", "django_app:app"),
}


@pytest.mark.parametrize("program", list(HIDING.values()), ids=list(HIDING))
def test_it_is_refused_and_never_guessed(
    program: Program, target: Device, controller: Device
) -> None:
    with running(program, target.home.directory) as server:
        for path in ("/echo/x", "/health"):
            answer = call(server, "GET", path, by=controller)
            assert (answer.status, answer.body) == (500, b'{"error":"internal_error"}')
        server.log.wait_for("neither RAW_URI nor REQUEST_URI is in the WSGI environ")
        server.log.wait_for("run the app under gunicorn or waitress")


def test_a_wsgi_app_in_an_asgi_server_hides_it_too(target: Device, controller: Device) -> None:
    """hypercorn runs WSGI apps by itself, with a decoded path."""
    with running(asgi("hypercorn", "wsgi_app:app"), target.home.directory) as server:
        assert call(server, "GET", "/echo/x", by=controller).status == 500
        server.log.wait_for("neither RAW_URI nor REQUEST_URI is in the WSGI environ")
