"""The smallest app for ASGI and for WSGI, alone, beside a bare verification, behind the middleware.

Each answers with the id of its process, so that who asks knows whose time to take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from amesh_sdk import asgi, wsgi
from amesh_sdk.asgi import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MARK: Final = b"hello from "
PROCESS_ID_DIGITS: Final = 10  # padded, so that all answers have one length

# Enough that the processor does not learn one signature by heart.
_SIGNATURES: Final = 256
_MESSAGE_BYTES: Final = 160  # of a request without a body: two blocks of SHA-256, as here


def _hello() -> bytes:
    return MARK + b"%*d" % (PROCESS_ID_DIGITS, os.getpid())


async def asgi_alone(scope: Scope, receive: Receive, send: Send) -> None:
    """Hello, world."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = _hello()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi_alone(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hello, world."""
    body = _hello()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def asgi_verifying() -> ASGIApp:
    """The same after one P-256 verification, and nothing else."""
    verify = _verification()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            verify()
        await asgi_alone(scope, receive, send)

    return app


def wsgi_verifying() -> WSGIApplication:
    """The same after one P-256 verification, and nothing else."""
    verify = _verification()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        verify()
        return wsgi_alone(environ, start_response)

    return app


def asgi_guarded() -> ASGIApp:
    """The same behind the middleware, of the device that the environment names."""
    return asgi.AuthMeshMiddleware(asgi_alone)


def wsgi_guarded() -> WSGIApplication:
    """The same behind the middleware, of the device that the environment names."""
    app = wsgi.AuthMeshMiddleware(wsgi_alone)
    app.prepare()
    return app


def _verification() -> Callable[[], None]:
    private = ec.generate_private_key(ec.SECP256R1())
    public, algorithm = private.public_key(), ec.ECDSA(hashes.SHA256())
    messages = [os.urandom(_MESSAGE_BYTES) for _ in range(_SIGNATURES)]
    pairs = cycle([(private.sign(message, algorithm), message) for message in messages])

    def verify() -> None:
        signature, message = next(pairs)
        public.verify(signature, message, algorithm)

    return verify
