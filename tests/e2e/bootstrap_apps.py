"""Apps that show what a process, and the children that it starts, know of a bootstrap token."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING

from amesh_sdk import amesh
from amesh_sdk.wsgi import AuthMeshMiddleware
from tests.support.asgi import Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logging.basicConfig(level=logging.DEBUG)


def _known() -> bytes:
    child = subprocess.run(["cat", "/proc/self/environ"], capture_output=True, check=True)
    return json.dumps({"own": dict(os.environ), "child": child.stdout.decode()}).encode()


async def _asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": _known()})


def _wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [_known()]


asgi = amesh.verify(_asgi)


def wsgi() -> AuthMeshMiddleware:
    """A factory, so that importing this module for the other one pairs nothing."""
    return AuthMeshMiddleware(_wsgi)
