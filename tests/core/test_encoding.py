"""One spelling for each value: base64, JSON in and out, instants."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import (
    MAX_JSON_DEPTH,
    b64,
    b64u,
    canonical_json,
    instant,
    load_json,
    parse_instant,
    unb64,
    unb64_any,
    unb64u,
)

# --- base64 -----------------------------------------------------------------------------

# RFC 4648 section 10, and bytes in which the two alphabets differ.
BASE64: Final = [
    (b"", "", ""),
    (b"f", "Zg==", "Zg"),
    (b"fo", "Zm8=", "Zm8"),
    (b"foo", "Zm9v", "Zm9v"),
    (b"foob", "Zm9vYg==", "Zm9vYg"),
    (b"fooba", "Zm9vYmE=", "Zm9vYmE"),
    (b"foobar", "Zm9vYmFy", "Zm9vYmFy"),
    (b"\xfb\xff\xfe", "+//+", "-__-"),
    (b"\xff", "/w==", "_w"),
]


@pytest.mark.parametrize(("data", "standard", "url"), BASE64)
def test_base64(data: bytes, standard: str, url: str) -> None:
    assert (b64(data), b64u(data)) == (standard, url)
    assert unb64(standard) == unb64u(url) == data
    for text in {standard, url, standard.rstrip("="), padded(url)}:
        assert unb64_any(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AB==",  # spare bits
        "AAB=",
        "AAA==",
        "AA===",
        "AAAA=",
        "AAAA====",
        "=",
        "====",
        "A=A=",
        "AA=A",
        " AAAA",
        "AAAA\n",
        "AA AA",
        "AA\nAA",
        "AA.A",
        "AAA\x00",
        "éAAA",
        "\ud800AAA",
    ],
)
def test_no_base64_of_any_kind(text: str) -> None:
    for decode in (unb64, unb64u, unb64_any):
        with pytest.raises(Malformed):
            decode(text)


def test_each_alphabet_for_itself() -> None:
    for text in ("AA", "AAA", "AA=", "-_-_", "AA-="):
        with pytest.raises(Malformed):
            unb64(text)
    for text in ("AA==", "AAA=", "AA=", "+/+/", "AA="):
        with pytest.raises(Malformed):
            unb64u(text)


def test_half_a_padding() -> None:
    with pytest.raises(Malformed):
        unb64_any("AA=")


def test_a_length_is_exact() -> None:
    for decode in (unb64, unb64u, unb64_any):
        assert decode("AAAA", length=3) == bytes(3)
        for length in (0, 2, 4):
            with pytest.raises(Malformed, match="3 bytes"):
                decode("AAAA", length=length)


@given(st.binary(max_size=100))
def test_base64_round_trip(data: bytes) -> None:
    assert unb64(b64(data)) == unb64u(b64u(data)) == unb64_any(b64u(data)) == data


@given(st.text("AZaz09+/-_= \né", max_size=10) | st.text(max_size=10))
def test_whatever_decodes_is_the_one_spelling(text: str) -> None:
    standard, url, either = (decoded(decode, text) for decode in (unb64, unb64u, unb64_any))
    assert standard is None or b64(standard) == text
    assert url is None or b64u(url) == text
    one_alphabet = text.replace("+", "-").replace("/", "_")
    assert either is None or one_alphabet in (b64u(either), padded(b64u(either)))


def decoded(decode: Callable[[str], bytes], text: str) -> bytes | None:
    try:
        return decode(text)
    except Malformed:
        return None


def padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


# --- JSON -------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"a":2}}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xef\xbb\xbf{}",
        "\ufeff{}",
        b'"\xff"',
        b"{} {}",
        b"{'a':1}",
        b"[1,]",
        b'"\n"',
        b"1" * 5000,
        nested(MAX_JSON_DEPTH + 2),
        nested(100_000),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_no_json(data: bytes | str) -> None:
    with pytest.raises(Malformed):
        load_json(data)


def test_json() -> None:
    assert load_json(b'{"a":[1,2.5,"\xc3\xa9\\ud800",null,true]}') == {
        "a": [1, 2.5, "é\ud800", None, True]
    }
    assert load_json(" null ") is None
    load_json(nested(MAX_JSON_DEPTH))


@given(st.binary(max_size=40) | st.text('{}[]",:019ae.\\u-+ ', max_size=30))
def test_any_text_is_json_or_malformed(data: bytes | str) -> None:
    try:
        value = load_json(data)
    except Malformed:
        return
    json.dumps(value)


def test_canonical_json_sorts_and_writes_as_rfc_8785_does() -> None:
    # RFC 8785 sections 3.2.2 and 3.2.3.
    value = json.loads(
        """{
          "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\"\\/",
          "literals": [null, true, false]
        }"""
    )
    assert (
        canonical_json(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )
    by_utf16 = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    in_order = ["\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical_json(by_utf16))) == in_order


def test_a_lone_surrogate_is_written_as_javascript_does() -> None:
    assert canonical_json({"a": "x\ud800y"}) == b'{"a":"x\\ud800y"}'
    assert canonical_json(["\udfff", "\ud83d\ude00"]) == b'["\\udfff","\\ud83d\\ude00"]'
    # Whatever stands for a surrogate on the way there is nothing the text may contain.
    text = "\ue000d800 \ud800 \\ud800"
    assert canonical_json(text) == '"\ue000d800 \\ud800 \\\\ud800"'.encode()


@pytest.mark.parametrize(
    "value", [2**53, -(2**53), math.nan, math.inf, {"\ud800": 1}, [{"a": {"\udc00": 1}}]]
)
def test_what_canonical_json_cannot_say(value: Any) -> None:
    with pytest.raises(Malformed):
        canonical_json(value)


_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(_JSON)
def test_canonical_json_says_the_same(value: Any) -> None:
    assert load_json(canonical_json(value)) == value
    assert canonical_json(load_json(canonical_json(value))) == canonical_json(value)


# --- instants ---------------------------------------------------------------------------


def test_instants() -> None:
    assert instant(1_767_323_045.678) == "2026-01-02T03:04:05.678Z"
    assert instant(0) == "1970-01-01T00:00:00.000Z"
    assert parse_instant("2026-01-02T03:04:05.678Z") == 1_767_323_045.678


@pytest.mark.parametrize(
    "text", ["2243-01-02T03:04:05.123Z", "2600-02-28T00:00:00.001Z", "9999-12-31T23:59:59.999Z"]
)
def test_instants_so_far_away_that_a_float_does_not_hold_them(text: str) -> None:
    assert instant(parse_instant(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.678",
        "2026-01-02T03:04:05.678+00:00",
        "2026-01-02 03:04:05.678Z",
        "2026-01-02T03:04:05.678z",
        "2026-01-02T03:04:05.6789Z",
        "2026-01-02T03:04:05.678Z\n",
        " 2026-01-02T03:04:05.678Z",
        "٢٠٢٦-01-02T03:04:05.678Z",
        "2026-13-02T03:04:05.678Z",
        "2026-02-30T03:04:05.678Z",
        "2026-01-02T03:04:60.678Z",
        "2026-01-02T24:00:00.000Z",
        "0000-01-02T03:04:05.678Z",
        "tomorrow",
    ],
)
def test_no_instant(text: str) -> None:
    with pytest.raises(Malformed):
        parse_instant(text)


@given(st.integers(0, 4_000_000_000_000))
def test_instants_round_trip(milliseconds: int) -> None:
    text = instant(milliseconds / 1000)
    assert instant(parse_instant(text)) == text
    assert parse_instant(text) == pytest.approx(milliseconds / 1000, abs=0.0011)
