"""The ASGI adapter: it gathers what a request says, asks the guard, and decides nothing.

Pure ASGI, no framework: an accepted request reaches the app with the very body that was
verified; streaming answers, background tasks and disconnects never pass through our hands.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from amesh_core.errors import AmeshError, PayloadTooLarge, UsageError
from amesh_core.nonces import AsyncNonceStore, NonceStore
from amesh_core.settings import Settings
from amesh_core.verification import Policy
from amesh_sdk.answers import Answer, answer, record
from amesh_sdk.guard import Guard
from amesh_sdk.heads import head_of
from amesh_sdk.opened import opened
from amesh_sdk.paths import Paths, target_as_sent

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE_KEY: Final = "auth_mesh"  # request.state.auth_mesh
ONE_MIB: Final = 1024 * 1024

_DENIAL_RESPONSE: Final = "websocket.http.response"


class ClientGone(Exception):
    """The client left before its body was whole; nobody is there to be answered."""


class AuthMeshMiddleware:
    """Let only requests through that are signed by a controller of this device.

    `app.add_middleware(AuthMeshMiddleware, ...)`, or `AuthMeshMiddleware(app, ...)` around
    any ASGI application. The identity is in `request.state.auth_mesh` (`device_id`,
    `friendly_name`, `verified_at`). WebSocket handshakes are verified as GET without a body.

    Args:
        clock_skew_seconds: how far the sender's clock may be from ours.
        nonce_window_seconds: how long nonces are remembered, at least twice the skew.
        nonce_store: shared by all processes that serve the same app; by default a store in
            memory, which is right for one process only.
        max_body_bytes: a longer body is answered 413; what is verified is held in memory.
        include: path prefixes to verify; none means all. What is not named is open.
        exclude: path prefixes to leave open, such as ("/health",).
        settings: where this device lives; by default what the environment says.

    Raises:
        UsageError: options that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock_skew_seconds: int = 30,
        nonce_window_seconds: int = 60,
        nonce_store: NonceStore | AsyncNonceStore | None = None,
        max_body_bytes: int = ONE_MIB,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        settings: Settings | None = None,
    ) -> None:
        self._app = app
        self._paths = Paths.of(include, exclude)
        self._policy = Policy(
            clock_skew_seconds=clock_skew_seconds,
            nonce_window_seconds=nonce_window_seconds,
            max_body_bytes=max_body_bytes,
        )
        home = opened(settings or Settings.from_env(os.environ))
        self._guard = Guard(home, self._policy, nonce_store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind that ASGI 3 knows."""
        match scope["type"]:
            case "lifespan":
                await self._lifespan(scope, receive, send)
            case "http" | "websocket":
                await self._request(scope, receive, send)
            case other:
                # What we do not know we cannot verify.
                raise UsageError(f"AuthMesh does not know ASGI scopes of type {other!r}")

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = await receive()
        try:
            # Before the first request has to wait for it, and so that a device without an
            # identity, or with a wrong passphrase, does not start at all.
            await self._guard.prepare()
        except AmeshError as error:
            record(error)
            await send({"type": "lifespan.startup.failed", "message": f"AuthMesh: {error}"})
            # As Starlette does. Its TestClient takes an app that returns for one that has started,
            # and waits for its end forever.
            raise
        await self._app(scope, _replay(startup, receive), send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nobody but the guard says who the caller is, on paths that are left open neither.
        state = scope.setdefault("state", {})
        state.pop(STATE_KEY, None)
        is_websocket = scope["type"] == "websocket"
        method = "GET" if is_websocket else scope["method"]
        target = b""
        try:
            target = target_as_sent(scope)
            if self._paths.cover(scope, target):
                head = head_of(method, target, scope["headers"])
                if is_websocket:
                    state[STATE_KEY] = await self._guard.authenticate(head, _no_body)
                else:
                    body = _Body(receive, self._policy.max_body_bytes)
                    state[STATE_KEY] = await self._guard.authenticate(head, body.read)
                    receive = body.replay
        except ClientGone:
            return
        except AmeshError as error:
            record(error, method=method, target=target)
            await _refuse(answer(error), scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Body:
    """The body of one request: read whole for the guard, then one message for the app."""

    __slots__ = ("_limit_bytes", "_receive", "_whole")

    def __init__(self, receive: Receive, limit_bytes: int) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._whole: bytes | None = None

    async def read(self) -> bytes:
        """The whole body, never holding more than the limit and one message of the server.

        Raises:
            PayloadTooLarge: it is longer; the rest was not read.
            ClientGone: it ended before it was whole.
        """
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > self._limit_bytes:
                raise PayloadTooLarge(self._limit_bytes)
            if not message.get("more_body", False):
                self._whole = bytes(body)
                return self._whole

    async def replay(self) -> Message:
        """A `receive` that hands out the body once; then the server speaks for itself again."""
        body, self._whole = self._whole, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


async def _no_body() -> bytes:
    return b""


def _replay(first: Message, receive: Receive) -> Receive:
    """A `receive` that hands out `first` once; then the server speaks for itself again."""
    pending = [first]

    async def replaying() -> Message:
        return pending.pop() if pending else await receive()

    return replaying


async def _refuse(what: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        if (await receive())["type"] != "websocket.connect":
            return  # gone already
        if _DENIAL_RESPONSE not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # becomes a 403
            return
        kind = _DENIAL_RESPONSE
    await send({"type": f"{kind}.start", "status": what.status, "headers": list(what.headers)})
    # Servers differ in whether they cut off the body of an answer to HEAD.
    body = b"" if scope.get("method") == "HEAD" else what.body
    await send({"type": f"{kind}.body", "body": body, "more_body": False})
