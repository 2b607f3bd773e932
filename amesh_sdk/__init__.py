"""Sign requests and verify them: `from amesh_sdk import amesh`.

    response = amesh.fetch("https://api.example/orders", method="POST", json={"amount": 100})

    app = amesh.verify(app)

Importing this costs nothing: what a method needs is imported when it is called first.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from amesh_core.errors import UsageError
from amesh_core.settings import Settings

if TYPE_CHECKING:
    import httpx2
    from urllib3.util import Retry

    from amesh_core.nonces import AsyncNonceStore, NonceStore
    from amesh_core.verification import AuthMeshIdentity
    from amesh_sdk.aiohttp_client import SigningMiddleware
    from amesh_sdk.asgi import ASGIApp, AuthMeshMiddleware
    from amesh_sdk.requests import SigningAuth, SigningSession
    from amesh_sdk.signer import Signer

__all__ = ["Amesh", "AuthMeshIdentity", "AuthMeshMiddleware", "amesh"]

# httpx2's own default: for the connection, and for each wait on it.
_TIMEOUT_SECONDS: Final = 5.0


class Amesh:
    """This device, as its programs see it.

    `settings` say where it lives; by default what the environment says at each call. The key
    is unlocked at the first use, once in a process.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        json: Any = None,
        data: Mapping[str, Any] | bytes | str | None = None,
        content: bytes | str | Iterable[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float | httpx2.Timeout | None = _TIMEOUT_SECONDS,
        follow_redirects: bool = True,
    ) -> httpx2.Response:
        """Sign a request, send it, and return the answer, read to its end.

        `json` and `data` (a form, or a body as it is) and `content` (a body as it is) are
        those of httpx2, `timeout` is in seconds. A body is held in memory, as its hash is
        signed before it is sent. Redirects are signed anew within the origin, followed
        without a signature elsewhere, and refused from https to http.

        Raises:
            HomeError, KeyStoreError: there is no key to sign with.
            MalformedRequest: a method or URL that no verifier admits.
            httpx2.HTTPError: the request failed.
        """
        from amesh_sdk import httpx

        return httpx.fetch(
            httpx.httpx2_auth(self._signer(), follow_redirects=follow_redirects),
            method,
            url,
            timeout=timeout,
            params=params,
            headers=headers,
            **_body(json, data, content),
        )

    async def afetch(
        self,
        url: str,
        *,
        method: str = "GET",
        json: Any = None,
        data: Mapping[str, Any] | bytes | str | None = None,
        content: bytes | str | AsyncIterable[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        timeout: float | httpx2.Timeout | None = _TIMEOUT_SECONDS,  # noqa: ASYNC109 its name in httpx2
        follow_redirects: bool = True,
    ) -> httpx2.Response:
        """As `fetch`, for an event loop, which is not kept while the key is unlocked."""
        from amesh_sdk import httpx

        return await httpx.afetch(
            httpx.httpx2_auth(self._signer(), follow_redirects=follow_redirects),
            method,
            url,
            timeout=timeout,
            params=params,
            headers=headers,
            **_body(json, data, content),
        )

    def auth(self, *, follow_redirects: bool = False) -> httpx2.Auth:
        """An `auth=` that signs what an httpx2 client of your own sends, each time anew.

        Leave the client's own `follow_redirects` off: it would send an old signature on.
        """
        from amesh_sdk import httpx

        return httpx.httpx2_auth(self._signer(), follow_redirects=follow_redirects)

    def httpx_auth(self, *, follow_redirects: bool = False) -> Any:
        """As `auth`, for a client of the older httpx.

        Raises:
            UsageError: httpx is not installed.
        """
        from amesh_sdk import httpx

        return httpx.httpx_auth(self._signer(), follow_redirects=follow_redirects)

    def requests_auth(self) -> SigningAuth:
        """An `auth=` for one call of requests: no retries, `allow_redirects=False`.

        Raises:
            ImportError: requests is not installed.
        """
        from amesh_sdk import requests

        return requests.SigningAuth(self._signer())

    def requests_session(self, *, max_retries: int | Retry = 0) -> SigningSession:
        """A requests session that signs each attempt and each redirect within the origin anew.

        `max_retries` is a number, for connections that fail, or urllib3's `Retry`.

        Raises:
            ImportError: requests is not installed.
        """
        from amesh_sdk import requests

        return requests.SigningSession(self._signer(), max_retries=max_retries)

    def aiohttp_middleware(self, origin: str) -> SigningMiddleware:
        """A client middleware for aiohttp that signs what goes to `origin`, and nothing else.

        `origin` is such as "https://api.example"; give a session one for each service.

        Raises:
            ImportError: aiohttp is not installed.
            UsageError: it is not an origin.
        """
        from amesh_sdk import aiohttp_client

        return aiohttp_client.SigningMiddleware(self._signer(), origin)

    def sign(self, method: str, url: str, body: bytes = b"") -> dict[str, str]:
        """The headers that sign one request, for any other client; good for one use, at once.

        The request must go out exactly so: `url` percent-encoded as it will be sent, `body`
        the same bytes. A WebSocket handshake is a GET without a body.

        Raises:
            HomeError, KeyStoreError: there is no key to sign with.
            MalformedRequest, UsageError: a method or URL that no verifier admits.
        """
        from amesh_sdk.signer import target_of

        return {"Authorization": self._signer().sign(method, target_of(url), body)}

    async def asign(self, method: str, url: str, body: bytes = b"") -> dict[str, str]:
        """As `sign`, for an event loop, which is not kept while the key is unlocked."""
        from amesh_sdk.signer import target_of

        return {"Authorization": await self._signer().asign(method, target_of(url), body)}

    def verify(
        self,
        app: ASGIApp,
        *,
        clock_skew_seconds: int = 30,
        nonce_window_seconds: int = 60,
        nonce_store: NonceStore | AsyncNonceStore | None = None,
        max_body_bytes: int = 1024 * 1024,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> AuthMeshMiddleware:
        """Wrap an ASGI app, so that only controllers of this device reach it.

        See `AuthMeshMiddleware` for the options, and for `app.add_middleware`.

        Raises:
            UsageError: options that cannot work.
        """
        from amesh_sdk.asgi import AuthMeshMiddleware

        return AuthMeshMiddleware(
            app,
            clock_skew_seconds=clock_skew_seconds,
            nonce_window_seconds=nonce_window_seconds,
            nonce_store=nonce_store,
            max_body_bytes=max_body_bytes,
            include=include,
            exclude=exclude,
            settings=self._settings,
        )

    def _signer(self) -> Signer:
        from amesh_sdk.opened import opened
        from amesh_sdk.signer import Signer

        return Signer(opened(self._settings or Settings.from_env(os.environ)))


def _body(json: Any, data: Any, content: Any) -> dict[str, Any]:
    if sum(part is not None for part in (json, data, content)) > 1:
        raise UsageError("a request has one body: json, data or content")
    # httpx2 takes a form for `data`, and only that; people pass the body itself as well.
    if isinstance(data, bytes | str):
        data, content = None, data
    return {"json": json, "data": data, "content": content}


amesh: Final = Amesh()


def __getattr__(name: str) -> Any:
    """The names of `__all__` that need more than this module, imported when asked for."""
    match name:
        case "AuthMeshMiddleware":
            from amesh_sdk.asgi import AuthMeshMiddleware

            return AuthMeshMiddleware
        case "AuthMeshIdentity":
            from amesh_core.verification import AuthMeshIdentity

            return AuthMeshIdentity
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
