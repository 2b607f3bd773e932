"""Signing with requests: every attempt and every hop, and what is sent is what is signed."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.exceptions import InvalidSchema, RetryError
from urllib3.util import Retry

from amesh_core.errors import BadSignature, MalformedRequest, UsageError
from amesh_sdk.requests import SigningAdapter, SigningSession
from tests.sdk.clients.scripted import DROP, KEEP, OK, redirect, scripted
from tests.sdk.devices import Device
from tests.sdk.senders import Wire
from tests.sdk.test_fetch import echo
from tests.support.asgi import PATIENCE_SECONDS, answer, serving
from tests.support.tls import Certificate


@pytest.fixture
def session(controller: Device) -> Iterator[SigningSession]:
    with controller.amesh.requests_session() as session:
        yield session


# --- wire truth -------------------------------------------------------------------------

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "", {}),
    ("GET", "/orders?b=2&a=1", {}),
    ("GET", "/orders?b=2", {"params": {"q": "a b+c&d=é", "empty": ""}}),
    ("GET", "/orders", {"params": [("a", "2"), ("a", "1")]}),
    ("GET", "/caf\u00e9/a b/~x'y(z)", {}),
    ("GET", "/a%2Fb/%41/100%25/%2f/x[1]", {}),
    ("GET", "/a/../b/./c", {}),
    ("GET", "/x?y=[1]&z={}|^`\"'<>", {}),
    ("GET", "/x?", {}),
    ("GET", "/x#fragment", {}),
    ("delete", "/orders/7", {}),
    ("HEAD", "/orders", {}),
    ("OPTIONS", "/orders", {}),
    ("POST", "/orders", {"json": {"amount": 100, "note": "é"}}),
    ("POST", "/orders", {"json": {}}),
    ("POST", "/orders", {"data": {"a": "1 2", "b": "é&="}}),
    ("POST", "/orders", {"data": [("a", "1"), ("a", "2")]}),
    ("PUT", "/blob", {"data": bytes(range(256)) * 300}),
    ("PUT", "/blob", {"data": b"\xff\xfe\x80"}),
    ("PUT", "/blob", {"data": bytearray(b"buffer")}),
    ("PUT", "/blob", {"data": "text, é"}),
    ("POST", "/empty", {"data": b""}),
    ("POST", "/none", {}),
    ("POST", "/form", {"files": {"f": ("x.bin", b"\x00\r\n--\xff")}, "data": {"a": "1"}}),
    ("POST", "/generator", {"data": iter([b"one", b"two"])}),
    ("POST", "/nothing", {"data": iter(())}),
    ("PATCH", "/gzip", {"data": b"\x1f\x8b\x08", "headers": {"Content-Encoding": "gzip"}}),
    ("POST", "/orders", {"headers": {"Authorization": "Bearer mine"}, "data": b"x"}),
    ("POST", "/orders", {"headers": {"authorization": "Bearer mine"}, "data": b"x"}),
]


@pytest.mark.parametrize("way", ["session", "auth"])
@pytest.mark.parametrize(("method", "path", "arguments"), REQUESTS)
def test_what_is_sent_is_what_was_signed(
    controller: Device, way: str, method: str, path: str, arguments: dict[str, Any]
) -> None:
    if "data" in arguments and hasattr(arguments["data"], "__next__"):
        arguments = arguments | {"data": iter([b"one", b"two"] if "gen" in path else [])}
    amesh = controller.amesh
    with scripted(OK) as server:
        if way == "session":
            with amesh.requests_session() as session:
                response = session.request(method, server.url + path, **arguments)
        else:
            auth = amesh.requests_auth()
            url = server.url + path
            response = requests.request(method, url, auth=auth, timeout=9, **arguments)
    assert response.status_code == 200
    (wire,) = server.verified(by=controller)
    assert time.time() - 5 < int(wire.verified(by=controller).timestamp) <= time.time()
    assert wire.body == {"/generator": b"onetwo", "/nothing": b""}.get(path, wire.body)
    assert b"Transfer-Encoding" not in wire.head


def test_the_wire_test_has_teeth(controller: Device, session: SigningSession) -> None:
    with scripted(OK) as server:
        session.post(server.url, data=b"x")
    server.arrived[0].body = b"y"
    with pytest.raises(BadSignature):
        server.verified(by=controller)


def test_files_are_sent_from_where_they_stand(
    controller: Device, session: SigningSession, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with scripted(OK) as server, path.open("rb") as file, path.open() as text:
        file.seek(4)
        session.put(server.url, data=file)
        file.seek(0, os.SEEK_END)
        session.put(server.url, data=file)
        with pytest.warns(requests.exceptions.FileModeWarning):
            session.put(server.url, data=text)
        session.put(server.url, data=io.BytesIO(b"memory"))
        session.put(server.url, data=io.StringIO("é"))
        with os.fdopen(_pipe_with(b"from a pipe"), "rb") as pipe:
            session.put(server.url, data=pipe)
    bodies = [wire.body for wire in server.verified(by=controller)]
    assert bodies == [b"456789", b"", b"0123456789", b"memory", "é".encode(), b"from a pipe"]


def _pipe_with(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def test_headers_and_parameters_that_are_set_later(
    controller: Device, session: SigningSession
) -> None:
    session.params = {"tenant": "7"}
    with scripted(OK) as server:
        prepared = session.prepare_request(requests.Request("GET", server.url, params={"a": "1"}))
        prepared.headers["X-Trace"] = "later"
        session.send(prepared)
    (wire,) = server.verified(by=controller)
    assert wire.target == b"/?tenant=7&a=1"
    assert b"X-Trace: later" in wire.head


def test_what_no_verifier_admits_is_not_sent(controller: Device, session: SigningSession) -> None:
    with scripted(OK) as server:
        for send in (session.get, _with_auth(controller)):
            with pytest.raises(MalformedRequest):
                send(server.url + "//evil/admin")
    assert server.arrived == []


def _with_auth(controller: Device) -> Any:
    auth = controller.amesh.requests_auth()
    return lambda url, **more: requests.get(url, auth=auth, timeout=9, **more)


def test_a_request_with_an_auth_of_its_own_is_not_signed(session: SigningSession) -> None:
    with scripted(redirect("302 Found", "/next"), OK) as server:
        session.get(server.url, auth=HTTPBasicAuth("user", "password"))
    assert [wire.authorization for wire in server.arrived] == [[b"Basic dXNlcjpwYXNzd29yZA=="]] * 2


def test_through_a_proxy(controller: Device, session: SigningSession) -> None:
    with scripted(OK) as proxy:
        session.proxies = {"http": proxy.url}
        session.post("http://api.example:8080/a%2Fb?x=1#top", data=b"body")
    (wire,) = proxy.arrived
    assert wire.target == b"http://api.example:8080/a%2Fb?x=1"
    wire.target = b"/a%2Fb?x=1"
    wire.verified(by=controller)


def test_over_tls(controller: Device, session: SigningSession, certificate: Certificate) -> None:
    with scripted(OK, tls=certificate.for_server()) as server:
        verify = str(certificate.certificate)
        response = session.post(server.url + "/orders", json={"a": 1}, verify=verify)
        assert response.status_code == 200
    server.verified(by=controller)


# --- every attempt ----------------------------------------------------------------------


@pytest.mark.parametrize("failure", [DROP, answer("503 Service Unavailable")])
def test_every_attempt_has_a_signature_of_its_own(controller: Device, failure: bytes) -> None:
    """urllib3 sends the old nonce again, which a server that saw it refuses."""
    retry = Retry(total=3, status_forcelist=[503], allowed_methods=None)
    with (
        scripted(failure, failure, OK) as server,
        controller.amesh.requests_session(max_retries=retry) as session,
    ):
        response = session.post(server.url + "/orders?a=1", data=iter([b"one", b"two"]))
    assert response.status_code == 200
    assert [w.body for w in server.verified(by=controller)] == [b"onetwo"] * 3


def test_attempts_come_to_an_end(controller: Device) -> None:
    retry = Retry(total=2, status_forcelist=[503])
    with (
        scripted(answer("503 Service Unavailable")) as server,
        controller.amesh.requests_session(max_retries=retry) as session,
        pytest.raises(RetryError),
    ):
        session.get(server.url)
    assert len(server.verified(by=controller)) == 3


def test_every_attempt_has_a_timestamp_of_its_own(controller: Device) -> None:
    """A server is a while away: what was signed before would be out of date."""
    now = [1_000.0]
    signer = controller.signer(clock=lambda: now[0])

    def busy(_: Wire) -> bytes:
        now[0] += 60
        return answer("503 Service Unavailable")

    retry = Retry(total=1, status_forcelist=[503])
    with scripted(busy, OK) as server, SigningSession(signer, max_retries=retry) as session:
        session.get(server.url)
    assert [w.verified(by=controller).timestamp for w in server.arrived] == ["1000", "1060"]


def test_attempts_through_a_proxy(controller: Device) -> None:
    retry = Retry(total=1, status_forcelist=[503])
    with (
        scripted(answer("503 Service Unavailable"), OK) as proxy,
        controller.amesh.requests_session(max_retries=retry) as session,
    ):
        session.get("http://api.example/x", proxies={"http": proxy.url})
    for wire in proxy.arrived:
        wire.target = b"/x"
    assert len(proxy.verified(by=controller)) == 2


def test_a_connection_that_the_server_closed_is_made_anew(
    controller: Device, session: SigningSession
) -> None:
    with scripted(OK) as server:
        for _ in range(3):
            assert session.get(server.url).status_code == 200
    assert len(server.verified(by=controller)) == 3


def test_a_prepared_request_can_be_sent_again(controller: Device, session: SigningSession) -> None:
    with scripted(KEEP) as server:
        prepared = session.prepare_request(requests.Request("POST", server.url, data=b"x"))
        for _ in range(3):
            assert session.send(prepared).status_code == 200
    assert len(server.verified(by=controller)) == 3


def test_an_adapter_that_does_not_sign_is_refused(
    controller: Device, session: SigningSession
) -> None:
    """It would be mounted for its retries, which would send one signature twice."""
    with pytest.raises(UsageError, match="max_retries"):
        session.mount("https://", HTTPAdapter(max_retries=3))
    session.mount("https://api.example", SigningAdapter(controller.signer(), pool_maxsize=50))


def test_a_body_that_is_exchanged_after_it_was_prepared(session: SigningSession) -> None:
    with scripted(OK) as server:
        prepared = session.prepare_request(requests.Request("POST", server.url, data=b"x"))
        prepared.body = iter([b"y"])
        with pytest.raises(UsageError, match="body"):
            session.send(prepared)
    assert server.arrived == []


# --- every hop --------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_a_redirect_within_the_origin_is_signed_anew(
    controller: Device, session: SigningSession, status: str
) -> None:
    with scripted(redirect(status, "/hop/1?x"), redirect(status, "/hop/[2]"), OK) as server:
        response = session.post(server.url + "/start", data=io.BytesIO(b"body"))
    assert (response.status_code, len(response.history)) == (200, 2)
    arrived = server.verified(by=controller)
    assert [w.target for w in arrived] == [b"/start", b"/hop/1?x", b"/hop/%5B2%5D"]
    keeps_body = status[:3] in ("307", "308")
    expected = (b"POST", b"body") if keeps_body else (b"GET", b"")
    assert [(w.method, w.body) for w in arrived[1:]] == [expected] * 2


def test_another_origin_gets_no_signature(controller: Device, session: SigningSession) -> None:
    with scripted(OK) as other, scripted(redirect("307 T", f"{other.url}/collect")) as server:
        assert session.post(server.url + "/x", data=b"body").status_code == 200
    server.verified(by=controller)
    (wire,) = other.arrived
    assert (wire.target, wire.authorization) == (b"/collect", [])


def test_who_was_sent_away_is_not_signed_for_on_the_way_back(
    controller: Device, session: SigningSession
) -> None:
    """A foreign server could otherwise choose a target, and have it signed."""
    with scripted(lambda _: redirect("302 F", f"{server.url}/admin")) as other:
        away = redirect("302 F", other.url)
        with scripted(away, redirect("302 F", "/admin/2"), OK) as server:
            session.get(server.url + "/open-redirect")
    assert [(w.target, len(w.authorization)) for w in server.arrived] == [
        (b"/open-redirect", 1),
        (b"/admin", 0),
        (b"/admin/2", 0),
    ]


def test_the_way_to_tls_is_another_origin(session: SigningSession) -> None:
    """requests keeps the header from http to https of one host, by the default ports."""
    seen: list[str | bytes | None] = []

    class Fake(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
            seen.append(request.headers.get("Authorization"))
            response = requests.Response()
            response.request, response.url = request, str(request.url)
            response.raw = io.BytesIO()
            response.status_code = 302 if len(seen) == 1 else 200
            response.headers["Location"] = "https://api.example/x"
            return response

        def close(self) -> None:
            pass

    for prefix in ("http://", "https://"):
        session.mount(prefix, Fake())
    session.get("http://api.example/")
    assert seen == ["AuthMesh", None]


@pytest.mark.parametrize("signed", [True, False])
def test_a_redirect_from_https_to_http_is_refused(
    session: SigningSession, certificate: Certificate, signed: bool
) -> None:
    verify = str(certificate.certificate)
    auth = None if signed else HTTPBasicAuth("user", "password")
    with scripted(OK) as plain:
        away = redirect("307 T", plain.url)
        with (
            scripted(away, tls=certificate.for_server()) as server,
            pytest.raises(InvalidSchema, match="https to http"),
        ):
            session.post(server.url, data=b"secret", auth=auth, verify=verify)
    assert len(server.arrived) == 1
    assert plain.arrived == []


def test_netrc_does_not_take_the_place_of_a_signature(
    controller: Device, session: SigningSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with scripted(redirect("302 F", "/next"), OK) as server:
        session.get(server.url)
    assert len(server.verified(by=controller)) == 2


# --- one auth, one request --------------------------------------------------------------


def test_an_auth_that_is_sent_on_by_a_redirect_is_an_error(controller: Device) -> None:
    with (
        scripted(redirect("302 F", "/next"), answer("401 Unauthorized")) as server,
        pytest.raises(UsageError, match="requests_session"),
    ):
        _with_auth(controller)(server.url)
    with scripted(redirect("302 F", "/next")) as server:
        assert _with_auth(controller)(server.url, allow_redirects=False).status_code == 302


def test_an_auth_that_is_sent_again_by_a_retry_is_an_error(controller: Device) -> None:
    retry = Retry(total=3, status_forcelist=[503])
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.auth = controller.amesh.requests_auth()
        busy, refused = answer("503 Service Unavailable"), answer("401 Unauthorized")
        with scripted(busy, refused) as server, pytest.raises(UsageError, match="requests_session"):
            session.get(server.url)
        with scripted(busy, OK) as server:  # the first attempt was not looked at
            assert session.get(server.url).status_code == 200
        with scripted(refused) as server:  # and here is nothing to explain
            assert session.get(server.url).status_code == 401


def test_a_redirect_to_another_origin_is_left_alone(controller: Device) -> None:
    with scripted(OK) as other, scripted(redirect("302 F", other.url)) as server:
        assert _with_auth(controller)(server.url).status_code == 200
    assert other.arrived[0].authorization == []


# --- many at a time ---------------------------------------------------------------------


def test_sixteen_threads_share_one_session(
    target: Device, controller: Device, session: SigningSession, derivations: list[int]
) -> None:
    together = threading.Barrier(16)
    with serving(target.protect(echo)) as server:

        def calls(number: int) -> list[str]:
            together.wait(PATIENCE_SECONDS)
            bodies = [f"{number}.{n}" for n in range(10)]
            return [session.post(server.url, data=body).text for body in bodies]

        with ThreadPoolExecutor(16) as threads:
            results = list(threads.map(calls, range(16)))
    assert results == [
        [f"{controller.device_id} {number}.{n}" for n in range(10)] for number in range(16)
    ]
    assert len(derivations) == 2  # one for each of the two devices
