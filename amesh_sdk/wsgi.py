"""The WSGI adapter: for any application of PEP 3333 under a server that tells what was sent."""

from __future__ import annotations

import io
from collections.abc import Iterable
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Final, Unpack

from amesh_core.errors import MalformedRequest, UsageError
from amesh_sdk.answers import Answer
from amesh_sdk.gate import Gate, Options, Refused
from amesh_sdk.paths import wsgi_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

IDENTITY_KEY: Final = "auth_mesh"  # environ["auth_mesh"]

_CHUNK_BYTES: Final = 64 * 1024


class AuthMeshMiddleware:
    """Let only requests through that are signed by a controller of this device.

    `application = AuthMeshMiddleware(application, ...)`, with the options of the ASGI one. The
    identity is in `environ["auth_mesh"]`; on paths that are left open there is none.

    Raises:
        UsageError: options that cannot work.
        BadToken, NoToken: there is no device yet, and no usable bootstrap token to make it from.
    """

    def __init__(self, app: WSGIApplication, **options: Unpack[Options]) -> None:
        self._app = app
        self._gate = Gate(**options)

    def prepare(self) -> None:
        """Unlock the key now: call it where a program starts, so that it ends if it cannot.

        WSGI has no start-up; without this, the first request takes some 0.2 s longer.

        Raises:
            HomeError, KeyStoreError: there is no identity, or its key cannot be used.
        """
        self._gate.guard.prepare_blocking()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        # Nobody but the guard says who the caller is, on paths that are left open neither.
        environ.pop(IDENTITY_KEY, None)
        note_processes(self._gate, environ)
        body = b""

        def read(limit_bytes: int) -> bytes:
            nonlocal body
            body = read_body(environ, limit_bytes)
            return body

        try:
            identity = self._gate.check(
                environ["REQUEST_METHOD"], wsgi_scope(environ), headers_of(environ), read
            )
        except Refused as refused:
            return _respond(refused.answer, environ, start_response)
        if identity is not None:
            environ[IDENTITY_KEY] = identity
            put_body(environ, body)
        return self._app(environ, start_response)


def note_processes(gate: Gate, environ: WSGIEnvironment) -> None:
    """Warn where the server says that it has several processes."""
    if environ.get("wsgi.multiprocess"):
        gate.guard.warn_if_not_shared("this server says that it runs several processes")


def headers_of(environ: WSGIEnvironment) -> list[tuple[bytes, bytes]]:
    """The headers that matter; servers have joined several lines of one name with commas."""
    found = []
    if (value := environ.get("HTTP_AUTHORIZATION")) is not None:
        found.append((b"authorization", value.encode("latin-1", "backslashreplace")))
    # wsgiref and others have an empty one where there is none.
    if value := environ.get("CONTENT_LENGTH"):
        found.append((b"content-length", value.encode("latin-1", "backslashreplace")))
    return found


def read_body(environ: WSGIEnvironment, limit_bytes: int) -> bytes:
    """The body after transfer decoding, and at most one byte more of it than the limit.

    Raises:
        MalformedRequest: it ended before it was whole.
        UsageError: nobody says where it ends.
    """
    length = int(environ.get("CONTENT_LENGTH") or 0)
    wanted = limit_bytes + 1
    if not environ.get("wsgi.input_terminated"):
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise UsageError(
                "this server does not say where a chunked body ends: wsgi.input_terminated is "
                "not set; run the app under gunicorn or waitress"
            )
        wanted = min(wanted, length)
    stream: IO[bytes] = environ["wsgi.input"]
    body = bytearray()
    try:
        while len(body) < wanted and (chunk := stream.read(min(_CHUNK_BYTES, wanted - len(body)))):
            body += chunk
    except OSError as error:
        raise MalformedRequest("the body could not be read to its end") from error
    if len(body) < min(length, wanted):
        raise MalformedRequest("the body ended before its Content-Length")
    return bytes(body)


def put_body(environ: WSGIEnvironment, body: bytes) -> None:
    """Let the application read what was verified, as a body of known length."""
    environ["wsgi.input"] = io.BytesIO(body)
    environ["wsgi.input_terminated"] = True
    if environ.pop("HTTP_TRANSFER_ENCODING", None) or body:
        environ["CONTENT_LENGTH"] = str(len(body))


def _respond(
    what: Answer, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    headers = [
        (name.decode("ascii").title(), value.decode("ascii")) for name, value in what.headers
    ]
    start_response(f"{what.status} {HTTPStatus(what.status).phrase}", headers)
    # Servers differ in whether they cut off the body of an answer to HEAD.
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [what.body]
