"""What include and exclude let through, and which tricks they do not fall for."""

from __future__ import annotations

from typing import Any

import pytest

from amesh_core.errors import UsageError
from amesh_sdk.paths import Paths, target_as_sent
from tests.support.asgi import scope_of


def covered(paths: Paths, target: str, **scope: Any) -> bool:
    whole = scope_of(target=target, **scope)
    return paths.cover(whole, target_as_sent(whole))


HEALTH = Paths(exclude=("/health",))


@pytest.mark.parametrize(
    "target",
    ["/health", "/health/", "/health/live", "/health?full=1", "/%68ealth", "/health/caf%C3%A9"],
)
def test_an_excluded_path_is_left_open(target: str) -> None:
    assert not covered(HEALTH, target)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/healthy",
        "/health.json",
        "/Health",
        "/admin",
        "/admin/health",
        "/admin?/health",
        "//health",
        "/health//admin",
        "/health/../admin",
        "/health/%2e%2e/admin",
        "/health/.%2E/admin",
        "/health/./x",
        "/health/..%2fadmin",
        "/health%2f..%2fadmin",
        "/health%2Fadmin",
        "/health/%5c..%5cadmin",
        "/health/%252e%252e/admin",
        "/health/x%00",
        "/health/%0d%0aadmin",
        "/health/%ff",
        "/health\\admin",
        '/health/"x"',
        "/health?a#b",
        "http://other.example/health",
        "*",
    ],
)
def test_whatever_might_be_another_path_is_verified(target: str) -> None:
    assert covered(HEALTH, target)


@pytest.mark.parametrize(
    ("decoded", "root_path"), [("/api/health", "/api"), ("/health", "/api"), ("/health", "")]
)
def test_a_prefix_is_compared_with_what_the_router_sees(decoded: str, root_path: str) -> None:
    raw = {"raw_path": (root_path + decoded.removeprefix("/api")).encode()}
    assert not covered(HEALTH, decoded, root_path=root_path, **raw)
    assert covered(Paths(exclude=("/api/health",)), decoded, root_path=root_path, **raw)


def test_a_root_path_ends_at_a_segment() -> None:
    """/api-docs is not below /api, whatever the letters say."""
    assert covered(Paths(exclude=("/-docs",)), "/api-docs", root_path="/api")
    assert not covered(Paths(exclude=("/api-docs",)), "/api-docs", root_path="/api")
    assert not covered(Paths(exclude=("/",)), "/api", root_path="/api")


def test_include_names_what_is_verified() -> None:
    admin = Paths(include=("/admin",))
    assert covered(admin, "/admin")
    assert covered(admin, "/admin/users")
    assert covered(admin, "/%61dmin")
    assert not covered(admin, "/administrator")
    assert not covered(admin, "/public")


@pytest.mark.parametrize(
    "target", ["/public/../admin", "/public/%2e%2e/admin", "/public%2f..%2fadmin", "//x/admin"]
)
def test_include_does_not_open_what_might_be_another_path(target: str) -> None:
    assert covered(Paths(include=("/admin",)), target)


def test_exclude_wins_over_include() -> None:
    paths = Paths(include=("/api",), exclude=("/api/health",))
    assert covered(paths, "/api/orders")
    assert not covered(paths, "/api/health")
    assert not covered(paths, "/docs")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "health",
        "/health/",
        "//",
        "/a//b",
        "/a/../b",
        "/.",
        "/a?b",
        "/a#b",
        "/*",
        "/a%20b",
        "/a\\b",
        "/a\nb",
    ],
)
def test_a_prefix_that_matches_nothing_is_a_mistake(prefix: str) -> None:
    with pytest.raises(UsageError, match="path prefix"):
        Paths(exclude=(prefix,))
    with pytest.raises(UsageError, match="path prefix"):
        Paths(include=(prefix,))


def test_one_string_is_not_several_prefixes() -> None:
    with pytest.raises(UsageError, match="write"):
        Paths.of("/health", ())
    with pytest.raises(UsageError, match="write"):
        Paths.of((), "/health")
    assert Paths.of(["/a"], {"/b"}) == Paths(("/a",), ("/b",))


def test_the_target_is_path_and_query_as_sent() -> None:
    assert target_as_sent(scope_of(target="/a%2Fb?x=%41&y")) == b"/a%2Fb?x=%41&y"
    assert target_as_sent(scope_of(target="/a")) == b"/a"


@pytest.mark.parametrize("raw", [None, "/text", "absent"])
def test_a_server_that_hides_the_raw_path_is_named(raw: str | None) -> None:
    scope = scope_of(target="/orders", raw_path=raw)
    if raw == "absent":
        del scope["raw_path"]
    with pytest.raises(UsageError, match="raw_path"):
        target_as_sent(scope)


@pytest.mark.parametrize(
    ("raw", "path", "root_path"),
    [
        (b"/caf%C3%A9", "/café", ""),
        (b"/api/orders", "/api/orders", "/api"),  # uvicorn, Starlette's Mount
        (b"/api/orders", "/orders", "/api"),  # older mounts
        (b"/%ff", "/\ufffd", ""),
        (b"/%ff", "/ÿ", ""),
    ],
)
def test_a_path_that_says_what_was_sent(raw: bytes, path: str, root_path: str) -> None:
    assert target_as_sent(scope_of(path=path, raw_path=raw, root_path=root_path)) == raw


def test_a_rewritten_path_is_not_guessed_about() -> None:
    """A signature for /public must not open /admin, because a middleware says so."""
    with pytest.raises(UsageError, match="rewrites"):
        target_as_sent(scope_of(path="/admin", raw_path=b"/public"))
