"""One request as one side saw it, in one line of a log: what `amesh explain` compares.

    {"amesh":"request","side":"sent","at":1795435200,"device":"am_...","method":"POST",
     "target":"/orders?a=1","ts":"1795435200","nonce":"...","canonical":"AMv1\\nPOST\\n...",
     "body":{"length":14,"sha256":"...","forms":{"json":"..."}}}

It holds no secret of amesh: a canonical string is no key, and a body is only its hashes. The
query of the application is in it, so it is written only where somebody asked for it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from amesh_core import crypto
from amesh_core.errors import Malformed, MalformedRequest
from amesh_core.request import canonical_string
from amesh_core.wire import encoding
from amesh_core.wire.target import canonical_target

# Twice 64 KiB, the longest target of a usual server, escaped, and the rest.
MAX_LINE_CHARACTERS: Final = 1024 * 1024
_TIMESTAMP: Final = re.compile("[0-9]{1,16}")  # as in the header
_MARK: Final = '{"amesh":"request",'
# What a body may unpack to: more is not looked at, as it may be made to fill our memory.
_MAX_UNPACKED_BYTES: Final = 8 * 1024 * 1024


class Side(StrEnum):
    """Where a request was seen."""

    SENT = "sent"  # by the client, as it signed it
    SEEN = "seen"  # by the server, as it arrived


class Form(StrEnum):
    """What else a body may have been before, or become after, it was signed."""

    JSON = "json"  # the same JSON value, whatever its spelling
    GZIP = "gzip"  # unpacked
    LINES = "lines"  # without any line end
    TEXT = "text"  # what is not UTF-8 replaced by U+FFFD


@dataclass(frozen=True, slots=True)
class Body:
    """A body without its contents: bytes, SHA-256 in hex, and the same of its other forms."""

    length_bytes: int
    sha256: str
    forms: Mapping[Form, str]

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Hash a body in each form that it has."""
        forms = {form: make(data) for form, make in _FORMS.items()}
        return cls(
            len(data),
            crypto.sha256(data).hex(),
            {form: crypto.sha256(other).hex() for form, other in forms.items() if other},
        )


@dataclass(frozen=True, slots=True)
class Sighting:
    """A request as one side saw it.

    `target` is as it was on the wire. `at` is that side's clock, in Unix seconds. `canonical`
    is what that side signed or verified; it and `body` are None if it never came to that.
    """

    side: Side
    at: int
    device_id: str
    method: str
    target: str
    timestamp: str
    nonce: str
    canonical: str | None
    body: Body | None

    @classmethod
    def of(
        cls,
        side: Side,
        method: str,
        target: bytes,
        body: bytes | None,
        *,
        timestamp: str,
        nonce: str,
        device_id: str,
        at: int,
    ) -> Sighting:
        """Put down a request; `body` None was not read."""
        return cls(
            side=side,
            at=at,
            device_id=device_id,
            method=method,
            target=target.decode("latin-1"),
            timestamp=timestamp,
            nonce=nonce,
            canonical=_canonical(method, target, timestamp, nonce, body),
            body=None if body is None else Body.of(body),
        )

    def encode(self) -> str:
        """One line of printable ASCII."""
        return json.dumps(
            {
                "amesh": "request",
                "side": self.side,
                "at": self.at,
                "device": self.device_id,
                "method": self.method,
                "target": self.target,
                "ts": self.timestamp,
                "nonce": self.nonce,
                "canonical": self.canonical,
                "body": None
                if self.body is None
                else {
                    "length": self.body.length_bytes,
                    "sha256": self.body.sha256,
                    "forms": self.body.forms,
                },
            },
            separators=(",", ":"),
        )


def find(text: str) -> list[Sighting]:
    """Every request in a log, whatever its lines begin with, in order.

    Raises:
        Malformed: a line begins as a request and is none.
    """
    found = (line.partition(_MARK) for line in text.splitlines())
    return [parse(_MARK + rest) for _, mark, rest in found if mark]


def parse(line: str) -> Sighting:
    """Read what `encode` wrote; a logger may have put something behind it.

    Raises:
        Malformed: it is not that.
    """
    if len(line) > MAX_LINE_CHARACTERS:
        raise Malformed("a line of the log is too long for a request")
    try:
        # Up to the end of the object: formatters put fields, or a quotation mark, behind it.
        _, end = json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        raise Malformed("a request in the log was cut off, or changed") from None
    match encoding.load_json(line[:end]):
        case {
            "amesh": "request",
            "side": "sent" | "seen" as side,
            "at": int(at),
            "device": str(device_id),
            "method": str(method),
            "target": str(target),
            "ts": str(timestamp),
            "nonce": str(nonce),
            "canonical": str() | None as canonical,
            "body": dict() | None as body,
        } if _TIMESTAMP.fullmatch(timestamp) and _is_text(target, canonical or ""):
            return Sighting(
                Side(side), at, device_id, method, target, timestamp, nonce, canonical,
                None if body is None else _body(body),
            )  # fmt: skip
        case _:
            raise Malformed("a request in the log lacks a field, or was changed")


def _is_text(target: str, canonical: str) -> bool:
    """Whether these are a target in Latin-1 and a string that can have been signed."""
    return canonical.isascii() and max(target, default="") <= "\xff"


def _body(value: dict[str, Any]) -> Body:
    match value:
        case {"length": int(length_bytes), "sha256": str(sha256), "forms": dict(forms)} if all(
            isinstance(digest, str) for digest in forms.values()
        ):
            # A later version may know more forms.
            known = {Form(name): forms[name] for name in forms if name in set(Form)}
            return Body(length_bytes, sha256, known)
        case _:
            raise Malformed("the body of a request in the log lacks a field, or was changed")


def _canonical(
    method: str, target: bytes, timestamp: str, nonce: str, body: bytes | None
) -> str | None:
    if body is None:
        return None
    try:
        text = canonical_target(target)
    except MalformedRequest:
        return None
    return canonical_string(method, text, timestamp, nonce, body).decode()


def _as_json(data: bytes) -> bytes | None:
    try:
        return encoding.canonical_json(encoding.load_json(data))
    except Malformed:
        return None


def _unpacked(data: bytes) -> bytes | None:
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        unpacked = unpacking.decompress(data, _MAX_UNPACKED_BYTES)
    except zlib.error:
        return None
    return unpacked if unpacking.eof else None


def _without_line_ends(data: bytes) -> bytes:
    return data.translate(None, b"\r\n")


def _as_text(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode()


_FORMS: Final[Mapping[Form, Callable[[bytes], bytes | None]]] = {
    Form.JSON: _as_json,
    Form.GZIP: _unpacked,
    Form.LINES: _without_line_ends,
    Form.TEXT: _as_text,
}
