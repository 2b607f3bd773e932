"""An app that keeps what reaches it, and requests to send it by hand."""

from __future__ import annotations

import time
from typing import Any

from amesh_core.verification import AuthMeshIdentity
from tests.sdk.devices import Device
from tests.support.asgi import App, Message, Receive, Scope, Send, body_of, run, scope_of

DISCONNECT: Message = {"type": "http.disconnect"}


class Recorder:
    """An app that keeps what reaches it, and answers 200."""

    def __init__(self, *, reads: int = 1) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[Message] = []
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        for _ in range(self._reads):
            self.messages.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    @property
    def identity(self) -> AuthMeshIdentity:
        identity = self.scopes[-1]["state"]["auth_mesh"]
        assert isinstance(identity, AuthMeshIdentity)
        return identity


def signed(device: Device, method: str, target: str, body: bytes = b"", **more: Any) -> Scope:
    return scope_of(method, target, [(b"authorization", device.sign(method, target, body))], **more)


def late() -> float:
    return time.time() - 45


def early() -> float:
    return time.time() + 45


def refused(app: App, scope: Scope, *chunks: bytes) -> tuple[int, bytes]:
    result = run(app, scope, body_of(*chunks))
    return result.status, result.body
