"""What a signature covers: Node's vectors, byte for byte; and making one."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import crypto
from amesh_core.errors import MalformedHeader, MalformedRequest
from amesh_core.request import canonical_string, check_method, sign
from amesh_core.wire import header
from amesh_core.wire.target import canonical, check
from tests.support import vectors
from tests.support.requests import CONTROLLER, NONCE, NOW

CASES: Final[list[dict[str, Any]]] = [
    case for case in vectors.load("canonical.json")["cases"] if "raw_target" not in case
]

# Node's builder takes any text. These never reach ours from outside:
REFUSED_METHODS: Final = {"Post", "straße", "ıi", "ŉ", ""}
REFUSED_TIMESTAMPS: Final = {"1\n2", "1\r", ""}
# A path that no browser sends; the queries that are refused are found by their characters.
REFUSED_PATHS: Final = {
    "",
    "//",
    "/é",
    "/😀",
    "*",
    "no-leading-slash",
    "http://h/abs",
    "/a#frag",
    "/x\n/y",
}


def scalar_values(text: str) -> str:
    """The text as JavaScript hands it to a URL: a lone surrogate is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_sent_by_a_browser(target: str) -> bool:
    path, _, query = target.partition("?")
    return path not in REFUSED_PATHS and all("!" <= c <= "~" and c != "#" for c in query)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_string_is_nodes(case: dict[str, Any]) -> None:
    """On all of them, also where the request would not be admitted."""
    if case["canonical"] is None:
        # A newline in a field. Ours has no check of its own: nothing that could hold one
        # gets past the parsers.
        assert "\n" in case["path"] + case["ts"]
        return
    method = case["method"].upper()
    target = canonical(scalar_values(case["path"]))
    body = base64.b64decode(case["body_b64"])
    expected = case["canonical"].encode("utf-8")
    assert canonical_string(method, target, case["ts"], case["nonce"], body) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_what_is_admitted(case: dict[str, Any]) -> None:
    """The method, the target and the timestamp of each case, against the tables above."""
    if case["method"] in REFUSED_METHODS:
        with pytest.raises(MalformedRequest):
            check_method(case["method"])
    else:
        check_method(case["method"])

    raw = case["path"].encode("utf-8", "surrogatepass")
    if is_sent_by_a_browser(case["path"]):
        check(raw)
    else:
        with pytest.raises(MalformedRequest):
            check(raw)

    line = f'AuthMesh v="1",id="AAAA",ts="{case["ts"]}",nonce="{case["nonce"]}",sig="AAAA"'
    if case["ts"] in REFUSED_TIMESTAMPS:
        with pytest.raises(MalformedHeader):
            header.parse([line])
    else:
        header.parse([line])


def test_the_tables_have_nothing_that_is_not_a_case() -> None:
    assert {case["method"] for case in CASES} > REFUSED_METHODS
    assert {case["ts"] for case in CASES} > REFUSED_TIMESTAMPS
    assert {case["path"].partition("?")[0] for case in CASES} > REFUSED_PATHS


@pytest.mark.parametrize("method", ["GET", "POST", "M-SEARCH", "VERSION-CONTROL", "BREW"])
def test_methods(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize(
    "method",
    ["", "get", "Get", "GET ", " GET", "GET\n", "GE T", "-GET", "GET-", "A--B", "ÉTÉ", "G3T"],
)
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(MalformedRequest):
        check_method(method)


def test_a_signature_covers_the_request() -> None:
    value = sign("POST", b"/a?b=2&a=%c3%a9", b"\xff\x00body", CONTROLLER.key, now=NOW, nonce=NONCE)
    credential = header.parse([value])
    assert credential[:4] == ("1", CONTROLLER.key.public, str(NOW), "AAECAwQFBgcICQoLDA0ODw")
    message = "\n".join(
        [
            "AMv1",
            "POST",
            "/a?a=%C3%A9&b=2",
            str(NOW),
            "AAECAwQFBgcICQoLDA0ODw",
            hashlib.sha256(b"\xff\x00body").hexdigest(),
        ]
    )
    crypto.verify(CONTROLLER.key.public, credential.signature, message.encode("ascii"))


def test_a_request_that_no_verifier_admits_is_not_signed() -> None:
    with pytest.raises(MalformedRequest):
        sign("post", b"/", b"", CONTROLLER.key, now=NOW, nonce=NONCE)
    with pytest.raises(MalformedRequest):
        sign("POST", b"/a/../b", b"", CONTROLLER.key, now=NOW, nonce=NONCE)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_nonce_has_16_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="16"):
        sign("GET", b"/", b"", CONTROLLER.key, now=NOW, nonce=bytes(length))


_BODIES: Final = st.binary(max_size=40)


@given(_BODIES, _BODIES)
def test_bodies_have_their_own_strings(one: bytes, other: bytes) -> None:
    """Node's middleware decodes bodies as UTF-8: there all broken ones share a signature."""
    strings = {canonical_string("POST", "/", "1", "n", body) for body in (one, other)}
    assert len(strings) == len({one, other})
