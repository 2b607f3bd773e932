"""Two sightings of one request: the difference is certain, the cause is the likely one."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import causes, sighting
from amesh_core.errors import Malformed
from amesh_core.explain import Difference, explain, pairs
from amesh_core.request import canonical_string
from amesh_core.sighting import Body, Form, Side, Sighting
from amesh_core.wire.target import canonical_target

AT = 1_795_435_200
NONCE = "AAECAwQFBgcICQoLDA0ODw"


def seen_as(
    method: str = "POST",
    target: bytes = b"/api/orders?b=2&a=1",
    body: bytes | None = b'{"amount": 1.0}\n',
    *,
    side: Side = Side.SEEN,
    **more: Any,
) -> Sighting:
    facts: dict[str, Any] = {"timestamp": str(AT), "nonce": NONCE, "device_id": "am_x", "at": AT}
    return Sighting.of(side, method, target, body, **(facts | more))


def signed_as(*args: Any, **more: Any) -> Sighting:
    return seen_as(*args, side=Side.SENT, **more)


def only(sent: Sighting, seen: Sighting) -> Difference:
    (difference,) = explain(sent, seen).differences
    return difference


# --- one line of a log ------------------------------------------------------------------


def test_a_line_holds_what_was_signed_and_is_read_back() -> None:
    body = b"the body is a secret of the application"
    one = signed_as(body=body)
    line = one.encode()
    target = canonical_target(b"/api/orders?b=2&a=1")
    signed = canonical_string("POST", target, str(AT), NONCE, body)
    assert json.loads(line)["canonical"] == signed.decode()
    assert sighting.parse(line) == one
    assert "secret" not in line
    assert "\n" not in line
    assert line.isascii()


@pytest.mark.parametrize(
    "before", ["", "INFO:amesh.sign:", "2026-01-02 03:04:05,678 [DEBUG] amesh.sign - ", "| "]
)
@pytest.mark.parametrize("behind", ["", " (signer.py:46)", "\n\nother line", '"}'])
def test_a_request_is_found_in_any_log(before: str, behind: str) -> None:
    one = seen_as()
    assert sighting.find(f"starting\n{before}{one.encode()}{behind}\n") == [one]


def test_a_log_without_requests_has_none() -> None:
    assert sighting.find('GET / 200\n{"amesh":"other"}\n') == []


def test_what_came_with_any_bytes_is_one_ascii_line() -> None:
    one = seen_as("GET", b"/a\n\xff\x1b[31m?\xfe", None, nonce="n")
    assert one.encode().isprintable()
    assert one.canonical is None
    assert sighting.parse(one.encode()) == one


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", "third"),
        ("at", "1"),
        ("method", None),
        ("target", "/\u0100"),
        ("target", "\ud800"),
        ("ts", "x"),
        ("ts", "1" * 17),
        ("ts", "\u0661"),
        ("canonical", "\u00e9"),
        ("body", []),
        ("body", {"length": "1", "sha256": "x", "forms": {}}),
        ("body", {"length": 1, "sha256": "x", "forms": {"json": 1}}),
        ("body", {"length": 1, "sha256": "x"}),
    ],
)
def test_a_changed_line_is_malformed(field: str, value: Any) -> None:
    line = json.loads(seen_as().encode()) | {field: value}
    with pytest.raises(Malformed):
        sighting.parse(json.dumps(line, separators=(",", ":")))


def test_a_form_of_a_later_version_is_passed_over() -> None:
    line = json.loads(seen_as().encode())
    line["body"]["forms"]["cbor"] = "00"
    assert sighting.parse(json.dumps(line)) == seen_as()


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_parsing_returns_or_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        sighting.parse(text)


@given(st.integers(0, 400))
def test_a_line_that_was_cut_off_is_malformed(length: int) -> None:
    line = seen_as().encode()
    with pytest.raises(Malformed):
        sighting.find('{"amesh":"request",' + line[19 : min(19 + length, len(line) - 1)])


def test_a_line_too_long_is_malformed() -> None:
    long = seen_as(target=b"/" + b"a" * sighting.MAX_LINE_CHARACTERS).encode()
    with pytest.raises(Malformed, match="long"):
        sighting.parse(long)


def test_what_unpacks_without_end_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    assert Form.GZIP not in Body.of(bomb).forms
    assert Form.GZIP in Body.of(gzip.compress(b"small")).forms


# --- which belong together --------------------------------------------------------------


def test_requests_are_put_together_by_their_nonce() -> None:
    sent = [signed_as(nonce=name) for name in "abc"]
    seen = [seen_as(nonce=name) for name in "cxa"]
    assert pairs([*seen, *sent]) == [(sent[2], seen[0]), (sent[0], seen[2])]


def test_two_alone_belong_together_and_more_do_not() -> None:
    sent, seen = signed_as(nonce="a"), seen_as(nonce="b")
    assert pairs([seen, sent]) == [(sent, seen)]
    assert pairs([seen, sent, sent]) == []
    assert pairs([sent]) == []


def test_what_arrived_twice_is_two_pairs() -> None:
    assert len(pairs([signed_as(), seen_as(), seen_as()])) == 2


# --- what differs -----------------------------------------------------------------------


def test_the_same_is_the_same() -> None:
    explanation = explain(signed_as(), seen_as())
    assert explanation.differences == ()
    assert explanation.first_byte is None
    assert explanation.is_same


@pytest.mark.parametrize(
    ("seen", "offset", "part"),
    [
        ({"method": "PUT"}, 6, "method"),
        ({"target": b"/orders?a=1&b=2"}, 11, "target"),
        ({"timestamp": str(AT + 1)}, 39, "timestamp"),
        ({"nonce": "B" + NONCE[1:]}, 41, "nonce"),
        ({"body": b""}, 64, "body"),
    ],
)
def test_the_first_byte_that_differs(seen: dict[str, Any], offset: int, part: str) -> None:
    sent = signed_as()
    other = seen_as(**seen)
    first = explain(sent, other).first_byte
    assert first is not None
    assert (first.offset, first.part) == (offset, part)
    assert sent.canonical is not None
    assert other.canonical is not None
    assert sent.canonical[:offset] == other.canonical[:offset]
    assert sent.canonical[offset] != other.canonical[offset]


@pytest.mark.parametrize("seen", [b"/api/orders?a=1&b=2", b"/api/orders?b=2&&a=%31"])
def test_another_order_or_spelling_of_the_query_is_harmless(seen: bytes) -> None:
    difference = only(signed_as(), seen_as(target=seen))
    assert difference.harmless
    assert explain(signed_as(), seen_as(target=seen)).is_same


@pytest.mark.parametrize(
    ("sent", "seen", "says"),
    [
        ("HEAD", "GET", "HEAD"),
        ("POST", "GET", "redirect"),
        ("POST", "post", "capitals"),
        ("POST", "DELETE", "override"),
    ],
)
def test_causes_of_another_method(sent: str, seen: str, says: str) -> None:
    assert says in causes.of_method(sent, seen)


@pytest.mark.parametrize(
    ("sent", "seen", "says"),
    [
        ("/api/orders", "/orders", "prefix /api was taken off"),
        ("/api", "/", "prefix /api was taken off"),
        ("/api/", "/", "prefix /api was taken off"),
        ("/orders", "/api/orders", "prefix /api was put in front"),
        ("/orders", "/orders/", "slash at the end"),
        ("/orders/", "/orders", "slash at the end"),
        ("/a//b", "/a/b", "slashes that follow each other"),
        ("/a%2fb", "/a%2Fb", "another case"),
        ("/a%2Fb", "/a/b", "%2F was decoded to a slash"),
        ("/a%20b%2Fc", "/a b/c", "%2F was decoded to a slash"),
        ("/a%7Eb", "/a~b", "decoded or encoded"),
        ("/a%2Fb", "/a%252Fb", "a second time"),
        ("/Orders", "/orders", "capitals"),
        ("/a;v=1/b", "/a/b", "semicolon"),
        ("/a%2F/b", "/a/b", "decoded and its slashes merged"),
        ("/api/a%2Fb", "/a/b", "decoded, and /api taken off"),
        ("/a", "/b", "rewritten"),
    ],
)
def test_causes_of_another_path(sent: str, seen: str, says: str) -> None:
    assert says in causes.of_path(sent, seen)
    difference = only(signed_as("GET", sent.encode(), b""), seen_as("GET", seen.encode(), b""))
    assert (difference.part, difference.sent, difference.seen) == ("path", sent, seen)
    assert says in difference.cause
    assert not difference.harmless


@pytest.mark.parametrize(
    ("sent", "seen", "says"),
    [
        (b"a=1", b"", "dropped on the way"),
        (b"", b"a=1", "added after signing"),
        (b"a=1&a=2", b"a=2&a=1", "changed their order"),
        (b"a=1%2B2", b"a=1+2", "plus sign became a space in a"),
        (b"a=%252F", b"a=%2F", "a was decoded twice"),
        (b"a=%2F", b"a=%252F", "a was encoded a second time"),
        (b"a=1", b"a=1&utm=x", "added after signing: utm"),
        (b"a=1&e=", b"a=1", "without a value were dropped: e"),
        (b"a=1&b=2", b"a=1", "parameters were dropped on the way: b"),
        (b"a=1&b=2", b"a=1&b=3", "changed on the way: b"),
    ],
)
def test_causes_of_another_query(sent: bytes, seen: bytes, says: str) -> None:
    difference = only(
        signed_as("GET", b"/?" + sent if sent else b"/", b""),
        seen_as("GET", b"/?" + seen if seen else b"/", b""),
    )
    assert difference.part == "query"
    assert says in difference.cause
    assert not difference.harmless


def test_a_plus_and_an_encoded_space_are_the_same() -> None:
    assert only(signed_as("GET", b"/?a=b%20c", b""), seen_as("GET", b"/?a=b+c", b"")).harmless


JSON = b'{"b": 1.0, "a": "\\u00e9"}'


@pytest.mark.parametrize(
    ("sent", "seen", "says"),
    [
        (JSON, b"", "no body arrived"),
        (b"", JSON, "signed without its body"),
        (JSON, gzip.compress(JSON, mtime=0), "compressed after signing"),
        (gzip.compress(JSON, mtime=0), JSON, "unpacked on the way"),
        (JSON, '{"a":"é","b":1}'.encode(), "parsed and written anew"),
        (b"line\r\nline\n", b"line\nline", "only line ends"),
        (b"\xff\x00", "\ufffd\x00".encode(), "not UTF-8 were replaced"),
        (b"abc", b"abd", "changed in place"),
        (b"abc", b"abcd", "other bytes arrived"),
    ],
)
def test_causes_of_another_body(sent: bytes, seen: bytes, says: str) -> None:
    difference = only(signed_as(body=sent), seen_as(body=seen))
    assert difference.part == "body"
    assert says in difference.cause


def test_a_header_of_another_request_is_named() -> None:
    parts = {
        difference.part: difference.cause
        for difference in explain(
            signed_as(), seen_as(nonce="x", timestamp=str(AT - 1), device_id="am_y")
        ).differences
    }
    assert parts.keys() == {"device", "nonce", "timestamp"}
    assert "retry" in parts["nonce"]


@pytest.mark.parametrize(
    ("late", "says"), [(31, "31 s before the server's clock"), (-31, "31 s after")]
)
def test_a_clock_that_is_wrong_is_seen_by_the_servers_own(late: int, says: str) -> None:
    difference = only(signed_as(), seen_as(at=AT + late))
    assert difference.part == "clock"
    assert says in difference.cause
    assert explain(signed_as(), seen_as(at=AT + late - (1 if late > 0 else -1))).is_same


def test_a_body_that_was_not_read_is_no_difference() -> None:
    explanation = explain(signed_as(), seen_as(body=None))
    assert explanation.is_same
    assert explanation.first_byte is None


def test_a_target_that_no_server_signs_is_named() -> None:
    target = b"/a/../b"
    difference = only(signed_as("GET", target, b""), seen_as("GET", target, b""))
    assert "cannot sign this target" in difference.cause


def test_two_strings_that_differ_are_never_called_the_same() -> None:
    """A client that signs something else than it says."""
    line = json.loads(signed_as().encode())
    line["canonical"] = line["canonical"].replace("AMv1", "AMv2")
    explanation = explain(sighting.parse(json.dumps(line)), seen_as())
    assert not explanation.is_same
    assert explanation.first_byte is not None
    assert (explanation.first_byte.offset, explanation.first_byte.part) == (3, "version")
