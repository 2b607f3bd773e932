"""One resolver of what was sent, for the scope of an ASGI server and the environ of a WSGI one."""

from __future__ import annotations

from typing import Any

import pytest

from amesh_core.errors import MalformedRequest, UsageError
from amesh_sdk.paths import Paths, target_as_sent, wsgi_scope
from tests.support.asgi import scope_of


def environ_of(raw: str, path: str, script: str = "", **more: Any) -> dict[str, Any]:
    return {"RAW_URI": raw, "PATH_INFO": path, "SCRIPT_NAME": script} | more


@pytest.mark.parametrize(
    ("raw", "path", "script", "target"),
    [
        ("/a%2Fb?x=%41&y", "/a/b", "", b"/a%2Fb?x=%41&y"),
        ("/caf%C3%A9", "/cafÃ©", "", b"/caf%C3%A9"),  # PEP 3333: bytes in the clothes of text
        ("/%ff", "/ÿ", "", b"/%ff"),
        ("/%ff", "/\ufffd", "", b"/%ff"),
        ("/api/x", "/x", "/api", b"/api/x"),  # gunicorn, waitress: kept by the proxy
        ("/x", "/x", "/api", b"/api/x"),  # waitress, ProxyFix: cut off
        ("/api", "", "/api", b"/api"),
        ("/apis", "/apis", "/api", b"/api/apis"),
    ],
)
def test_a_wsgi_target(raw: str, path: str, script: str, target: bytes) -> None:
    environ = environ_of(raw, path, script)
    assert target_as_sent(wsgi_scope(environ)) == target
    other = {"REQUEST_URI" if key == "RAW_URI" else key: environ[key] for key in environ}
    assert target_as_sent(wsgi_scope(other)) == target


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("//evil/admin", "/evil/admin"),  # waitress
        ("/a#b", "/a"),  # gunicorn, waitress
        ("http://h/p?q", "/p"),
        ("/\u4e00", "/x"),
    ],
)
def test_what_servers_read_in_two_ways_is_the_clients_fault(raw: str, path: str) -> None:
    with pytest.raises(MalformedRequest):
        target_as_sent(wsgi_scope(environ_of(raw, path)))


def test_a_rewritten_path_is_not_guessed_about() -> None:
    for raw, path, script in [("/public", "/admin", ""), ("/x", "/x/", ""), ("/x", "/y", "/api")]:
        with pytest.raises(UsageError, match="rewrites"):
            target_as_sent(wsgi_scope(environ_of(raw, path, script)))


@pytest.mark.parametrize("raw", [None, ""])
def test_a_server_that_hides_the_target_is_told_what_to_run(raw: str | None) -> None:
    with pytest.raises(UsageError, match=r"RAW_URI nor REQUEST_URI .* gunicorn or waitress"):
        target_as_sent(wsgi_scope({"PATH_INFO": "/x", "RAW_URI": raw}))


def test_a_prefix_from_a_header_is_refused() -> None:
    moved = environ_of("/public/admin", "/admin", "/public", HTTP_SCRIPT_NAME="/public")
    with pytest.raises(UsageError, match="SCRIPT_NAME was taken from a header"):
        target_as_sent(wsgi_scope(moved))
    kept = environ_of("/api/x", "/x", "/api", HTTP_SCRIPT_NAME="/other")
    assert target_as_sent(wsgi_scope(kept)) == b"/api/x"


@pytest.mark.parametrize(
    ("raw", "path", "root_path", "target"),
    [
        (b"/x", "/x", "/api", b"/api/x"),  # hypercorn, granian, daphne behind a cutting proxy
        (b"/api/x", "/api/x", "/api", b"/api/x"),  # uvicorn, and all behind a keeping one
        (b"/%61pi/x", "/api/x", "/api", b"/%61pi/x"),
        (b"/apis/x", "/apis/x", "/api", b"/api/apis/x"),
        (b"/api", "/api", "/api", b"/api"),
        (b"/x", "/x", "/api/", b"/api/x"),
        (b"/x", "/x", "/v1.0/api-b_c~", b"/v1.0/api-b_c~/x"),
        (b"//evil", "//evil", "/api", b"/api//evil"),  # as uvicorn has it; the router sees it
        (b"*", "*", "/api", b"*"),
    ],
)
def test_a_prefix_that_was_cut_off_is_put_back(
    raw: bytes, path: str, root_path: str, target: bytes
) -> None:
    scope = scope_of(path=path, raw_path=raw, root_path=root_path)
    assert target_as_sent(scope) == target


@pytest.mark.parametrize("root_path", ["/caf\u00e9", "/a b", "api", "/a%2Fb", "/..//x?"])
def test_a_prefix_with_several_spellings_is_not_guessed(root_path: str) -> None:
    with pytest.raises(UsageError, match="several ways"):
        target_as_sent(scope_of(path="/x", raw_path=b"/x", root_path=root_path))


def test_exclusions_are_compared_with_what_a_wsgi_router_sees() -> None:
    open_x = Paths(exclude=("/x",))
    for raw, path, script, covered in [
        ("/x", "/x", "", False),
        ("/api/x", "/x", "/api", False),
        ("/x", "/x", "/api", False),
        ("/api/api/x", "/api/x", "/api", True),
        ("/x/../y", "/x/../y", "", True),
        ("/x%2F..%2Fy", "/x/../y", "", True),
    ]:
        scope = wsgi_scope(environ_of(raw, path, script))
        assert open_x.cover(scope, target_as_sent(scope)) is covered, raw
