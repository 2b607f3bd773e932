"""The request target: what Node's verifier makes of it, what is refused, the query's one form."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import MalformedRequest
from amesh_core.wire.target import canonical, canonical_target, check
from tests.support import vectors

_ALL: Final[list[dict[str, Any]]] = vectors.load("canonical.json")["cases"]
WITH_RAW_TARGET: Final = [case for case in _ALL if "raw_target" in case]

# Every target of the vectors that is refused here, and why (docs/protocol.md section 3).
REFUSED: Final = {
    "a dot segment, plain": [
        "/a/../b",
        "/a/./b",
        "/../a",
        "/a/.",
        "/a/../",
        "/../../..",
        "/a//../b",
        "/a/../b?c=/../d",
        "/p/../q?b=2&a=1",
    ],
    "a dot segment, encoded": ["/a/%2e%2e/b", "/a/.%2e/b", "/a/%2e/b"],
    "it names an authority": [
        "//evil/a",
        "//user@evil/a",
        "///a",
        "//[::1",
        "//%41/b",
        "//xn--/a",
        "//:80/a",
    ],
    "a backslash in the path": ["/a\\b", "\\\\evil\\a"],
    "a browser would encode it": ["/a b", "/ a", '/a"b', "/a<b>", "/a{b}"],
    # Node 20 and 22 keep it, Bun and the standard of today encode it: they sign differently.
    "browsers disagree": ["/a^b"],
    "not ASCII": ["/é", "/日本"],
    "a control character": ["/a\tb", "/a?b\tc=1"],
    "a fragment": ["/a#b", "/a#b?c=1", "#f"],
    "not an absolute path": [
        "a",
        "",
        "*",
        "HTTP://EVIL:80/A",
        "ftp://x/y",
        "mailto:x",
        "data:,x",
        "http:/a",
        "http:a",
    ],
}
_REASON: Final = {target: reason for reason, targets in REFUSED.items() for target in targets}


def path_of(text: str) -> str:
    return text.partition("?")[0]


@pytest.mark.parametrize("case", WITH_RAW_TARGET, ids=lambda case: case["id"])
def test_vectors(case: dict[str, Any]) -> None:
    raw = case["raw_target"]
    if raw in _REASON:
        with pytest.raises(MalformedRequest):
            canonical_target(raw.encode("utf-8"))
        return
    assert canonical_target(raw.encode("utf-8")) == case["canonical"].split("\n")[2]


def test_the_vectors_have_every_target_that_is_refused() -> None:
    assert set(_REASON) <= {case["raw_target"] for case in WITH_RAW_TARGET}


@pytest.mark.parametrize("case", WITH_RAW_TARGET, ids=lambda case: case["id"])
def test_what_node_rewrites_is_refused_and_little_else(case: dict[str, Any]) -> None:
    """The table above is not a choice: in the path it follows from what Node did."""
    raw, rewritten = case["raw_target"], case["path"]
    unchanged = rewritten is not None and path_of(rewritten) == path_of(raw)
    if raw == "/a?b\tc=1":  # only its query is rewritten
        assert unchanged
    elif raw == "/a^b":
        assert unchanged
        assert "%5E" in case["note"]
    else:
        assert unchanged is (raw not in _REASON)


@pytest.mark.parametrize(
    "target",
    [
        b"/..",
        b"/.",
        b"/a/..",
        b"/a/..?q",
        b"/a/.?q",
        b"/%2E%2e",
        b"/%2e.",
        b"/a/.%2E?q=1",
        b"/public/../admin",
        b"/public/%2e%2e/admin",
        b"/public/%2E%2E/admin",
        b"/public\\..\\admin",
        b"//evil/admin",
        b"//",
        b"/\\evil",
        b"http://host/admin",
        b"https://host/admin?q",
        b"?q",
        b" /a",
        b"/a ",
        b"/a\n",
        b"/a\r\nX: y",
        b"/a\x00",
        b"/a\x7f",
        b"/a`b",
        b"/a}b",
        b"/\xff",
        b"/\xc3\xa9",
        b"/a?b#c",
        b"/a?b c",
        b"/a?b\x00",
        b"/a?b\x7f",
        b"/a?b\n",
        b"/a?\xff",
    ],
)
def test_refused(target: bytes) -> None:
    with pytest.raises(MalformedRequest):
        check(target)


def test_what_a_stranger_sent_is_not_repeated() -> None:
    with pytest.raises(MalformedRequest) as refusal:
        check(b"/\x1b[31mfake log line")
    assert "fake" not in str(refusal.value)


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/...",
        b"/.a",
        b"/a.",
        b"/..a/b..",
        b"/%2e%2e%2e",
        b"/%2ea",
        b"/a%2e",
        b"/a/b//c",
        b"/a//",
        b"/%2F..%2f",
        b"/%zz%",
        b"/a?b=/../c",
        b"/a?//evil",
        b"/a?\\",
        b"/!$%&'()*+,-.:;=@[]_|~",
    ],
)
def test_admitted_as_it_is(target: bytes) -> None:
    assert check(target) == target.decode("ascii")


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_of_a_path(byte: int) -> None:
    """The set that the WHATWG standard (section 4.4 and 1.3) leaves as it is."""
    unchanged = (
        b"!$%&'()*+,-./0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz|~"
    )
    if byte in unchanged or byte == ord("?"):
        check(b"/a" + bytes([byte]) + b"b")
    else:
        with pytest.raises(MalformedRequest):
            check(b"/a" + bytes([byte]) + b"b")


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_of_a_query(byte: int) -> None:
    """A browser leaves some of these and encodes others; both are parsed to the same."""
    if 0x21 <= byte <= 0x7E and byte != ord("#"):
        check(b"/a?b" + bytes([byte]) + b"c")
    else:
        with pytest.raises(MalformedRequest):
            check(b"/a?b" + bytes([byte]) + b"c")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/x?a", "/x?a="),
        ("/x?", "/x"),
        ("/x?&&", "/x"),
        ("/x??a=1", "/x?a=1"),
        ("/x?a=%ff", "/x?a=%EF%BF%BD"),
        ("/x?a=%ed%a0%80", "/x?a=%EF%BF%BD%EF%BF%BD%EF%BF%BD"),
        ("/x?a=b+c", "/x?a=b%20c"),
        ("/x?%61=1", "/x?a=1"),
        ("/x?b=2&a=1", "/x?a=1&b=2"),
    ],
)
def test_known_aliases_of_amv1(one: str, other: str) -> None:
    """Pinned, because two verifiers must agree on them; docs/threats.md says what they allow."""
    assert one != other
    assert canonical_target(one.encode()) == canonical_target(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/%61", "/a"),
        ("/a", "/a/"),
        ("/x?a=1&a=2", "/x?a=2&a=1"),
        ("/x?a=1%26b=2", "/x?a=1&b=2"),
        ("/x?a+b=1", "/x?a%2Bb=1"),
    ],
)
def test_these_are_different(one: str, other: str) -> None:
    assert canonical_target(one.encode()) != canonical_target(other.encode())


def test_pairs_are_sorted_by_utf16_code_units() -> None:
    # U+1F600 is d83d de00 in UTF-16 and so before U+E000; by code point it is after.
    emoji, private = "%F0%9F%98%80", "%EE%80%80"
    assert canonical(f"/x?{private}=1&{emoji}=2") == f"/x?{emoji}=2&{private}=1"


@given(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: b"/" + text.encode()))
def test_any_bytes_are_a_target_or_malformed(raw: bytes) -> None:
    try:
        text = canonical_target(raw)
    except MalformedRequest:
        return
    assert text.isascii()
    assert text.startswith("/")
    assert path_of(text) == path_of(raw.decode("ascii"))


_PIECES: Final = st.sampled_from(
    ["a", "b", "1", "=", "&", "+", "%20", "%3D", "%ff", "%", "?", "~", "*"]
)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_a_canonical_query_is_its_own_canonical_form(query: str) -> None:
    """Also where there is nothing to rewrite and a shorter way is taken."""
    once = canonical("/x?" + query)
    assert canonical(once) == once


_NAMES: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(_NAMES, _NAMES), min_size=1, max_size=5))
def test_however_a_query_is_encoded(pairs: list[tuple[str, str]]) -> None:
    """All percent-encoded, as little as possible, and in form's own way: one result."""

    def everything(text: str) -> str:
        return "".join(f"%{byte:02x}" for byte in text.encode())

    def little(text: str) -> str:
        return quote_from_bytes(text.encode(), safe="!$'()*,-./:;@[]^_`{|}~\"<>\\?")

    one = "/x?x=0&" + "&".join(f"{everything(name)}={everything(value)}" for name, value in pairs)
    other = "/x?x=0&" + "&".join(f"{little(name)}={little(value)}" for name, value in pairs)
    assert canonical_target(one.encode()) == canonical_target(other.encode())


def test_a_long_target_costs_no_more_than_its_length() -> None:
    # 64 KiB is the most a server reads; each of these would blow up a backtracking pattern.
    for raw in (b"/a" * 30_000, b"/" + b"a" * 60_000 + b"\\", b"/x?" + b"a=1&" * 15_000 + b"#"):
        try:
            canonical_target(raw)
        except MalformedRequest:
            assert raw.endswith((b"\\", b"#"))
