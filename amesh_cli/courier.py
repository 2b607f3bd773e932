"""Requests of `amesh doctor --against`: sent exactly as they are, signed as they may arrive."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx2

from amesh_cli import web
from amesh_cli.probes import Request
from amesh_core import request as signing
from amesh_core.errors import Malformed
from amesh_core.identity import DeviceKey
from amesh_core.wire.encoding import load_json

TIMEOUT_SECONDS: Final = 10.0

# What AuthMesh answers (docs/protocol.md section 3): status -> codes.
_CODES: Final = {
    400: {"missing_header", "malformed_header", "unsupported_version", "malformed_request"},
    401: {"unauthorized"},
    413: {"payload_too_large"},
    500: {"allow_list_integrity_failure", "internal_error"},
    503: {"unavailable"},
}
_LONGEST_ANSWER_BYTES: Final = 100
GATEWAY_ERRORS: Final = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `code` is AuthMesh's own, or None when somebody else answered."""

    status: int
    code: str | None
    location: str | None
    date: str | None
    server: str | None

    @property
    def let_in(self) -> bool:
        """Whether AuthMesh had nothing against the request."""
        return self.code is None and self.status not in GATEWAY_ERRORS


class Courier:
    """Sends requests exactly as they are, signed as they are said to arrive."""

    def __init__(
        self,
        origin: str,
        key: DeviceKey,
        client: httpx2.Client,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self.clock = clock
        self.behind_seconds = 0.0  # what our clock is behind the server's
        self._key = key
        self._client = client

    def unsigned(self, request: Request) -> Answer:
        """Send it as somebody would who has no key."""
        return self._answer(request, dict(request.headers))

    def signed(self, request: Request, arriving: Request) -> Answer:
        """Send `request`, signed for what it becomes on the way."""
        authorization = signing.sign(
            arriving.method,
            arriving.target,
            arriving.body,
            self._key,
            now=int(self.clock() + self.behind_seconds),
            nonce=secrets.token_bytes(signing.NONCE_BYTES),
        )
        return self._answer(request, {**dict(request.headers), "Authorization": authorization})

    def _answer(self, request: Request, headers: dict[str, str]) -> Answer:
        with (
            web.explained(self.origin, TIMEOUT_SECONDS),
            self._client.stream(
                request.method,
                self.origin,
                content=request.body or None,
                headers=headers,
                # Past the normalising of the library: what is probed are its odd spellings.
                extensions={"target": request.target},
            ) as response,
        ):
            return Answer(
                status=response.status_code,
                code=_code(response, request.method),
                location=response.headers.get("Location"),
                date=response.headers.get("Date"),
                server=response.headers.get("Server"),
            )


def _code(response: httpx2.Response, method: str) -> str | None:
    known = _CODES.get(response.status_code, set())
    if method == "HEAD":  # which has no body to tell by
        is_ours = known and response.headers.get("Content-Type") == "application/json"
        return min(known) if is_ours else None
    with contextlib.suppress(Malformed):
        match load_json(_beginning(response) if known else b""):
            case {"error": str(code), **others} if code in known and not others:
                return code
    return None


def _beginning(response: httpx2.Response) -> bytes:
    """As much of a body as an answer of AuthMesh has, and a little more; others may never end."""
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if len(body) > _LONGEST_ANSWER_BYTES:
            break
    return body
