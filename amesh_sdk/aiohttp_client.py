"""Signing for aiohttp: a client middleware, which aiohttp calls for every attempt and hop.

aiohttp follows redirects above its middleware, which sees each hop alone and cannot tell it
from a new call. So it is bound to one origin: what goes there is signed, nothing else is, and
an answer is refused that would have it sign what a foreign server chose.
"""

from __future__ import annotations

import io
from typing import Final

from amesh_core.errors import UsageError
from amesh_sdk.extras import missing
from amesh_sdk.signer import Signer

try:
    from aiohttp import (
        ClientHandlerType,
        ClientRequest,
        ClientResponse,
        InvalidUrlRedirectClientError,
    )
    from aiohttp.payload import BytesPayload
    from yarl import URL
except ImportError as error:
    raise missing("aiohttp", error) from None

_AUTHORIZATION: Final = "Authorization"
_OF_WEBSOCKETS: Final = {"ws": "http", "wss": "https"}
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class SigningMiddleware:
    """Signs the requests of a session that go to one origin; any number at a time.

    Raises:
        UsageError: `origin` is not a scheme, a host and perhaps a port.
    """

    def __init__(self, signer: Signer, origin: str) -> None:
        self._signer = signer
        self._origin = _parsed(origin)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send one attempt of one hop."""
        if _origin(request.url) == self._origin:
            target = request.url.raw_path_qs.encode()  # what is not ASCII is refused
            value = await self._signer.asign(request.method, target, await _body(request))
            request.headers[_AUTHORIZATION] = value
        response = await handler(request)
        if (location := _location(response)) is not None:
            try:
                self._check_redirect(request.url, location)
            except InvalidUrlRedirectClientError:
                response.close()
                raise
        return response

    def _check_redirect(self, request: URL, location: URL) -> None:
        here, there = _origin(request), _origin(location)
        if here[0] == "https" != there[0]:
            raise InvalidUrlRedirectClientError(location, "a redirect from https to http")
        if here != self._origin == there:
            raise InvalidUrlRedirectClientError(
                location, f"{request.origin()} redirects to what would be signed"
            )


async def _body(request: ClientRequest) -> bytes:
    """The body as it will be sent, held in memory from now on."""
    payload = request.body
    if not payload:
        return b""
    if request.compress:
        raise UsageError(
            "compress= changes the body after it is signed: send it compressed, with a "
            "Content-Encoding header of your own"
        )
    body = await payload.as_bytes()
    if not isinstance(payload, BytesPayload):
        # What was read need not be there a second time: a pipe, a file that grows. Not as
        # bytes, of which aiohttp warns when they are many.
        await request.update_body(io.BytesIO(body))
    return body


def _location(response: ClientResponse) -> URL | None:
    """Where a redirect leads, as aiohttp will read it."""
    if response.status not in _REDIRECTS:
        return None
    location = response.headers.get("Location") or response.headers.get("URI")
    if location is None:
        return None
    try:
        there = response.url.join(URL(location))
        there.origin()
    except ValueError:
        return None  # aiohttp refuses it
    return there


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, which `URL.origin()` compares as they were spelled."""
    return _OF_WEBSOCKETS.get(url.scheme, url.scheme), url.host, url.port


def _parsed(text: str) -> tuple[str, str | None, int | None]:
    try:
        url = URL(text)
        plain = str(url).rstrip("/") == str(url.origin())
    except ValueError:
        url, plain = URL(), False
    if not plain or url.scheme not in ("http", "https"):
        raise UsageError("an origin is needed, such as https://api.example:8443")
    return _origin(url)
