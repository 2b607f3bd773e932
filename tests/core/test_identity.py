"""Ids and names: what a device is called, and what a name must not be able to hide."""

from __future__ import annotations

import sys
import unicodedata
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.identity import MAX_NAME_CODE_POINTS, Role, check_name, device_id

# Default_Ignorable_Code_Point, from Unicode's DerivedCoreProperties.txt.
DEFAULT_IGNORABLE: Final = [
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
]
# Quotation_Mark, from Unicode's PropList.txt.
QUOTATION_MARKS: Final = [
    (0x22, 0x22),
    (0x27, 0x27),
    (0xAB, 0xAB),
    (0xBB, 0xBB),
    (0x2018, 0x201F),
    (0x2039, 0x203A),
    (0x2E42, 0x2E42),
    (0x300C, 0x300F),
    (0x301D, 0x301F),
    (0xFE41, 0xFE44),
    (0xFF02, 0xFF02),
    (0xFF07, 0xFF07),
    (0xFF62, 0xFF63),
]


def is_good(name: str) -> bool:
    try:
        return check_name(name) == name
    except Malformed:
        return False


def test_an_id_is_the_beginning_of_the_keys_hash() -> None:
    # SHA-256 of 33 zero bytes, by sha256sum: 7f9c9e31ac8256ca2f258583df262dbc7d6f68f2...
    assert device_id(bytes(33)) == "am_f5yeMayCVsovJYWD"


def test_roles() -> None:
    assert [str(role) for role in Role] == ["controller", "target"]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "prod-api",
        "prod api 2",
        "Bücherei",
        "研究室のラップトップ",
        "мой ноутбук",
        "🚀",
        "a.b@c:d/e",
        "x" * 64,
    ],
)
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * (MAX_NAME_CODE_POINTS + 1),
        " a",
        "a ",
        "a  b",
        " ",
        "a\nb",
        "a\tb",
        "a\x1b[31mb",
        "a\x7fb",
        "a\u0085b",
        "a\u00a0b",  # no-break space
        "a\u3000b",
        "a\u2028b",
        "a\u202eb",  # right-to-left override
        "a\u200bb",
        "a\u200db",
        "a\ufeffb",
        "a\ufe0fb",
        "a\u3164b",
        "a\ud800b",
        "a\ue000b",
        "a\uffffb",
        'a"b',
        "a'b",
        "a`b",
        "a\u00b4b",
        "a\u201db",
        "e\u0301",  # not NFC
        "\u212b",
    ],
    ids=ascii,
)
def test_bad_names(name: str) -> None:
    with pytest.raises(Malformed) as refusal:
        check_name(name)
    # It goes to a terminal or a log, so it does not repeat what may hold an escape.
    assert str(refusal.value).isascii()
    assert str(refusal.value).isprintable()


def test_no_code_point_that_prints_as_nothing_or_as_space() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character)[0] in "CZ" and character != " ":
            assert not is_good(f"a{character}b"), hex(code)


@pytest.mark.parametrize(("first", "last"), DEFAULT_IGNORABLE + QUOTATION_MARKS)
def test_no_ignorable_and_no_quotation_mark(first: int, last: int) -> None:
    for code in range(first, last + 1):
        assert not is_good(f"a{chr(code)}b"), hex(code)


@given(st.text(max_size=70))
def test_any_text_is_a_good_name_or_malformed(name: str) -> None:
    if is_good(name):
        assert 1 <= len(name) <= 64
        assert unicodedata.normalize("NFC", name) == name
        assert " ".join(name.split()) == name
