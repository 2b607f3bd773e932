"""WebSocket handshakes, the lifespan, and many connections at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from amesh_core.errors import NoIdentity
from amesh_core.settings import Settings
from amesh_sdk.asgi import AuthMeshMiddleware
from tests.sdk.devices import Device
from tests.sdk.recorder import Recorder, refused, signed
from tests.support.asgi import Message, Receive, Scope, Send, body_of, exchange, run, scope_of

# --- WebSocket --------------------------------------------------------------------------

CONNECT = {"type": "websocket.connect"}
DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


def handshake(target: str, headers: list[tuple[bytes, bytes]], **more: Any) -> Scope:
    scope = scope_of("GET", target, headers, type="websocket", **more)
    del scope["method"]  # a WebSocket scope has none
    return scope


def test_a_signed_handshake_reaches_the_app(target: Device, controller: Device) -> None:
    recorder = Recorder()
    headers = [(b"authorization", controller.sign("GET", "/ws?room=1"))]
    run(target.protect(recorder), handshake("/ws?room=1", headers), [CONNECT])
    assert recorder.messages == [CONNECT]
    assert recorder.identity.device_id == controller.device_id


def test_a_refused_handshake_is_answered_where_the_server_can(
    target: Device, stranger: Device
) -> None:
    recorder = Recorder()
    headers = [(b"authorization", stranger.sign("GET", "/ws"))]
    scope = handshake("/ws", headers, **DENIAL)
    result = run(target.protect(recorder), scope, [CONNECT])
    assert [message["type"] for message in result.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (result.status, result.body) == (401, b'{"error":"unauthorized"}')
    assert result.headers[b"www-authenticate"] == b"AuthMesh"
    assert not recorder.scopes


@pytest.mark.parametrize("extensions", [None, {}, {"other": {}}])
def test_a_refused_handshake_is_closed_before_it_is_accepted(
    target: Device, extensions: dict[str, Any] | None
) -> None:
    recorder = Recorder()
    scope = handshake("/ws", [], extensions=extensions)
    result = run(target.protect(recorder), scope, [CONNECT])
    assert [message["type"] for message in result.sent] == ["websocket.close"]
    assert not recorder.scopes


def test_a_refused_handshake_that_is_gone_is_not_answered(target: Device) -> None:
    scope = handshake("/ws", [], **DENIAL)
    result = run(target.protect(Recorder()), scope, [{"type": "websocket.disconnect"}])
    assert result.sent == []


def test_a_handshake_is_accepted_once(target: Device, controller: Device) -> None:
    app = target.protect(Recorder())
    headers = [(b"authorization", controller.sign("GET", "/ws"))]
    run(app, handshake("/ws", headers), [CONNECT])
    result = run(app, handshake("/ws", headers, **DENIAL), [CONNECT])
    assert result.status == 401


# --- lifespan ---------------------------------------------------------------------------

STARTUP: Message = {"type": "lifespan.startup"}
SHUTDOWN: Message = {"type": "lifespan.shutdown"}
LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}


def test_the_lifespan_passes_through(
    target: Device, controller: Device, derivations: list[int]
) -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["database"] = "open"
            seen.append(await receive())
            assert len(derivations) == 1  # unlocked before the app starts
            await send({"type": "lifespan.startup.complete"})
            seen.append(await receive())
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await Recorder()(scope, receive, send)

    protected = target.protect(app)
    scope = dict(LIFESPAN, state={})
    result = run(protected, scope, [STARTUP, SHUTDOWN])
    assert seen == [STARTUP, SHUTDOWN]
    assert [message["type"] for message in result.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert scope["state"] == {"database": "open"}
    for _ in range(3):
        assert run(protected, signed(controller, "GET", "/"), body_of()).status == 200
    # Once for the target, once for the controller's own signatures, never per request.
    assert len(derivations) == 2


def test_an_app_without_lifespan_stays_one(target: Device) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "no lifespan here"

    with pytest.raises(AssertionError, match="no lifespan here"):
        run(target.protect(app), dict(LIFESPAN), [STARTUP])


def test_without_an_identity_nothing_starts(
    target: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and raised: Starlette's TestClient takes who only says it for started."""
    recorder = Recorder()
    nowhere = Settings(target.home.directory / "nothing-here")
    app = AuthMeshMiddleware(recorder, settings=nowhere)
    sent: list[Message] = []

    async def receive() -> Message:
        return STARTUP

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(NoIdentity):
        asyncio.run(app(dict(LIFESPAN), receive, send))
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert message["message"].startswith("AuthMesh: no identity in ")
    assert "`amesh init` makes one" in message["message"]
    assert not recorder.scopes
    assert "no identity in" in caplog.text


def test_without_a_lifespan_the_first_request_says_why(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    nowhere = Settings(target.home.directory / "nothing-here")
    app = AuthMeshMiddleware(recorder, settings=nowhere)
    for _ in range(2):
        scope = signed(controller, "GET", "/")
        assert refused(app, scope) == (500, b'{"error":"internal_error"}')
    assert caplog.text.count("no identity in") == 2
    assert not recorder.scopes


def test_a_broken_list_does_not_stop_the_start(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be mended while the program runs; until then nobody gets in."""
    whole = target.list_file.read_bytes()
    target.list_file.write_bytes(whole.replace(b'"laptop"', b'"mallet"'))
    recorder = Recorder(reads=0)
    app = target.protect(recorder)
    run(app, dict(LIFESPAN), [STARTUP])
    assert [scope["type"] for scope in recorder.scopes] == ["lifespan"]
    assert [(line.levelno, vars(line)["reason"]) for line in caplog.records] == [
        (logging.ERROR, "allow_list_tampered")
    ]
    answer = refused(app, signed(controller, "GET", "/"))
    assert answer == (500, b'{"error":"allow_list_integrity_failure"}')
    target.list_file.write_bytes(whole)
    assert run(app, signed(controller, "GET", "/"), body_of()).status == 200


# --- many at a time ---------------------------------------------------------------------


def test_fifty_first_requests_at_once(
    target: Device, controller: Device, derivations: list[int]
) -> None:
    app = target.protect(Recorder())

    async def all_of_them() -> list[int]:
        scopes = [signed(controller, "POST", f"/{n}", b"x") for n in range(50)]
        results = (exchange(app, scope, body_of(b"x")) for scope in scopes)
        return [result.status for result in await asyncio.gather(*results)]

    assert asyncio.run(all_of_them()) == [200] * 50
    assert len(derivations) == 2  # the controller's own, and the target's
