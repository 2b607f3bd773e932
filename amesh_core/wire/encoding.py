"""Base64 in both alphabets, strict JSON, canonical JSON, instants; docs/protocol.md sections 0-2.

Python's own decoders are lenient: base64 skips foreign characters and ignores spare
bits, JSON keeps the last of two equal keys and knows NaN. Two spellings of one value are
two ways past a comparison, so everything here has one spelling only.
"""

from __future__ import annotations

import binascii
import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import rfc8785

from amesh_core.errors import Malformed

# Deeper nesting than any of our formats; the Node tools stop at 32 as well.
MAX_JSON_DEPTH: Final = 32

# Python 3.14 also reads 24:00, which would be a second spelling of the next day's 00:00.
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
)


def b64(data: bytes) -> str:
    """Encode as standard base64 with padding (RFC 4648 section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def b64u(data: bytes) -> str:
    """Encode as base64url without padding (RFC 4648 section 5)."""
    return b64(data).rstrip("=").replace("+", "-").replace("/", "_")


def unb64(text: str, *, length: int | None = None) -> bytes:
    """Decode canonical, padded standard base64; exactly `length` bytes when given.

    Raises:
        Malformed: another alphabet, padding missing or extra, spare bits set, other length.
    """
    try:
        data = binascii.a2b_base64(text)
    except ValueError:  # binascii.Error is one
        raise Malformed("not base64") from None
    # Re-encoding is the one test that catches foreign characters, spare bits and doubled
    # padding alike.
    if binascii.b2a_base64(data, newline=False).decode("ascii") != text:
        raise Malformed("not canonical base64")
    if length is not None and len(data) != length:
        raise Malformed(f"{len(data)} bytes instead of {length}")
    return data


def unb64u(text: str, *, length: int | None = None) -> bytes:
    """Decode canonical, unpadded base64url; exactly `length` bytes when given.

    Raises:
        Malformed: as `unb64`.
    """
    if "+" in text or "/" in text or "=" in text:
        raise Malformed("not base64url")
    standard = text.replace("-", "+").replace("_", "/") + _PADDING[len(text) % 4]
    return unb64(standard, length=length)


def unb64_any(text: str, *, length: int | None = None) -> bytes:
    """Decode base64 in either alphabet, wholly padded or not at all, no spare bits set.

    Node writes and accepts both; what is compared afterwards is the bytes, so several
    spellings of one value are harmless where this is used (header `id`, seals, key files).

    Raises:
        Malformed: as `unb64`.
    """
    standard = text.replace("-", "+").replace("_", "/")
    if "=" not in standard:
        standard += _PADDING[len(standard) % 4]
    return unb64(standard, length=length)


_PADDING: Final = ("", "===", "==", "=")  # three are never right, and refused by `unb64`


def load_json(data: bytes | str) -> Any:
    """Parse JSON text (RFC 8259), refusing what two parsers would read differently.

    Raises:
        Malformed: not UTF-8, not JSON, a byte order mark, a key twice in one object, NaN or
            Infinity, or nesting deeper than MAX_JSON_DEPTH.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = _DECODER.decode(text)
    # RecursionError: deep nesting ends the parser before our own depth check can.
    except (ValueError, RecursionError):
        raise Malformed("not valid JSON") from None
    _check_depth(value, MAX_JSON_DEPTH)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("a key twice in one JSON object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON")


# Made once: with hooks, json.loads makes a new one for every text.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise Malformed(f"JSON nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, left - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, left - 1)


def canonical_json(value: Any) -> bytes:
    """Serialise by JCS (RFC 8785); a lone surrogate in a value is written as `\\udxxx`.

    RFC 8785 has no form for lone surrogates, but JavaScript's JSON.stringify, which sealed
    the files that exist, escapes them in lower case. In a key they are refused: their place
    in the order would be ours alone.

    Raises:
        Malformed: a value JCS cannot express (an integer beyond 2^53 - 1, a non-finite float).
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
        if not _SURROGATE.search(text):
            return rfc8785.dumps(value)
        # A private-use character that the document does not use marks the escapes, so
        # nothing that is really in it can be taken for one.
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in text)
        canonical = rfc8785.dumps(_mark_surrogates(value, mark))
    except (ValueError, RecursionError, StopIteration):
        raise Malformed("cannot be written as canonical JSON") from None
    return re.sub(f"{mark}(d[0-9a-f]{{3}})", r"\\u\1", canonical.decode("utf-8")).encode("utf-8")


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _mark_surrogates(value: Any, mark: str) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub(lambda found: f"{mark}{ord(found[0]):04x}", value)
    if isinstance(value, list):
        return [_mark_surrogates(item, mark) for item in value]
    if isinstance(value, dict):
        return {key: _mark_surrogates(item, mark) for key, item in value.items()}
    return value


def instant(seconds: float) -> str:
    """Write a Unix time as `YYYY-MM-DDTHH:MM:SS.mmmZ`, the form of every time in our files."""
    # Rounded, as a float cannot hold every millisecond of a far year: cut off, one more than
    # `parse_instant` read would be none more.
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    moment = datetime.fromtimestamp(whole, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def parse_instant(text: str) -> float:
    """Read `YYYY-MM-DDTHH:MM:SS.mmmZ` as a Unix time in seconds.

    Raises:
        Malformed: any other form, or a date that does not exist.
    """
    if not _INSTANT.fullmatch(text):
        raise Malformed("not a UTC time of the form YYYY-MM-DDTHH:MM:SS.mmmZ")
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Malformed("no such date") from None
