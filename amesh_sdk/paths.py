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
_ENCODED_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)


def target_as_sent(scope: Mapping[str, Any]) -> bytes:
    """The request target of an ASGI scope, byte for byte as the server received it.

    Raises:
        UsageError: the server does not tell, or something in front of us changed the path
            that is routed on, so that a signature would cover another one.
    """
    raw = scope.get("raw_path")
    if not isinstance(raw, bytes):
        raise UsageError(
            "this server does not give the path as it was sent: scope['raw_path'] is missing; "
            "run the app under uvicorn, hypercorn, granian or daphne"
        )
    _check_routed_path(raw, scope)
    query: bytes = scope.get("query_string", b"")
    return raw + b"?" + query if query else raw


def _check_routed_path(raw: bytes, scope: Mapping[str, Any]) -> None:
    try:
        decoded = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        return  # Servers put different replacements here; what is signed is `raw` itself.
    # Some servers and mounts give `path` without `root_path`, some with it.
    if decoded not in (scope["path"], scope.get("root_path", "") + scope["path"]):
        raise UsageError(
            "scope['path'] is not what scope['raw_path'] says: put the middleware that "
            "rewrites paths behind AuthMesh"
        )


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
