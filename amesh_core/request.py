"""What a request's signature covers, and how to make one; docs/protocol.md section 3."""

from __future__ import annotations

import re
from typing import Final

from amesh_core import crypto
from amesh_core.errors import MalformedRequest
from amesh_core.identity import DeviceKey
from amesh_core.wire import target as targets
from amesh_core.wire.encoding import b64u
from amesh_core.wire.header import Credential

VERSION: Final = "1"
NONCE_BYTES: Final = 16

# Every registered method has this form. Node would sign "Post" as "POST"; a server that
# tells the two apart would then have authenticated another method than it runs.
_COMMON_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*+")
_DIGEST_OF_NOTHING: Final = crypto.sha256(b"").hex()


def check_method(method: str) -> None:
    """Refuse a method that is not its own upper-case form.

    Raises:
        MalformedRequest: not upper-case ASCII letters, with single hyphens between them.
    """
    if method not in _COMMON_METHODS and not _METHOD.fullmatch(method):
        raise MalformedRequest("the request method is not upper-case ASCII")


def canonical_string(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """The bytes that are signed.

    `method` passed `check_method`, `target` is canonical, `timestamp` and `nonce` are as in a
    parsed header: none of them holds a newline, so no two requests share a string.
    """
    digest = crypto.sha256(body).hex() if body else _DIGEST_OF_NOTHING
    return f"AMv1\n{method}\n{target}\n{timestamp}\n{nonce}\n{digest}".encode()


def sign(method: str, target: bytes, body: bytes, key: DeviceKey, *, now: int, nonce: bytes) -> str:
    """Return the Authorization header value for a request that is sent exactly so.

    `target` and `body` are the bytes that go over the wire, after the HTTP library has
    normalised the URL and before any content encoding is undone. `now` is in Unix seconds,
    `nonce` 16 bytes of fresh randomness: a repeated nonce is a refused request.

    Raises:
        MalformedRequest: the method or the target is one that no verifier admits.
        KeyStoreError: the key cannot be used.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    check_method(method)
    timestamp, nonce_text = str(now), b64u(nonce)
    message = canonical_string(
        method, targets.canonical_target(target), timestamp, nonce_text, body
    )
    return Credential(VERSION, key.public, timestamp, nonce_text, key.sign(message)).encode()
