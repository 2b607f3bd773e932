"""The form of a bootstrap token: vectors, and a code for everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amesh_core.errors import BadToken, Malformed
from amesh_core.wire import token
from amesh_core.wire.encoding import b64u, unb64u
from amesh_core.wire.token import TokenCode
from tests.support import vectors

CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for case in vectors.load("bootstrap.json")["cases"]
}
GOOD: str = CASES["hand-made"]["token"].removeprefix(token.OLD_PREFIX)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")


OUTCOMES = {"ok", *TokenCode}


def part(value: object) -> str:
    return b64u(json.dumps(value).encode())


def with_payload(payload: bytes) -> str:
    return f"{HEADER}.{b64u(payload)}.{SIGNATURE}"


def with_claims(**changes: object) -> str:
    """The good token with other claims; None takes one out."""
    claims = json.loads(unb64u(PAYLOAD)) | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    return f"{HEADER}.{part(kept)}.{SIGNATURE}"


def outcome(text: str) -> str:
    """ "ok" or a code; any other exception ends the test."""
    try:
        token.parse(text)
    except BadToken as error:
        return error.token_code
    return "ok"


def code_of(text: str) -> str:
    with pytest.raises(BadToken) as caught:
        token.parse(text)
    return caught.value.token_code


def test_the_bytes_that_node_signs_are_ours() -> None:
    parsed = token.parse(CASES["hand-made"]["token"])
    assert token.encode_unsigned(parsed.claims) == parsed.signing_input
    assert token.encode(parsed.signing_input, parsed.signature) == parsed.compact == GOOD
    assert parsed.claims.name == "prod-server"
    assert parsed.claims.relay == "ws://localhost:3001/ws"
    assert parsed.claims.expires_at - parsed.claims.issued_at == 3600


@pytest.mark.parametrize(
    "text", [GOOD, f"amesh-bt-v1.{GOOD}", f" \n\t{GOOD}\r\n", f"  amesh-bt-v1.{GOOD}\n"]
)
def test_white_space_and_the_older_prefix_are_dropped(text: str) -> None:
    assert token.parse(text).compact == GOOD
    assert token.parse(text).claims == token.parse(GOOD).claims


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "amesh-bt-v1.",
        f"amesh-bt-v1.amesh-bt-v1.{GOOD}",
        f"amesh-bt-v1. {GOOD}",
        f"AMESH_BOOTSTRAP_TOKEN={GOOD}",
        f"{HEADER}.{PAYLOAD}",
        f"{GOOD}.",
        f"{HEADER}=.{PAYLOAD}.{SIGNATURE}",
        f"{HEADER}.{PAYLOAD}!.{SIGNATURE}",
        with_payload(b"{"),
        with_payload(b"[1] [2]"),
        with_payload(b'{"a":1,"a":1}'),
        with_payload(b"[" * 2000),
        with_payload(b"\xff"),
        "\ud800.\ud800.\ud800",
        "é.é.é",
        f"{HEADER}.{PAYLOAD}.{'A' * 4096}",
    ],
)
def test_what_is_no_token(text: str) -> None:
    assert code_of(text) == TokenCode.FORMAT


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"typ": "JWT", "ver": "2", "alg": "none"}, TokenCode.TYPE),
        ([], TokenCode.TYPE),
        (None, TokenCode.TYPE),
        ({"typ": "amesh-bootstrap", "ver": "2", "alg": "none"}, TokenCode.VERSION),
        ({"typ": "amesh-bootstrap", "ver": 1, "alg": "ES256"}, TokenCode.VERSION),
        ({"typ": "amesh-bootstrap", "ver": "1", "alg": "none"}, TokenCode.ALGORITHM),
        ({"typ": "amesh-bootstrap", "ver": "1", "alg": "HS256"}, TokenCode.ALGORITHM),
        ({"typ": "amesh-bootstrap", "ver": "1"}, TokenCode.ALGORITHM),
    ],
)
def test_a_header_of_another_kind(header: object, code: TokenCode) -> None:
    assert code_of(f"{part(header)}.{PAYLOAD}.{SIGNATURE}") == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"scope": "peer:remove", "single_use": False, "iss": 1}, TokenCode.SCOPE),
        ({"scope": None}, TokenCode.SCOPE),
        ({"single_use": False, "iss": 1}, TokenCode.SINGLE_USE),
        ({"single_use": 1}, TokenCode.SINGLE_USE),
        ({"single_use": None}, TokenCode.SINGLE_USE),
        *[({name: None}, TokenCode.CLAIMS) for name in json.loads(unb64u(PAYLOAD))][:7],
        ({"iss": 1}, TokenCode.CLAIMS),
        ({"pub": "AAAA"}, TokenCode.CLAIMS),
        ({"iat": True}, TokenCode.CLAIMS),
        ({"iat": 1743160800.0}, TokenCode.CLAIMS),
        ({"iat": "1743160800"}, TokenCode.CLAIMS),
        ({"exp": 1e300}, TokenCode.CLAIMS),
        ({"jti": "bt_0123456789ABCDEF0123456789abcdef"}, TokenCode.CLAIMS),
        ({"jti": "bt_0123456789abcdef0123456789abcdef\n"}, TokenCode.CLAIMS),
        ({"jti": "bt_"}, TokenCode.CLAIMS),
        ({"name": ["prod"]}, TokenCode.CLAIMS),
        ({"relay": "http://localhost/ws"}, TokenCode.CLAIMS),
        ({"relay": "ws://"}, TokenCode.CLAIMS),
        ({"iat": 10**400}, TokenCode.CLAIMS),
        ({"exp": 2**53}, TokenCode.CLAIMS),
        ({"exp": -(10**400)}, TokenCode.CLAIMS),
        ({"iat": -(2**53)}, TokenCode.CLAIMS),
        ({"relay": "ws://user:secret@host/ws"}, TokenCode.CLAIMS),
        ({"relay": "ws://host\\@other/ws"}, TokenCode.CLAIMS),
        ({"relay": "ws://host\\.other/ws"}, TokenCode.CLAIMS),
        ({"relay": "ws://host%2eother/ws"}, TokenCode.CLAIMS),
        ({"relay": "ws://host/ws\x1b[2J"}, TokenCode.CLAIMS),
    ],
)
def test_claims_that_are_not_as_they_must_be(changes: dict[str, object], code: TokenCode) -> None:
    assert code_of(with_claims(**changes)) == code


def test_a_claim_nobody_knows_is_no_harm() -> None:
    assert token.parse(with_claims(x={"y": 1})).claims == token.parse(GOOD).claims


def test_a_signature_that_is_no_base64_does_not_verify() -> None:
    assert code_of(f"{HEADER}.{PAYLOAD}.*") == TokenCode.SIGNATURE


@given(st.text())
@example(f"{HEADER}.{part(None)}.{SIGNATURE}")
def test_any_text_is_a_token_or_has_a_code(text: str) -> None:
    assert outcome(text) in OUTCOMES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "pub", "iat", "exp", "jti", "name", "relay", "scope", "x"]), JSON
    )
)
def test_any_claims_are_a_token_or_have_a_code(changes: dict[str, object]) -> None:
    assert outcome(with_claims(**changes)) in OUTCOMES


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_any_changed_character_is_a_token_or_has_a_code(at: int, character: str) -> None:
    assert outcome(GOOD[:at] + character + GOOD[at + 1 :]) in OUTCOMES


def test_neither_a_token_nor_its_error_repeats_it() -> None:
    shown = repr(token.parse(GOOD))
    for secret in (GOOD, PAYLOAD, SIGNATURE, "bt_0123456789abcdef0123456789abcdef"):
        assert secret not in shown
    with pytest.raises(BadToken) as caught:
        token.parse(with_claims(relay="ws://user:secret@host/ws"))
    assert "secret" not in str(caught.value)


def test_an_id_of_a_token() -> None:
    assert token.check_jti("bt_" + "0a" * 16) == "bt_" + "0a" * 16
    with pytest.raises(Malformed):
        token.check_jti("bt_" + "0A" * 16)
