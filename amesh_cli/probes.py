"""Which requests `amesh doctor --against` sends, and how each may arrive.

A server that verifies says yes or no, never why. So a request that was refused is sent again,
as it was, but signed as it would be if one certain thing happened to it on the way; the one
that is let in tells what does happen.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from amesh_core import causes
from amesh_core.errors import MalformedRequest
from amesh_core.sighting import Body
from amesh_core.wire.target import canonical_target


@dataclass(frozen=True, slots=True)
class Request:
    """A request: `path` and `query` in ASCII, as they stand in the request line."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> bytes:
        """What stands in the request line."""
        return f"{self.path}{'?' if self.query else ''}{self.query}".encode("ascii")


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that tries one thing, and the forms in which it may arrive, likely ones first."""

    name: str
    request: Request
    arrivals: Callable[[Request], Iterator[Request]]


def plain(path: str) -> Probe:
    """The path as it was given, without anything in it that might be changed but a prefix."""
    return Probe("path", Request("GET", path), _other_prefixes)


def all_others(path: str) -> Iterator[Probe]:
    """Everything else that is tried, at or below the path."""
    below = path.rstrip("/")
    query = "b=2&a=1&b=1&plus=%2B&space=x%20y+z&percent=%2525&empty="
    yield Probe("query", Request("GET", path, query), _other_queries)
    yield Probe("encoded slash", Request("GET", f"{below}/amesh%2Fdoctor"), _other_paths)
    yield Probe("encoded letter", Request("GET", f"{below}/amesh%2Ddoctor"), _other_paths)
    yield Probe("double slash", Request("GET", f"{below}/amesh//doctor"), _other_paths)
    yield Probe("slash at end", Request("GET", f"{below}/amesh-doctor/"), _other_paths)
    yield Probe("method HEAD", Request("HEAD", path), _other_methods)
    for name, body, headers in (
        ("JSON body", _JSON, {"Content-Type": "application/json"}),
        ("binary body", _BINARY, {"Content-Type": "application/octet-stream"}),
        (
            "gzip body",
            gzip.compress(_JSON, mtime=0),
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ),
    ):
        request = Request("POST", f"{below}/amesh-doctor", "", body, tuple(headers.items()))
        yield Probe(name, request, _other_bodies)


def cause(sent: Request, seen: Request) -> str:
    """What makes the one of the other, in the words of `amesh explain`."""
    if sent.method != seen.method:
        return causes.of_method(sent.method, seen.method)
    if sent.path != seen.path:
        return causes.of_path(sent.path, seen.path)
    if sent.query != seen.query:
        return causes.of_query(_signed(sent.query), _signed(seen.query))
    return causes.of_body(Body.of(sent.body), Body.of(seen.body))


def shown(sent: Request, expected: Request, seen: Request) -> str:
    """What is different in `seen` from what was expected of `sent`, in a few words."""
    if expected.method != seen.method:
        return f"{sent.method} arrives as {seen.method}"
    if expected.path != seen.path:
        return f"{sent.path} arrives as {seen.path}"
    if expected.query != seen.query:
        return f"?{sent.query} arrives as {f'?{seen.query}' if seen.query else 'no query'}"
    return f"{len(sent.body)} bytes arrive as {len(seen.body)} others"


# Spaces, an order, a float, an escape and a line end, none of which survives a JSON library.
_JSON: Final = b'{"b": 1,  "a": [2.0, "\\u00e9"]}\n'
_BINARY: Final = b"\x00\xff\xfe amesh \x80\r\n"


def _other_prefixes(sent: Request) -> Iterator[Request]:
    segments = sent.path.split("/")[1:]
    for count in range(1, len(segments) + 1):
        prefix = "".join(f"/{segment}" for segment in segments[:count])
        if sent.path != "/":
            yield replace(sent, path=sent.path.removeprefix(prefix) or "/")
            yield replace(sent, path=prefix + sent.path)  # a root path that nobody took off
    if sent.path != "/":
        other = sent.path.rstrip("/") if sent.path.endswith("/") else f"{sent.path}/"
        yield replace(sent, path=other)
    yield from _other_paths(sent)


def _other_paths(sent: Request) -> Iterator[Request]:
    decoded = unquote(sent.path, "latin-1")
    merged = sent.path.replace("//", "/")
    for path in (
        decoded,
        merged,
        decoded.replace("//", "/"),
        sent.path.replace("%2F", "%2f").replace("%2D", "%2d"),
        sent.path.replace("%", "%25"),
        sent.path.rstrip("/"),
    ):
        if path != sent.path and path.isascii():
            yield replace(sent, path=path)


def _other_queries(sent: Request) -> Iterator[Request]:
    pairs = parse_qsl(sent.query, keep_blank_values=True)
    for others in (
        [],
        [(name, value) for name, value in pairs if value],
        [(name, value.replace("+", " ")) for name, value in pairs],
        [(name, unquote(value)) for name, value in pairs],
        list(dict(pairs).items()),  # the last of equal names
        list(dict(reversed(pairs)).items()),  # the first
        sorted(pairs),
    ):
        yield replace(sent, query=urlencode(others))
    yield replace(sent, query=sent.query.replace("%", "%25"))


def _other_methods(sent: Request) -> Iterator[Request]:
    yield replace(sent, method="GET")


def _other_bodies(sent: Request) -> Iterator[Request]:
    for body in (b"", *_rewritten(sent.body)):
        if body != sent.body:
            yield replace(sent, body=body)
    yield replace(sent, method="GET")
    yield replace(sent, method="GET", body=b"")


def _rewritten(body: bytes) -> Iterator[bytes]:
    if body.startswith(b"\x1f\x8b"):
        yield gzip.decompress(body)
        return
    yield body.rstrip(b"\r\n")
    yield body.decode("utf-8", "replace").encode()
    if body != _JSON:
        return
    value = json.loads(body)
    # JavaScript has one kind of number.
    for same in (value, {**value, "a": [2, value["a"][1]]}):
        for options in ({"separators": (",", ":")}, {}, {"indent": 2}):
            for is_sorted in (False, True):
                for is_ascii in (False, True):
                    text = json.dumps(same, sort_keys=is_sorted, ensure_ascii=is_ascii, **options)
                    yield text.encode()


def _signed(query: str) -> str:
    try:
        return canonical_target(f"/?{query}".encode("ascii")).partition("?")[2]
    except MalformedRequest:
        return query
