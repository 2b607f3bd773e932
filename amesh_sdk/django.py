"""The Django middleware, for WSGI and ASGI: `request.auth_mesh` in every view.

    MIDDLEWARE = ["amesh_sdk.django.AuthMeshMiddleware", ...]
    AUTH_MESH = {"exclude": ("/health",)}

First in the list, because what it verifies is the request as it came. A view for machines
needs `csrf_exempt`: a signature is no cookie, and no browser sends one by itself.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from amesh_core.errors import MalformedRequest, UsageError
from amesh_core.verification import AuthMeshIdentity
from amesh_sdk import wsgi
from amesh_sdk.extras import missing
from amesh_sdk.gate import Gate, Headers, Refused
from amesh_sdk.paths import wsgi_scope

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.conf import settings
    from django.core.handlers.asgi import ASGIRequest
    from django.core.handlers.wsgi import WSGIRequest
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase
except ImportError as error:
    raise missing("django", error) from error

SETTING: Final = "AUTH_MESH"

_CHUNK_BYTES: Final = 64 * 1024

_Next = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class AuthMeshMiddleware:
    """Let only requests through that are signed by a controller of this device.

    The options are those of `amesh_sdk.asgi.AuthMeshMiddleware`, in the setting AUTH_MESH. The
    identity is `request.auth_mesh`; on paths that are left open it is None.

    Raises:
        UsageError: options that cannot work.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: _Next) -> None:
        self._next = get_response
        self._gate = Gate(**getattr(settings, SETTING, {}))
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve one request, in a thread or, where Django asks for it, in the event loop."""
        if self._is_async:
            return self._acall(request)
        scope, headers = _sent(request)
        if isinstance(request, WSGIRequest):
            wsgi.note_processes(self._gate, request.environ)
        try:
            identity = self._gate.check(
                _method(request), scope, headers, lambda limit: _read(request, limit)
            )
        except Refused as refused:
            return _response(refused)
        _hand_over(request, identity)
        return self._next(request)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        scope, headers = _sent(request)

        async def read(limit_bytes: int) -> bytes:
            return _read(request, limit_bytes)  # Django has read it from the network already

        try:
            identity = await self._gate.acheck(_method(request), scope, headers, read)
        except Refused as refused:
            return _response(refused)
        _hand_over(request, identity)
        return await cast("Awaitable[HttpResponseBase]", self._next(request))


def _method(request: HttpRequest) -> str:
    # As it was sent: Django turns it into upper case, and "post" is not what was signed.
    if isinstance(request, ASGIRequest):
        return str(request.scope["method"])
    return str(request.META["REQUEST_METHOD"])


def _sent(request: HttpRequest) -> tuple[dict[str, Any], Headers]:
    if isinstance(request, ASGIRequest):
        # Django routes on what it makes of FORCE_SCRIPT_NAME, too.
        return dict(request.scope) | {"root_path": request.script_name}, request.scope["headers"]
    # Django has replaced PATH_INFO and SCRIPT_NAME by its own reading.
    root_path = request.META["SCRIPT_NAME"]
    scope = wsgi_scope(request.META, path=request.path, root_path=root_path)
    return scope, wsgi.headers_of(request.META)


def _read(request: HttpRequest, limit_bytes: int) -> bytes:
    if hasattr(request, "_body"):
        body: bytes = request.body  # somebody before us has read it, and kept it
        return body
    if vars(request).get("_read_started"):
        raise UsageError(
            "the body was read before it could be verified: put "
            "'amesh_sdk.django.AuthMeshMiddleware' first in MIDDLEWARE"
        )
    # Under WSGI not Django's own stream, which takes a chunked body for an empty one.
    if isinstance(request, WSGIRequest):
        body = wsgi.read_body(request.environ, limit_bytes)
        wsgi.put_body(request.environ, body)
    else:
        body = _read_stream(request, limit_bytes + 1)
        # Without it, Django takes a chunked form for an empty one here, too.
        request.META["CONTENT_LENGTH"] = str(len(body))
    # What HttpRequest.body keeps; .POST, .FILES, .read() and DRF take it from there.
    request._body = body
    request._stream = io.BytesIO(body)
    return body


def _read_stream(request: HttpRequest, wanted_bytes: int) -> bytes:
    body = bytearray()
    try:
        while len(body) < wanted_bytes and (
            chunk := request.read(min(_CHUNK_BYTES, wanted_bytes - len(body)))
        ):
            body += chunk
    except OSError as error:
        raise MalformedRequest("the body could not be read to its end") from error
    return bytes(body)


def _hand_over(request: HttpRequest, identity: AuthMeshIdentity | None) -> None:
    vars(request)["auth_mesh"] = identity


def _response(refused: Refused) -> HttpResponse:
    what = refused.answer
    headers = {name.decode("ascii").title(): value.decode("ascii") for name, value in what.headers}
    return HttpResponse(what.body, status=what.status, headers=headers)
