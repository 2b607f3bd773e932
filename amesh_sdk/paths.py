"""Which requests are verified when `include` or `exclude` narrow it down.

A prefix is compared with the path that the router will route on, segment by segment. An
exclusion opens a door, so it only counts for a path that can be read in one way: whatever
a router, a static file handler or a second decoding might take for another path is verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from amesh_core.errors import MalformedRequest, UsageError
from amesh_core.wire.target import canonical_target

# Characters that are not plain in one of the views of a path: a second decoding, a Windows
# separator, control characters.
_AMBIGUOUS: Final = re.compile(r"[%\\\x00-\x1f\x7f]")
_PLAIN_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_ENCODED_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)


# What to do under a server that hides the target, by the type of the scope.
_HIDDEN: Final[Mapping[str, str]] = {
    "wsgi-moved": (
        "SCRIPT_NAME was taken from a header, which is not signed; set the environment variable "
        "SCRIPT_NAME of gunicorn in its place, and --forwarder-headers ''"
    ),
    "wsgi": (
        "neither RAW_URI nor REQUEST_URI is in the WSGI environ; run the app under gunicorn or "
        "waitress (granian: with --interface asgi or asginl; manage.py runserver: use one of these)"
    ),
    "http": "scope['raw_path'] is missing; run the app under uvicorn, hypercorn, granian or daphne",
}


def target_as_sent(scope: Mapping[str, Any]) -> bytes:
    """The request target of an ASGI scope, byte for byte as the client sent it.

    Where the app has a prefix (`root_path`) that is not in what the server received, a proxy
    has cut it off: the client signed it, so it is put back. uvicorn does so by itself.

    Raises:
        MalformedRequest: a target that a server in between has read otherwise.
        UsageError: the server does not tell, or something in front of us changed the path
            that is routed on, so that a signature would cover another one.
    """
    raw = scope.get("raw_path")
    if not isinstance(raw, bytes):
        why = _HIDDEN.get(scope.get("type", "http"), _HIDDEN["http"])
        raise UsageError(f"this server does not give the path as it was sent: {why}")
    query: bytes = scope.get("query_string", b"")
    root: str = scope.get("root_path", "")
    _check_routed_path(raw, root, scope["path"])
    if root:
        raw = _with_prefix(raw, root)
    return raw + b"?" + query if query else raw


def wsgi_scope(
    environ: Mapping[str, Any], *, path: str | None = None, root_path: str | None = None
) -> dict[str, Any]:
    """What an ASGI scope would say of a WSGI request; `path` with `root_path`, if known better.

    RAW_URI is gunicorn's, REQUEST_URI that of waitress and most others. PATH_INFO is decoded,
    so it is never taken for what was sent.
    """
    uri = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    raw_path, _, query = uri.partition("?") if uri else (None, "", "")
    root = _wsgi_text(environ.get("SCRIPT_NAME", "")) if root_path is None else root_path
    # gunicorn lets a client on the same machine, or behind a proxy there, choose the prefix, and
    # with it the route: one signature would be good for several.
    header = environ.get("HTTP_SCRIPT_NAME")
    moved = header and header == environ.get("SCRIPT_NAME") and "RAW_URI" in environ
    if moved:
        raw_path = None
    return {
        "type": "wsgi-moved" if moved else "wsgi",
        "path": root + _wsgi_text(environ.get("PATH_INFO", "")) if path is None else path,
        "root_path": root,
        "raw_path": None if raw_path is None else raw_path.encode("latin-1", "backslashreplace"),
        "query_string": query.encode("latin-1", "backslashreplace"),
    }


def _wsgi_text(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("latin-1", "backslashreplace").decode("utf-8", "replace")  # PEP 3333


def _check_routed_path(raw: bytes, root: str, path: str) -> None:
    try:
        decoded = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
    except UnicodeDecodeError:
        return  # Servers put different replacements here; what is signed is `raw` itself.
    # Some servers and mounts give `path` without the prefix, some with it; some `raw`, too.
    if path == decoded or path == root + decoded or decoded == root + path:
        return
    if decoded == root and path == root + "/":
        return  # The top of a mount: Django routes an empty path as "/".
    # Servers disagree on targets such as "//host" and "/a#b": those are the client's fault.
    canonical_target(raw)
    raise UsageError(
        "the path that is routed on is not the one that was sent: put the middleware that "
        "rewrites paths behind AuthMesh"
    )


def _with_prefix(raw: bytes, root: str) -> bytes:
    sent = unquote_to_bytes(raw).decode("utf-8", "replace")
    root = root.rstrip("/")
    if not raw.startswith(b"/") or sent == root or sent.startswith(root + "/"):
        return raw
    if not _PLAIN_PREFIX.fullmatch(root):
        raise UsageError(f"the root path {root!r} could be spelt in several ways: use plain ASCII")
    return root.encode("ascii") + raw


@dataclass(frozen=True, slots=True)
class Paths:
    """The prefixes to verify (`include`; none means all) and to leave alone (`exclude`).

    Raises:
        UsageError: a prefix that no plain path can begin with.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for prefix in (*self.include, *self.exclude):
            _check_prefix(prefix)

    @classmethod
    def of(cls, include: Iterable[str], exclude: Iterable[str]) -> Paths:
        """The same from any iterables; a lone string, which is one too, is refused."""
        if isinstance(include, str) or isinstance(exclude, str):
            raise UsageError("include and exclude take several prefixes: write ('/health',)")
        return cls(tuple(include), tuple(exclude))

    def cover(self, scope: Mapping[str, Any], target: bytes) -> bool:
        """Whether this request must be verified; when in doubt, yes."""
        if not self.include and not self.exclude:
            return True
        path = _plain_path(scope, target)
        if path is None:
            return True
        if any(_begins(path, prefix) for prefix in self.exclude):
            return False
        return not self.include or any(_begins(path, prefix) for prefix in self.include)


def _check_prefix(prefix: str) -> None:
    segments = prefix.split("/")[1:]
    if not prefix.startswith("/") or _AMBIGUOUS.search(prefix) or set("?#*") & set(prefix):
        raise UsageError(f"{prefix!r} is not a path prefix: it is plain text that begins with /")
    if prefix != "/" and any(segment in ("", ".", "..") for segment in segments):
        raise UsageError(f"{prefix!r} is not a path prefix: empty and dot segments match nothing")


def _begins(path: str, prefix: str) -> bool:
    return prefix == "/" or path == prefix or path.startswith(prefix + "/")


def _plain_path(scope: Mapping[str, Any], target: bytes) -> str | None:
    """The path that is routed on, or None if it could be taken for another one."""
    try:
        canonical_target(target)  # refuses dot segments, plain and encoded, and much more
    except MalformedRequest:
        return None
    path = _route_path(scope)
    if _ENCODED_SLASH.search(target.partition(b"?")[0]) or "//" in path:
        return None
    # The replacement character: a path that was not UTF-8, or might be taken for one.
    if _AMBIGUOUS.search(path) or "\ufffd" in path:
        return None
    return path or "/"


def _route_path(scope: Mapping[str, Any]) -> str:
    """`path` without `root_path`, by the rule of Starlette's router."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :]
    return path
