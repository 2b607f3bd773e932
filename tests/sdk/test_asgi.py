"""The ASGI adapter, request by request: who is let in, and what everybody else hears."""

from __future__ import annotations

import time
from typing import Any

import pytest

from amesh_core.errors import UsageError
from amesh_core.identity import Role
from amesh_sdk.asgi import AuthMeshMiddleware
from tests.sdk.devices import Device
from tests.sdk.recorder import Recorder, early, late, refused, signed
from tests.support.asgi import body_of, run, scope_of

# --- accepted ---------------------------------------------------------------------------


def test_an_accepted_request_carries_the_identity(target: Device, controller: Device) -> None:
    app = Recorder()
    before = int(time.time())
    result = run(target.protect(app), signed(controller, "GET", "/orders?a=1"), body_of())
    assert result.status == 200
    assert app.identity.device_id == controller.device_id
    assert app.identity.friendly_name == "laptop"
    assert before <= app.identity.verified_at <= time.time()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "PURGE"])
def test_every_method_is_verified(target: Device, controller: Device, method: str) -> None:
    app = target.protect(Recorder())
    assert run(app, signed(controller, method, "/x"), body_of()).status == 200
    assert run(app, scope_of(method, "/x"), body_of()).status == 400


def test_headers_of_any_case_are_found(target: Device, controller: Device) -> None:
    """A server that forgets to lower the case must not hide a second line."""
    value = controller.sign("GET", "/")
    app = target.protect(Recorder())
    assert run(app, scope_of("GET", "/", [(b"Authorization", value)]), body_of()).status == 200
    two = [(b"Authorization", controller.sign("GET", "/")), (b"authorization", b"Bearer x")]
    assert run(app, scope_of("GET", "/", two), body_of()).body == b'{"error":"malformed_header"}'


def test_http_1_0_and_a_mounted_path(target: Device, controller: Device) -> None:
    app = target.protect(Recorder())
    scope = signed(controller, "GET", "/api/orders", http_version="1.0", root_path="/api")
    assert run(app, scope, body_of()).status == 200


# --- refused ----------------------------------------------------------------------------


def test_a_refused_head_has_no_body(target: Device) -> None:
    """Servers differ in whether they cut it off, and some warn of it."""
    head, get = (
        run(target.protect(Recorder()), scope_of(method, "/x"), body_of())
        for method in ("HEAD", "GET")
    )
    assert (head.status, head.headers) == (get.status, get.headers)
    assert (head.body, get.body) == (b"", b'{"error":"missing_header"}')


