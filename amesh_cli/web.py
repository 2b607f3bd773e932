"""HTTP as the commands speak it: what can go wrong on the way, in words."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import httpx2

from amesh_core.errors import NoAnswer, UsageError

_ERRNO: Final = re.compile(r"^\[Errno -?[0-9]+\] ")  # a number that says nothing to a person


def check_url(url: str) -> str:
    """Return `url` if a request can go there.

    Raises:
        UsageError: no http:// or https:// URL, or one that holds a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UsageError("the URL has no valid host and port") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("the URL begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise UsageError("the URL holds a user name: requests are signed, leave it out")
    return url


@contextlib.contextmanager
def explained(host: str, timeout_seconds: float) -> Iterator[None]:
    """Say why there was no answer.

    Raises:
        NoAnswer: instead of any error of the HTTP library.
        UsageError: it takes the URL for none.
    """
    try:
        yield
    except httpx2.InvalidURL as error:
        raise UsageError(f"this is no URL: {error}") from None
    except httpx2.HTTPError as error:
        # Not `from error`: a text about a proxy can hold its password.
        raise NoAnswer(f"no answer from {host}: {_reason(error, timeout_seconds)}") from None


def _reason(error: httpx2.HTTPError, timeout_seconds: float) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    match error:
        case httpx2.TimeoutException():
            return f"nothing for {timeout_seconds:g} s"
        case httpx2.TooManyRedirects():
            return "it redirects in circles"
        case httpx2.ProxyError():
            return "the proxy that the environment names does not work"
        case httpx2.ConnectError():
            return f"it cannot be reached ({_ERRNO.sub('', str(error))})"
        case _:
            return str(error) or type(error).__name__
