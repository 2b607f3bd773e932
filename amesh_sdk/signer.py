"""Sign what is about to be sent, as this device."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from amesh_core import request
from amesh_core.errors import MalformedRequest, UsageError
from amesh_core.keystore.material import SoftwareKey
from amesh_sdk import sightings
from amesh_sdk.opened import OpenHome

# urlsplit silently drops tabs and newlines, and strips spaces.
_URL: Final = re.compile(r"[!-~]+")
_SCHEMES: Final = ("http", "https", "ws", "wss")

# A key in memory signs in 40 us, and SHA-256 of a MiB takes some 2 ms: as long as an event
# loop may be kept. A chip may take 300 ms.
_INLINE_BODY_BYTES: Final = 1024 * 1024


class Signer:
    """Makes Authorization values, each with a timestamp and a nonce of its own."""

    def __init__(self, home: OpenHome, *, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._clock = clock

    def sign(self, method: str, target: bytes, body: bytes) -> str:
        """The Authorization value for a request that goes over the wire exactly so.

        Raises:
            MalformedRequest: a method or target that no verifier admits.
            HomeError, KeyStoreError: there is no key to sign with.
        """
        key = self._home.key()
        # The time is taken when the key is there: unlocking may outlast the clock skew.
        now = int(self._clock())
        nonce = secrets.token_bytes(request.NONCE_BYTES)
        value = request.sign(method, target, body, key, now=now, nonce=nonce)
        if self._home.debug_requests:
            sightings.sent(method, target, body, value)
        return value

    async def asign(self, method: str, target: bytes, body: bytes) -> str:
        """As `sign`, without keeping the event loop while the key is unlocked or signs."""
        key = await self._home.akey()
        if isinstance(key, SoftwareKey) and len(body) <= _INLINE_BODY_BYTES:
            return self.sign(method, target, body)
        return await self._home.in_signing_thread(partial(self.sign, method, target, body))


def target_of(url: str) -> bytes:
    """The request target that an HTTP library sends for a URL that needs no normalising.

    Raises:
        UsageError: not an absolute http, https, ws or wss URL.
        MalformedRequest: it holds characters that have to be percent-encoded first.
    """
    if not _URL.fullmatch(url):
        raise MalformedRequest("the URL has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address
        parts = urlsplit("")
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise UsageError("an absolute URL is needed: http://, https://, ws:// or wss://")
    # Without the fragment, which is never sent.
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.path or '/'}{query}".encode("ascii")