def test_each_change_is_refused(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = target.protect(recorder)
    value = [(b"authorization", controller.sign("POST", "/a?x=1&y=2", b"body"))]
    for method, path, body in [
        ("PUT", "/a?x=1&y=2", b"body"),
        ("POST", "/b?x=1&y=2", b"body"),
        ("POST", "/a?x=1&y=3", b"body"),
        ("POST", "/a?x=1", b"body"),
        ("POST", "/a", b"body"),
        ("POST", "/%61?x=1&y=2", b"body"),
        ("POST", "/a?x=1&y=2", b"Body"),
        ("POST", "/a?x=1&y=2", b""),
    ]:
        assert refused(app, scope_of(method, path, value), body)[0] == 401
    assert not recorder.scopes
    # None of them spent the nonce, and the order of a query is no part of it.
    assert run(app, scope_of("POST", "/a?y=2&x=1", value), body_of(b"body")).status == 200


def test_a_replay_is_refused(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = target.protect(recorder)
    scope = signed(controller, "POST", "/orders", b"x")
    first, again = (run(app, dict(scope, state={}), body_of(b"x")) for _ in range(2))
    assert (first.status, again.status) == (200, 401)
    assert len(recorder.scopes) == 1


def test_every_refusal_looks_the_same(
    target: Device, controller: Device, stranger: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown, wrong role, wrong clock, wrong signature and replay: one answer, five reasons."""
    app = target.protect(Recorder())
    good = signed(controller, "GET", "/")
    run(app, dict(good), body_of())
    cases = [
        good,
        signed(stranger, "GET", "/"),
        scope_of("GET", "/other", good["headers"]),
        scope_of("GET", "/", [(b"authorization", controller.sign("GET", "/", clock=late))]),
    ]
    results = [run(app, dict(scope, state={}), body_of()) for scope in cases]
    target.revoke(controller)
    target.trust(controller, Role.TARGET)
    results.append(run(app, signed(controller, "GET", "/"), body_of()))
    assert {(r.status, tuple(sorted(r.headers.items())), r.body) for r in results} == {
        (
            401,
            (
                (b"cache-control", b"no-store"),
                (b"content-length", b"24"),
                (b"content-type", b"application/json"),
                (b"www-authenticate", b"AuthMesh"),
            ),
            b'{"error":"unauthorized"}',
        )
    }
    assert [vars(line)["reason"] for line in caplog.records] == [
        "replayed",
        "unknown_device",
        "bad_signature",
        "clock_skew",
        "not_a_controller",
    ]
    assert vars(caplog.records[3])["skew_seconds"] == pytest.approx(-45, abs=1)
    assert vars(caplog.records[3])["device_id"] == controller.device_id


def test_the_clock_may_be_wrong_by_the_skew_and_no_more(target: Device, controller: Device) -> None:
    wide = target.protect(Recorder(), clock_skew_seconds=60, nonce_window_seconds=120)
    narrow = target.protect(Recorder())
    for clock in (early, late):
        headers = [(b"authorization", controller.sign("GET", "/", clock=clock))]
        assert run(narrow, scope_of("GET", "/", headers), body_of()).status == 401
        assert run(wide, scope_of("GET", "/", headers), body_of()).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [b"Bearer x"],
        [b"Basic dTpw"],
        [b""],
        [b"AuthMesh"],
        [b"AuthMesh \xff\x00"],
        [b"x" * 5000],
    ],
)
def test_a_malformed_header_is_a_bad_request(target: Device, lines: list[bytes]) -> None:
    scope = scope_of("GET", "/", [(b"authorization", line) for line in lines])
    assert refused(target.protect(Recorder()), scope) == (400, b'{"error":"malformed_header"}')


@pytest.mark.parametrize("copies", [(1, 1), (1, 0), (0, 1)])
def test_several_authorization_lines_are_refused(
    target: Device, controller: Device, copies: tuple[int, int]
) -> None:
    good, other = controller.sign("GET", "/"), b"Bearer x"
    lines = [good if copy else other for copy in copies]
    scope = scope_of("GET", "/", [(b"authorization", line) for line in lines])
    assert refused(target.protect(Recorder()), scope) == (400, b'{"error":"malformed_header"}')


def test_another_version_is_a_bad_request(target: Device, controller: Device) -> None:
    value = controller.sign("GET", "/").replace(b'v="1"', b'v="2"')
    scope = scope_of("GET", "/", [(b"authorization", value)])
    assert refused(target.protect(Recorder()), scope) == (400, b'{"error":"unsupported_version"}')


@pytest.mark.parametrize("method", ["get", "Post", "G T", ""])
def test_odd_methods_are_bad_requests(target: Device, controller: Device, method: str) -> None:
    scope = scope_of(method, "/", [(b"authorization", controller.sign("GET", "/"))])
    assert refused(target.protect(Recorder()), scope) == (400, b'{"error":"malformed_request"}')


# --- state ------------------------------------------------------------------------------


def test_nobody_else_says_who_the_caller_is(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = target.protect(recorder, exclude=("/health",))
    planted = {"auth_mesh": "the chairman", "database": "kept"}
    assert run(app, scope_of("GET", "/health", state=dict(planted)), body_of()).status == 200
    assert recorder.scopes[0]["state"] == {"database": "kept"}
    run(app, signed(controller, "GET", "/", state=dict(planted)), body_of())
    assert recorder.identity.device_id == controller.device_id
    assert recorder.scopes[1]["state"]["database"] == "kept"


def test_an_excluded_path_needs_no_signature_and_its_body_is_left_alone(target: Device) -> None:
    recorder = Recorder(reads=2)
    app = target.protect(recorder, exclude=("/health",), max_body_bytes=1)
    run(app, scope_of("POST", "/health"), body_of(b"one", b"two"))
    assert recorder.messages == body_of(b"one", b"two")
    assert run(app, scope_of("POST", "/health/../admin"), body_of()).status == 400
    assert run(app, scope_of("POST", "/healthy"), body_of()).status == 400


# --- configuration ----------------------------------------------------------------------


def test_a_server_without_raw_path_is_an_error_that_names_it(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    app = target.protect(recorder, exclude=("/health",))
    for path in ("/", "/health"):
        scope = signed(controller, "GET", path)
        del scope["raw_path"]
        assert refused(app, scope) == (500, b'{"error":"internal_error"}')
    assert "scope['raw_path']" in caplog.text
    assert not recorder.scopes


@pytest.mark.parametrize(
    "options",
    [
        {"nonce_window_seconds": 59},
        {"clock_skew_seconds": 31},
        {"clock_skew_seconds": -1},
        {"max_body_bytes": -1},
        {"exclude": "/health"},
        {"include": ("health",)},
    ],
)
def test_options_that_cannot_work_stop_the_program(target: Device, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        target.protect(Recorder(), **options)


def test_the_environment_says_where_the_device_lives(
    target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTH_MESH_DIR", str(target.home.directory))
    app = AuthMeshMiddleware(Recorder())
    assert run(app, signed(controller, "GET", "/"), body_of()).status == 200


def test_an_unknown_kind_of_connection_is_not_let_through(target: Device) -> None:
    recorder = Recorder()
    with pytest.raises(UsageError, match="webtransport"):
        run(target.protect(recorder), scope_of(type="webtransport"))
    assert not recorder.scopes
