"""What a server knows of a request before it reads the body, from its header lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from amesh_core.errors import MalformedRequest
from amesh_core.verification import RequestHead

# 19 digits hold 2^63 - 1; a longer number is no length, and Python refuses to read 4 301.
_CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,19}")

# Of the two names that are looked for; most headers are not looked at any closer.
_LENGTHS: Final = frozenset({len(b"authorization"), len(b"content-length")})


def head_of(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Gather what the guard asks for; names of headers in any case.

    Raises:
        MalformedRequest: the Content-Length is not one number.
    """
    authorization: list[bytes] = []
    lengths: set[bytes] = set()
    for name, value in headers:
        if len(name) not in _LENGTHS:
            continue
        # A server that forgets to lower the case must not hide a second line.
        match name.lower():
            case b"authorization":
                authorization.append(value)
            case b"content-length":
                lengths.add(value)
    if not lengths:
        return RequestHead(method, target, authorization, None)
    if len(lengths) > 1 or not all(map(_CONTENT_LENGTH.fullmatch, lengths)):
        raise MalformedRequest("the Content-Length is not one number")
    return RequestHead(method, target, authorization, int(lengths.pop()))
