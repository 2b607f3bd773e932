"""Django REST framework behind the middleware, and middleware in the wrong order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sdk.devices import Device
from tests.sdk.servers.processes import Program, Running, asgi, call, running, started, wsgi

WSGI = wsgi("gunicorn", "django_app:app")
ASGI = asgi("uvicorn", "django_app:app", TEST_DJANGO="asgi").with_options("--lifespan", "off")


@pytest.fixture(scope="module", params=[WSGI, ASGI], ids=["wsgi", "asgi"])
def server(request: pytest.FixtureRequest, target: Device, controller: Device) -> Iterator[Running]:
    assert isinstance(request.param, Program)
    with running(request.param, target.home.directory) as one:
        yield one


def test_rest_framework_knows_who_calls(server: Running, controller: Device) -> None:
    answer = call(server, "GET", "/whoami", by=controller)
    assert answer.json == {
        "user": "laptop",
        "pk": controller.device_id,
        "auth": controller.device_id,
    }


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        ("application/json", b'{"a":  1}', {"a": 1}),
        ("application/x-www-form-urlencoded", b"a=1", {"a": "1"}),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B--\r\n',
            {"a": "1"},
        ),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_rest_framework_parses_what_was_verified(
    server: Running, controller: Device, kind: str, body: bytes, data: object, chunked: bool
) -> None:
    pieces = iter([body[:5], body[5:]]) if chunked else None
    headers = {"Content-Type": kind}
    answer = call(
        server, "POST", "/whoami", by=controller, body=body, pieces=pieces, headers=headers
    )
    assert answer.json == {"data": data, "raw": body.hex()}


def test_a_401_stays_a_401(server: Running) -> None:
    """On an open path nobody is authenticated; without its header the framework says 403."""
    answer = call(server, "GET", "/health/whoami")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "AuthMesh"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/staff", 403), ("POST", "/model", 403), ("GET", "/model", 200)],
)
def test_a_device_is_no_member_of_the_staff(
    server: Running, controller: Device, method: str, path: str, status: int
) -> None:
    """The permissions that come with the framework ask a user for what no device has."""
    assert call(server, method, path, by=controller).status == status


@pytest.mark.parametrize("program", [WSGI, ASGI], ids=["wsgi", "asgi"])
def test_a_missing_middleware_is_never_an_anonymous_caller(
    program: Program, target: Device, controller: Device
) -> None:
    without = program.with_options(TEST_MIDDLEWARE="none")
    with running(without, target.home.directory) as server:
        assert call(server, "GET", "/whoami", by=controller).status == 500
        server.log.wait_for(r"first in MIDDLEWARE")


@pytest.mark.parametrize("program", [WSGI, ASGI], ids=["wsgi", "asgi"])
def test_a_body_that_somebody_read_before(
    program: Program, target: Device, controller: Device
) -> None:
    """Kept, it can still be verified; parsed away, it cannot, and the log says what to do."""
    late = program.with_options(TEST_MIDDLEWARE="late")
    multipart = {"Content-Type": "multipart/form-data; boundary=B"}
    body = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B--\r\n'
    with running(late, target.home.directory) as server:
        kept = call(server, "POST", "/echo/x", by=controller, body=b'{"a":  1}')
        assert (kept.status, kept.json["body"]) == (200, b'{"a":  1}'.hex())
        gone = call(server, "POST", "/form", by=controller, body=body, headers=multipart)
        assert (gone.status, gone.body) == (500, b'{"error":"internal_error"}')
        server.log.wait_for("put 'amesh_sdk.django.AuthMeshMiddleware' first in MIDDLEWARE")


def test_options_that_cannot_work_stop_the_program(target: Device) -> None:
    with started(WSGI, target.home.directory, clock_skew_seconds=31) as (process, log, _):
        log.wait_for("nonce_window_seconds must be at least twice clock_skew_seconds")
        assert process.wait(30) != 0
