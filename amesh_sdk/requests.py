"""Signing for requests: an `auth=` for one request, and a session that signs every attempt.

requests asks its `auth` once, when it prepares a request; what it and urllib3 do with it later
(redirects, retries, a prepared request sent twice) carries the same header. So the session's
`auth` only marks a request, and the mark becomes a signature in the connection, where every
attempt passes with the very target and body that go over the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from amesh_core.errors import UsageError
from amesh_sdk.extras import missing
from amesh_sdk.signer import Signer, target_of

try:
    import requests
    from requests.adapters import DEFAULT_POOLSIZE, BaseAdapter, HTTPAdapter
    from requests.auth import AuthBase
    from requests.exceptions import InvalidSchema
    from urllib3 import PoolManager
    from urllib3.connection import HTTPConnection
    from urllib3.util import Retry
except ImportError as error:
    raise missing("requests", error) from None

_AUTHORIZATION: Final = "Authorization"
_SCHEME: Final = "AuthMesh"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class SigningAuth(AuthBase):
    """An `auth=` for one request without retries or redirects; any thread may use it."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign what requests has prepared."""
        body = _hold(request)
        value = self._signer.sign(str(request.method), request.path_url.encode("ascii"), body)
        request.headers[_AUTHORIZATION] = value
        request.register_hook("response", _refuse_second_use(request))
        return request


class SigningSession(requests.Session):
    """A session whose requests are signed anew at each attempt and each hop.

    `max_retries` is that of requests' HTTPAdapter: a number, or urllib3's `Retry`. A request
    with an `auth=` of its own is not signed. Redirects lose the signature with the origin, for
    good, and are refused from https to http.
    """

    def __init__(self, signer: Signer, *, max_retries: int | Retry = 0) -> None:
        super().__init__()
        self._signer = signer
        self.auth = _Mark()
        for prefix in ("https://", "http://"):
            self.mount(prefix, SigningAdapter(signer, max_retries=max_retries))

    def mount(self, prefix: str, adapter: BaseAdapter) -> None:
        """Register an adapter; one for HTTP must be a `SigningAdapter`.

        Raises:
            UsageError: a plain HTTPAdapter, which would send a mark instead of a signature.
        """
        # requests mounts its own two before ours are there.
        ready = hasattr(self, "_signer")
        if ready and isinstance(adapter, HTTPAdapter) and not isinstance(adapter, SigningAdapter):
            raise UsageError(
                "this adapter does not sign: give the session its retries, "
                "amesh.requests_session(max_retries=...), or mount a SigningAdapter"
            )
        super().mount(prefix, adapter)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Decide whether the next hop of a redirect is signed; requests calls this."""
        before, after = _origin(response.request), _origin(prepared_request)
        if before[0] == "https" != after[0]:
            raise InvalidSchema("a redirect from https to http is not followed")
        if _is_marked(prepared_request.headers):
            if before == after:
                return  # without a look into ~/.netrc, which would take the mark's place
            # Each hop is a copy of the last: a mark that is gone stays gone, also on the way
            # back. A foreign server could otherwise choose a target and have it signed.
            del prepared_request.headers[_AUTHORIZATION]
        super().rebuild_auth(prepared_request, response)


class SigningAdapter(HTTPAdapter):
    """An HTTPAdapter whose connections turn the session's mark into a signature."""

    def __init__(
        self,
        signer: Signer,
        *,
        pool_connections: int = DEFAULT_POOLSIZE,
        pool_maxsize: int = DEFAULT_POOLSIZE,
        max_retries: int | Retry = 0,
        pool_block: bool = False,
    ) -> None:
        self._signer = signer
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools; requests calls this."""
        super().init_poolmanager(*args, **kwargs)
        _let_sign(self.poolmanager, self._signer)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """The pools for a proxy; requests calls this."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            _let_sign(manager, self._signer)
        return manager


class _Mark(AuthBase):
    """Says that a request is to be signed, and holds its body for every attempt."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        _hold(request)
        request.headers[_AUTHORIZATION] = _SCHEME
        return request


class _SigningConnection(HTTPConnection):
    """Comes before urllib3's own in each class of connections; all attempts pass `request`."""

    signer: ClassVar[Signer]

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if headers is not None and _is_marked(headers):
            if body is not None and not isinstance(body, bytes):
                raise UsageError("the body was exchanged after the request was prepared")
            # A proxy is given the whole URL, and gives the server its target.
            target = url.encode("ascii") if url.startswith("/") else target_of(url)
            value = self.signer.sign(method, target, body or b"")
            headers = {**headers, _AUTHORIZATION: value}
        super().request(method, url, body, headers, **options)


def _let_sign(manager: PoolManager, signer: Signer) -> None:
    """Have the pools that a manager is going to make hold connections that sign."""
    manager.pool_classes_by_scheme = {
        scheme: _signing_pool(pool, signer)
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }


def _signing_pool(pool: type[Any], signer: Signer) -> type[Any]:
    bases = (_SigningConnection, pool.ConnectionCls)
    connection = type("SigningConnection", bases, {"signer": signer})
    return type("SigningPool", (pool,), {"ConnectionCls": connection})


def _hold(request: requests.PreparedRequest) -> bytes:
    """Read the body: its hash is signed before it is sent, and it may be sent again."""
    if request.body is None:
        return b""
    body = _read(request.body)
    request.body = body or None
    # requests sets the length of what is there now, and need not wind anything back.
    request.headers.pop("Transfer-Encoding", None)
    request._body_position = None
    return body


def _read(body: Any) -> bytes:
    match body:
        case bytes():
            return body
        case str():
            return body.encode()
        case bytearray() | memoryview():
            return bytes(body)
        case _ if hasattr(body, "read"):
            return _read(body.read())  # from where it stands
        case _:
            return b"".join(map(_read, body))


def _refuse_second_use(signed: requests.PreparedRequest) -> Any:
    """A response hook that tells a signature that was sent twice from a request refused."""
    value = signed.headers[_AUTHORIZATION]

    def check(response: requests.Response, **_: Any) -> None:
        redirected = response.request is not signed
        retried = response.status_code == 401 and response.raw.retries.history
        if (redirected or retried) and response.request.headers.get(_AUTHORIZATION) == value:
            raise UsageError(
                "this session sent one signature twice, after a redirect or a retry: use "
                "amesh.requests_session(), or allow_redirects=False and no retries"
            )

    return check


def _is_marked(headers: Mapping[str, Any]) -> bool:
    return bool(headers.get(_AUTHORIZATION) == _SCHEME)


def _origin(request: requests.PreparedRequest) -> tuple[str, str | None, int | None]:
    parts = urlsplit(str(request.url))
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
