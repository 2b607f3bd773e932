"""Signing for httpx2, and for httpx: one flow, two classes (docs/protocol.md section 3).

A signature covers one request, so each one that goes out gets its own: fresh timestamp,
fresh nonce, the target and body that are sent. Both libraries follow redirects beneath
their authentication and send the old header on, so this flow follows them itself.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any, ClassVar, Final, cast

import httpx2

from amesh_core.errors import UsageError
from amesh_sdk.opened import running_loop
from amesh_sdk.signer import Signer

_AUTHORIZATION: Final = "Authorization"


class SigningFlow:
    """What both classes do; `Any` stands for the requests and responses of either library."""

    _redirect_refused: ClassVar[type[Exception]]
    _bytes: ClassVar[type[Any]]

    def __init__(self, signer: Signer, *, follow_redirects: bool = False) -> None:
        self._signer = signer
        self._follow_redirects = follow_redirects

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign and send, and sign again for every redirect within the origin."""
        trail = _Trail(request)
        while request is not None:
            if not isinstance(request.stream, self._bytes):
                _check_body(request, Iterable)
                _announce(request, request.read())
            if trail.leads_home(request):
                request.headers[_AUTHORIZATION] = self._signer.sign(*_sent(request))
            response = yield request
            request = self._next_hop(request, response)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """As `sync_auth_flow`, without keeping the event loop while the key is unlocked."""
        trail = _Trail(request)
        while request is not None:
            if not isinstance(request.stream, self._bytes):
                _check_body(request, AsyncIterable)
                _announce(request, await request.aread())
            if trail.leads_home(request):
                request.headers[_AUTHORIZATION] = await self._signer.asign(*_sent(request))
            response = yield request
            request = self._next_hop(request, response)

    def _next_hop(self, request: Any, response: Any) -> Any:
        if response.request is not request and _AUTHORIZATION in response.request.headers:
            raise UsageError(
                "this client follows redirects by itself and sends the old signature on: leave "
                "its follow_redirects off and use amesh.auth(follow_redirects=True)"
            )
        following = response.next_request if self._follow_redirects else None
        if following is not None and request.url.scheme == "https" != following.url.scheme:
            raise self._redirect_refused("a redirect from https to http is not followed")
        return following


class _Trail:
    """Where a request set out, and whether its redirects ever left that origin."""

    def __init__(self, request: Any) -> None:
        self._first = request
        self._left = False

    def leads_home(self, request: Any) -> bool:
        """Whether this hop may be signed; if not, it carries no signature either.

        Once a foreign server was asked, never again: its answer may lead back, to a target
        of its choice.
        """
        if request is not self._first:
            self._left = self._left or _origin(request) != _origin(self._first)
        if self._left:
            request.headers.pop(_AUTHORIZATION, None)
        return not self._left


def _check_body(request: Any, wanted: type[Any]) -> None:
    if not isinstance(request.stream, wanted):
        raise UsageError(
            "a Client sends a file or an iterable, an AsyncClient an async iterable, and both bytes"
        )


def _announce(request: Any, body: bytes) -> None:
    """Say how long the body that was read is; httpx counts a file from its beginning."""
    if "Content-Length" in request.headers:
        request.headers["Content-Length"] = str(len(body))


def _sent(request: Any) -> tuple[str, bytes, bytes]:
    """Method, target and body as they go over the wire; the extension overrides the URL."""
    target = request.extensions.get("target", request.url.raw_path)
    return request.method, target, request.read()  # in memory by now


def _origin(request: Any) -> tuple[str, str, int | None]:
    url = request.url  # both libraries leave a scheme's own port out
    return url.scheme, url.host, url.port


@lru_cache(maxsize=2)
def _auth_class(library_name: str) -> Any:
    """The flow as a subclass of the library's own Auth; neither takes the other's."""
    try:
        library = import_module(library_name)
    except ImportError:
        raise UsageError(
            f"{library_name} is not installed: pip install 'authmesh[{library_name}]'"
        ) from None
    bases = (SigningFlow, library.Auth)
    names = {"_redirect_refused": library.RemoteProtocolError, "_bytes": library.ByteStream}
    return type("SigningAuth", bases, names)


def httpx2_auth(signer: Signer, *, follow_redirects: bool = False) -> httpx2.Auth:
    """An `auth=` for httpx2 clients, shared by any number of threads and tasks."""
    return cast("httpx2.Auth", _auth_class("httpx2")(signer, follow_redirects=follow_redirects))


def httpx_auth(signer: Signer, *, follow_redirects: bool = False) -> Any:
    """An `auth=` for clients of the older httpx.

    Raises:
        UsageError: httpx is not installed.
    """
    return _auth_class("httpx")(signer, follow_redirects=follow_redirects)


def fetch(auth: httpx2.Auth, method: str, url: str, **request: Any) -> httpx2.Response:
    """Send one request. A client of its own: no cookie of one caller reaches another."""
    with httpx2.Client(auth=auth, verify=_tls()) as client:
        return client.request(method, url, **request)


async def afetch(auth: httpx2.Auth, method: str, url: str, **request: Any) -> httpx2.Response:
    """As `fetch`, for an event loop."""
    verify = await running_loop().run_in_executor(None, _tls)
    async with httpx2.AsyncClient(auth=auth, verify=verify) as client:
        return await client.request(method, url, **request)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Reading the certificate authorities takes 50 to 100 ms: once."""
    return httpx2.create_ssl_context()
