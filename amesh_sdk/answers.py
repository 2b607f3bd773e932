"""What the outside hears of an error, and what the log says (docs/protocol.md section 3).

The caller learns the least that lets an honest client help itself: what is wrong with its
own bytes (400, 413), that it is not let in (401, one answer for every reason), that asking
again may help (503). Which check refused, and about whom, goes to the logger `amesh.verify`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from amesh_core.errors import (
    AllowListBroken,
    AmeshError,
    Malformed,
    MalformedHeader,
    MissingHeader,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedVersion,
)

log: Final = logging.getLogger("amesh.verify")

# A log line is for people; a request target may have 64 KiB.
_MAX_LOGGED_CHARACTERS: Final = 512

# The nearest listed ancestor decides. Anything nobody thought of is our own fault, and
# never an acceptance.
_TABLE: Final[Mapping[type[AmeshError], tuple[int, str]]] = {
    MissingHeader: (400, "missing_header"),
    MalformedHeader: (400, "malformed_header"),
    UnsupportedVersion: (400, "unsupported_version"),
    Malformed: (400, "malformed_request"),
    PayloadTooLarge: (413, "payload_too_large"),
    Unauthenticated: (401, "unauthorized"),
    Unavailable: (503, "unavailable"),
    AllowListBroken: (500, "allow_list_integrity_failure"),
    AmeshError: (500, "internal_error"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, free of any framework; header names in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def answer(error: AmeshError) -> Answer:
    """The answer to a request that ended in `error`; every 401 is the same, byte for byte."""
    kind = next(cls for cls in type(error).__mro__ if cls in _TABLE)
    status, code = _TABLE[kind]
    body = f'{{"error":"{code}"}}'.encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"AuthMesh"))  # RFC 9110 section 11.6.1
    return Answer(status, tuple(headers), body)


def record(error: AmeshError, *, method: str = "", target: bytes = b"") -> None:
    """Write to `amesh.verify` why a request was refused, as structured `extra` fields.

    What a stranger wrote is escaped, so it can neither start a line nor colour one; the
    query is left out, as it may hold secrets of the application.
    """
    fault = answer(error).status >= 500
    log.log(
        logging.ERROR if fault else logging.WARNING,
        "%s: %s: %s",
        "cannot verify" if fault else "refused",
        error.code,
        printable(str(error)),
        extra={
            "reason": error.code,
            "device_id": getattr(error, "device_id", None),
            "skew_seconds": getattr(error, "skew_seconds", None),
            "method": printable(method),
            "path": printable(target.partition(b"?")[0].decode("latin-1")),
        },
    )


def warn(
    reason: str, message: str, *, device_id: str | None = None, skew_seconds: int | None = None
) -> None:
    """Write to `amesh.verify` what will become a refusal, or a hole, if nobody acts."""
    log.warning(
        "%s: %s",
        reason,
        message,
        extra={
            "reason": reason,
            "device_id": device_id,
            "skew_seconds": skew_seconds,
            "method": "",
            "path": "",
        },
    )


def printable(text: str) -> str:
    """`text` in printable ASCII, everything else escaped, cut to a sane length."""
    return text[:_MAX_LOGGED_CHARACTERS].encode("unicode_escape").decode("ascii")
