"""The Authorization header: Node's vectors, one spelling, nothing but a credential or an error."""

from __future__ import annotations

from itertools import permutations
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import MalformedHeader, MissingHeader
from amesh_core.wire.encoding import b64u, unb64_any, unb64u
from amesh_core.wire.header import _USUAL, Credential, parse
from tests.support import vectors

_VECTORS: Final[dict[str, Any]] = vectors.load("header.json")
CASES: Final[list[dict[str, Any]]] = _VECTORS["cases"]
LIMITS: Final[dict[str, int]] = _VECTORS["limits"]

# Node finds the fields anywhere in the line and takes any text between the quotes. Where it
# parses and we refuse (vectors/README.md), and nowhere else:
REFUSED_HERE: Final = {
    "space separated, no commas",
    "semicolons",
    "leading double space",
    "trailing space",
    "trailing key without quotes",
    "leading garbage before fields",
    "realm prefix unquoted",
    "ts with letters",
    "ts negative",
    "ts exponent",
    "ts leading space",
    "ts plus sign",
    "nonce with space",
    "nonce with backslash",
    "equals inside value",
    "comma inside value",
    "key preceded by hyphen",
    "quote inside value",
    "non-ascii key",
}

FIELDS: Final = {
    "v": 'v="1"',
    "id": 'id="Aynb/FUkbKIKoib9zNoTKPEallwRWTH5bAFkN8D7cA+x"',
    "ts": 'ts="1743160800"',
    "nonce": 'nonce="dGVzdG5vbmNlMTIzNDU2Nw"',
    "sig": f'sig="{"A" * 86}"',
}
PLAIN: Final = "AuthMesh " + ",".join(FIELDS.values())
CREDENTIAL: Final = Credential(
    "1",
    unb64_any("Aynb/FUkbKIKoib9zNoTKPEallwRWTH5bAFkN8D7cA+x"),
    "1743160800",
    "dGVzdG5vbmNlMTIzNDU2Nw",
    bytes(64),
)


def with_field(name: str, field: str) -> str:
    return "AuthMesh " + ",".join((FIELDS | {name: field}).values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any]) -> None:
    lines = [] if case["header"] is None else [case["header"]]
    if case["header"] is None:
        with pytest.raises(MissingHeader):
            parse(lines)
    elif case["verdict"] == "rejected" or case["name"] in REFUSED_HERE:
        with pytest.raises(MalformedHeader):
            parse(lines)
    else:
        expected = case["parsed"]
        assert parse(lines) == Credential(
            expected["v"],
            unb64_any(expected["id"]),
            expected["ts"],
            expected["nonce"],
            unb64u(expected["sig"]),
        )


def test_the_deviations_are_cases_that_node_parses() -> None:
    assert {case["name"] for case in CASES if case["verdict"] == "parsed"} > REFUSED_HERE


def test_what_is_written_is_read() -> None:
    assert parse([PLAIN]) == CREDENTIAL
    assert CREDENTIAL.encode() == PLAIN
    assert parse([PLAIN.encode("ascii")]) == CREDENTIAL


@pytest.mark.parametrize("order", list(permutations(FIELDS.values())))
@pytest.mark.parametrize("comma", [",", ", "])
def test_any_order(order: tuple[str, ...], comma: str) -> None:
    assert parse(["AuthMesh " + comma.join(order)]) == CREDENTIAL


@pytest.mark.parametrize("name", ["id", "sig"])
@pytest.mark.parametrize("place", [0, -2, -1])
def test_the_quick_way_and_the_long_way_agree(name: str, place: int) -> None:
    """The space after the comma is what keeps the second from the quick way."""

    def result(header: str) -> Credential | None:
        try:
            return parse([header])
        except MalformedHeader:
            return None

    quoted = FIELDS[name].partition('"')[2][:-1]
    for character in map(chr, range(33, 127)):
        letters = list(quoted)
        letters[place] = character
        quick = with_field(name, f'{name}="{"".join(letters)}"')
        assert result(quick) == result(quick.replace(",", ", ")), quick


@pytest.mark.parametrize("last", "AQgw")
def test_the_quick_way_is_taken(last: str) -> None:
    assert _USUAL.fullmatch(with_field("sig", f'sig="{"z" * 85}{last}"'))


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_there_once(name: str) -> None:
    rest = [field for other, field in FIELDS.items() if other != name]
    for text in (
        ",".join(rest),
        ",".join([*FIELDS.values(), FIELDS[name]]),
        ",".join([FIELDS[name], *FIELDS.values()]),
        ",".join([*rest, *rest[:1]]),  # five fields, one of them twice
    ):
        with pytest.raises(MalformedHeader):
            parse(["AuthMesh " + text])


