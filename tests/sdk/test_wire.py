"""What comes over a socket: every body, method, target and header, to a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
import websockets
from websockets.exceptions import InvalidStatus

from amesh_sdk import AuthMeshMiddleware
from tests.sdk.devices import Device, make_controller, make_stranger, make_target
from tests.sdk.service import METHODS, Service, send
from tests.support.asgi import PATIENCE_SECONDS, Served, read_to_end, serving, status_of

# One server for all: nothing here changes whom it trusts.


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return make_target(tmp_path_factory.mktemp("wire"))


@pytest.fixture(scope="module")
def controller(target: Device) -> Device:
    return make_controller(target)


@pytest.fixture(scope="module")
def stranger(target: Device) -> Device:
    return make_stranger(target)


@pytest.fixture(scope="module", params=["h11", "httptools"])
def shared(
    request: pytest.FixtureRequest, target: Device, controller: Device
) -> Iterator[tuple[Service, Served]]:
    """uvicorn with each of its parsers; `uvicorn[standard]` brings httptools."""
    service = Service()
    service.app.add_middleware(
        AuthMeshMiddleware, settings=target.settings, exclude=("/health",), max_body_bytes=100_000
    )
    with serving(service.app, http=request.param) as server:
        yield service, server


@pytest.fixture
def service(shared: tuple[Service, Served]) -> Service:
    shared[0].served.clear()
    return shared[0]


@pytest.fixture
def served(shared: tuple[Service, Served]) -> Served:
    return shared[1]


@pytest.mark.parametrize(
    "body",
    [b"", b'{ "a" :1 }', bytes(range(256)), b"\xff\xfe\x80", "é".encode(), b"x" * 100_000],
    ids=["empty", "json", "binary", "not-utf8", "utf8", "limit"],
)
def test_every_body_arrives_as_it_was_sent(served: Served, controller: Device, body: bytes) -> None:
    response = controller.amesh.fetch(served.url + "/x", method="PUT", content=body)
    assert (response.status_code, response.content) == (200, body)


def test_two_bodies_that_are_not_utf8_do_not_share_a_signature(
    served: Served, controller: Device
) -> None:
    headers = controller.amesh.sign("POST", served.url + "/x", b"\xff")
    assert send(served, "POST", "/x", headers, b"\xfe").status_code == 401
    assert send(served, "POST", "/x", headers, "\ufffd".encode()).status_code == 401


@pytest.mark.parametrize("method", METHODS)
def test_every_method(served: Served, controller: Device, method: str) -> None:
    response = controller.amesh.fetch(served.url + "/x", method=method)
    assert response.status_code == 200
    assert response.headers["X-Method"] == method


@pytest.mark.parametrize(
    "path",
    ["/caf\u00e9/a b", "/a%2Fb/%41", "/a//b", "/~user/x;y=z", "/x?q=a+b%20c&q=&%ff=1", "/x?b&a="],
)
def test_odd_paths_and_queries(served: Served, controller: Device, path: str) -> None:
    assert controller.amesh.fetch(served.url + path).status_code == 200


def test_an_excluded_path_is_open_and_its_neighbours_are_not(
    served: Served, service: Service
) -> None:
    assert send(served, "GET", "/health", {}).json() == {"known": False}
    for path in ("/healthy", "/health.json", "/", "/Health"):
        assert send(served, "GET", path, {}).json() == {"error": "missing_header"}
    for path in ("/health/../admin", "/health/%2e%2e/admin", "/health%2f..%2fadmin", "//health"):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert status_of(served.send(request.encode())) == 400
    assert service.served == []


def raw(method: str, path: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        ("/admin", "/public/../admin"),
        ("/admin", "/public/%2e%2e/admin"),
        ("/admin", "/public/.%2E/admin"),
        ("/admin", "/./admin"),
        ("/admin", "//evil/admin"),
        ("/admin", "//evil.example/admin"),
        ("/admin", "/public\\..\\admin"),
        ("/admin", "http://evil.example/admin"),
        ("/admin", "HTTP://localhost/admin"),
        ("/admin", "admin"),
        ("/admin", "*"),
        ("/", "//"),
        ("/", "/.."),
        ("/admin", "/admin#top"),
        ("/?q=%EF%BF%BD", "/?q=\u00ff"),
    ],
)
def test_no_signature_is_good_for_another_target(
    served: Served, service: Service, controller: Device, signed: str, sent: str
) -> None:
    headers = controller.amesh.sign("GET", served.url + signed)
    line = f"Authorization: {headers['Authorization']}"
    status = status_of(served.send(raw("GET", sent, line)))
    # httptools takes authority and fragment off, and hands over no trace of them: the app
    # then sees what was signed, and only that.
    if status == 200:
        assert sent in ("http://evil.example/admin", "HTTP://localhost/admin", "/admin#top")
        assert service.served == [signed]
        return
    assert status == 400
    assert service.served == []
    assert status_of(served.send(raw("GET", signed, line))) == 200


@pytest.mark.parametrize(
    "sent", ["/%61dmin", "/admin/", "/Admin", "/admin;x", "/public%2f..%2fadmin", "/admin?"]
)
def test_another_spelling_is_another_target(
    served: Served, service: Service, controller: Device, sent: str
) -> None:
    headers = controller.amesh.sign("GET", served.url + "/admin")
    answer = served.send(raw("GET", sent, f"Authorization: {headers['Authorization']}"))
    # A lone "?" is not part of a target: the one alias there is, of the same resource.
    assert status_of(answer) == (200 if sent == "/admin?" else 401)


def test_two_authorization_lines_are_refused(
    served: Served, service: Service, controller: Device
) -> None:
    good = f"Authorization: {controller.amesh.sign('GET', served.url)['Authorization']}"
    for lines in [(good, good), (good, "authorization: Bearer x"), ("Authorization: x", good)]:
        answer = served.send(raw("GET", "/", *lines))
        assert status_of(answer) == 400
        assert answer.endswith(b'{"error":"malformed_header"}')
    assert service.served == []


@pytest.mark.parametrize("host", ["", "[", "a b", "@", "::", "x" * 3000, "\u00ff", "%", "a,b"])
def test_a_junk_host_is_no_server_error(served: Served, controller: Device, host: str) -> None:
    value = controller.amesh.sign("GET", served.url + "/x")["Authorization"]
    for target in ("/x", "//"):
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            f"Authorization: {value}\r\n\r\n"
        )
        assert status_of(served.send(request.encode("latin-1"))) < 500


def test_http_1_0(served: Served, controller: Device) -> None:
    value = controller.amesh.sign("POST", served.url + "/x", b"body")["Authorization"]
    headers = (f"Authorization: {value}", "Content-Length: 4")
    answer = served.send(raw("POST", "/x", *headers, body=b"body", version="1.0"))
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\nbody")


def test_a_body_in_many_chunks(served: Served, controller: Device) -> None:
    value = controller.amesh.sign("POST", served.url + "/x", b"one two")["Authorization"]
    headers = (f"Authorization: {value}", "Transfer-Encoding: chunked")
    body = b"3\r\none\r\n1\r\n \r\n3\r\ntwo\r\n0\r\n\r\n"
    answer = served.send(raw("POST", "/x", *headers, body=body))
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\none two")


def test_too_much_is_refused_before_it_is_sent(served: Served, controller: Device) -> None:
    value = controller.amesh.sign("POST", served.url + "/x", b"")["Authorization"]
    headers = (f"Authorization: {value}", f"Content-Length: {400 * 1024 * 1024}")
    # The server answers while the body is still to come.
    answer = served.send(raw("POST", "/x", *headers))
    assert status_of(answer) == 413


def test_a_client_is_not_asked_for_a_body_that_will_not_be_read(
    served: Served, stranger: Device
) -> None:
    """Expect: 100-continue; the refusal comes instead of the invitation."""
    value = stranger.amesh.sign("POST", served.url + "/x", b"body")["Authorization"]
    headers = (f"Authorization: {value}", "Content-Length: 4", "Expect: 100-continue")
    assert status_of(served.send(raw("POST", "/x", *headers))) == 401


def test_the_signature_is_not_in_the_way_of_a_half_sent_body(
    served: Served, service: Service, controller: Device
) -> None:
    """A client that hangs up in the middle leaves the server as it was."""
    value = controller.amesh.sign("POST", served.url + "/x", b"whole")["Authorization"]
    connection = socket.create_connection((served.host, served.port), PATIENCE_SECONDS)
    with closing(connection):
        connection.sendall(
            raw("POST", "/x", f"Authorization: {value}", "Content-Length: 5", body=b"wh")
        )
        connection.shutdown(socket.SHUT_WR)
        read_to_end(connection)
    headers = (f"Authorization: {value}", "Content-Length: 5")
    assert status_of(served.send(raw("POST", "/x", *headers, body=b"whole"))) == 200
    assert service.served == ["/x"]


def test_streaming_answers_and_background_tasks(
    served: Served, service: Service, controller: Device
) -> None:
    assert controller.amesh.fetch(served.url + "/events").text == "".join(
        f"data: {number}\n\n" for number in range(3)
    )
    response = controller.amesh.fetch(served.url + "/later", method="POST", json={})
    assert response.json() == {"status": "taken"}
    assert service.background.wait(PATIENCE_SECONDS)


def test_an_app_sees_that_its_client_left(
    served: Served, service: Service, controller: Device
) -> None:
    value = controller.amesh.sign("GET", served.url + "/forever")["Authorization"]
    with socket.create_connection((served.host, served.port), PATIENCE_SECONDS) as connection:
        connection.sendall(raw("GET", "/forever", f"Authorization: {value}"))
        assert status_of(connection.recv(1000)) == 200
        assert service.streaming.wait(PATIENCE_SECONDS)
        assert not service.left.is_set()
    assert service.left.wait(PATIENCE_SECONDS)


def test_a_signed_websocket_talks_and_an_unsigned_one_does_not(
    served: Served, service: Service, controller: Device, stranger: Device
) -> None:
    url = served.url.replace("http", "ws") + "/ws?room=1"

    async def talk(headers: dict[str, str]) -> str:
        async with websockets.connect(url, additional_headers=headers, proxy=None) as connection:
            await connection.send("hello")
            return str(await connection.recv())

    async def refused(headers: dict[str, str]) -> tuple[int, bytes]:
        with pytest.raises(InvalidStatus) as caught:
            await talk(headers)
        response = caught.value.response
        return response.status_code, bytes(response.body or b"")

    async def main() -> None:
        headers = await controller.amesh.asign("GET", url)
        assert await talk(headers) == "laptop said hello"
        assert await refused(headers) == (401, b'{"error":"unauthorized"}')
        assert await refused({}) == (400, b'{"error":"missing_header"}')
        unknown = await stranger.amesh.asign("GET", url)
        assert await refused(unknown) == (401, b'{"error":"unauthorized"}')
        elsewhere = await controller.amesh.asign("GET", url.replace("room=1", "room=2"))
        assert await refused(elsewhere) == (401, b'{"error":"unauthorized"}')

    asyncio.run(main())
    assert service.served == ["/ws"]