@pytest.mark.parametrize("name", FIELDS)
def test_lengths(name: str) -> None:
    limit = LIMITS[name]
    longest = {"ts": "1" * limit, "id": "A" * (limit - 4) + "AA=="}.get(name, "A" * limit)
    parse([with_field(name, f'{name}="{longest}"')])
    # Of base64, one character more is no number of bytes: two are.
    for value in ("", "1" * (limit + 1), "A" * (limit + 2)):
        with pytest.raises(MalformedHeader):
            parse([with_field(name, f'{name}="{value}"')])


def test_the_longest_header_there_can_be_is_within_the_limit() -> None:
    longest = [f'{name}="{"1" * LIMITS[name]}"' for name in FIELDS]
    text = "AuthMesh " + ", ".join(longest)
    parse([text])
    assert len(text) <= LIMITS["header"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AuthMesh",
        PLAIN + ",",
        PLAIN + ", ",
        PLAIN + " ",
        PLAIN + "\n",
        PLAIN + "\r\n",
        " " + PLAIN,
        PLAIN.replace(",", " ,"),
        PLAIN.replace(",", ",  "),
        PLAIN.replace(",", ",\t"),
        PLAIN.replace(",", ",,"),
        PLAIN.replace("AuthMesh ", "AuthMesh  "),
        PLAIN.replace("AuthMesh ", "AuthMesh\t"),
        PLAIN.replace("AuthMesh ", "AuthMesh ,"),
        PLAIN.replace("AuthMesh", "authmesh"),
        PLAIN.replace("AuthMesh", "Basic"),
        PLAIN.replace("ts=", "TS="),
        PLAIN.replace('"', "'"),
        PLAIN.replace("=", " = "),
        with_field("ts", 'ts="١٧٤٣١٦٠٨٠٠"'),
        with_field("ts", 'ts="1743160800.0"'),
        with_field("ts", 'ts="17431608_00"'),
        with_field("nonce", 'nonce="abc+"'),
        with_field("nonce", 'nonce="abc="'),
        with_field("nonce", 'nonce="abc\n"'),
        with_field("nonce", 'nonce="äöü"'),
        with_field("v", 'v="1 "'),
        with_field("v", 'v="é"'),
    ],
    ids=repr,
)
def test_malformed(text: str) -> None:
    with pytest.raises(MalformedHeader):
        parse([text])


@pytest.mark.parametrize(
    "sig",
    [
        "A" * 85 + "B",  # spare bits set: another text for the same 64 bytes
        "A" * 85,  # no number of bytes
        "A" * 86 + "==",
        "A" * 85 + "+",
        "A" * 85 + "é",
        "A" * 85 + "\n",
    ],
    ids=repr,
)
def test_a_signature_has_one_spelling(sig: str) -> None:
    with pytest.raises(MalformedHeader):
        parse([with_field("sig", f'sig="{sig}"')])


def test_a_signature_of_another_length_is_a_matter_of_verification() -> None:
    for length in (1, 63, 65, 192):
        credential = parse([with_field("sig", f'sig="{b64u(bytes(length))}"')])
        assert len(credential.signature) == length


@pytest.mark.parametrize(
    "id_", ["A", "A" * 41, "AB==", "AAA==", "AA=", "A=AA", "AAAA==", "é", "A\n"]
)
def test_an_id_is_base64(id_: str) -> None:
    with pytest.raises(MalformedHeader):
        parse([with_field("id", f'id="{id_}"')])


def test_an_id_in_either_alphabet_is_the_same_key() -> None:
    standard, url = FIELDS["id"], FIELDS["id"].replace("/", "_").replace("+", "-")
    assert standard != url
    assert parse([with_field("id", url)]) == parse([with_field("id", standard)])


def test_more_than_one_line() -> None:
    with pytest.raises(MalformedHeader):
        parse([PLAIN, PLAIN])
    with pytest.raises(MalformedHeader):
        parse([PLAIN, "Bearer abc"])


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_input_is_a_credential_or_malformed(line: bytes | str) -> None:
    with pytest.raises(MalformedHeader):
        parse([line])


_LINES: Final = st.lists(
    st.sampled_from([*FIELDS.values(), ",", ", ", " ", '"', "AuthMesh ", "x", "é", "\n"]),
    max_size=14,
).map("".join)


@given(_LINES)
def test_any_arrangement_of_the_parts(text: str) -> None:
    try:
        credential = parse(["AuthMesh " + text])
    except MalformedHeader:
        return
    assert credential == CREDENTIAL
    assert sorted(text.replace(", ", ",").split(",")) == sorted(FIELDS.values())


@given(
    st.binary(min_size=1, max_size=94),
    st.integers(0, 10**16 - 1).map(str),
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.binary(min_size=1, max_size=192),
)
def test_round_trip(public_key: bytes, timestamp: str, nonce: str, signature: bytes) -> None:
    credential = Credential("1", public_key, timestamp, nonce, signature)
    assert parse([credential.encode()]) == credential
