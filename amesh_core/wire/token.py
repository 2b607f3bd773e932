"""A bootstrap token: a compact JWS that carries its controller's key (docs/protocol.md section 6).

    compact = b64u(header) "." b64u(payload) "." b64u(signature)
    header  = {"typ":"amesh-bootstrap","ver":"1","alg":"ES256"}
    payload = {"iss","pub","iat","exp","jti","name","relay","scope":"peer:add","single_use":true}

Form only. What needs the time, the curve or the rules for names is checked in
`amesh_core.provisioning`. A token is a secret: it never shows in a repr or a message.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from amesh_core.errors import BadToken as BadToken
from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, b64u, load_json, unb64, unb64_any, unb64u
from amesh_core.wire.relay_url import check_relay_url

OLD_PREFIX: Final = "amesh-bt-v1."  # the Node tools print it in front
# What fits into one field of a frame to a relay; the form for Node targets sends it whole.
MAX_TOKEN_CHARACTERS: Final = 4096

TYPE: Final = "amesh-bootstrap"
VERSION: Final = "1"
ALGORITHM: Final = "ES256"
SCOPE: Final = "peer:add"

_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point
_END_OF_TIME: Final = 2**53  # what every JSON parser reads exactly, and a float holds
_JTI: Final = re.compile(r"bt_[0-9a-f]{32}")


class TokenCode(StrEnum):
    """Why a token is refused; the table of docs/protocol.md section 6, in the order of checks."""

    FORMAT = "invalid_token_format"
    TYPE = "invalid_token_type"
    VERSION = "unsupported_token_version"
    ALGORITHM = "unsupported_token_alg"
    SCOPE = "unsupported_token_scope"
    SINGLE_USE = "token_must_be_single_use"
    CLAIMS = "invalid_token_claims"
    NOT_YET_VALID = "token_not_yet_valid"
    EXPIRED = "token_expired"
    SIGNATURE = "invalid_signature"
    ISSUER = "issuer_mismatch"
    LIFETIME = "token_lifetime_too_long"


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says; times are Unix seconds, `name` is what its minter calls the target."""

    issuer: str
    public_key: bytes
    issued_at: int
    expires_at: int
    jti: str = field(repr=False)
    name: str
    relay: str


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """A token in due form that nobody has checked yet.

    `compact` is the text without white space and prefix, `signature` what is to verify over
    `signing_input` with the key that the claims name.
    """

    claims: TokenClaims
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    compact: str = field(repr=False)


def encode_unsigned(claims: TokenClaims) -> bytes:
    """The bytes that a signature covers: ASCII of b64u(header).b64u(payload)."""
    header = {"typ": TYPE, "ver": VERSION, "alg": ALGORITHM}
    payload = {
        "iss": claims.issuer,
        "pub": b64(claims.public_key),
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "jti": claims.jti,
        "name": claims.name,
        "relay": claims.relay,
        "scope": SCOPE,
        "single_use": True,
    }
    return f"{_part(header)}.{_part(payload)}".encode("ascii")


def encode(signing_input: bytes, signature: bytes) -> str:
    """The token: what was signed, and its signature."""
    return f"{signing_input.decode('ascii')}.{b64u(signature)}"


def compact(text: str) -> str:
    """The token itself, without white space around it and without the older prefix."""
    return text.strip().removeprefix(OLD_PREFIX)


def parse(text: str) -> ParsedToken:
    """Read a token; white space around it and the older prefix are dropped.

    Raises:
        BadToken: its form is wrong, or what it is for; `token_code` says which rule it breaks.
    """
    text = compact(text)
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise BadToken(TokenCode.FORMAT, f"a token has at most {MAX_TOKEN_CHARACTERS} characters")
    match text.split("."):
        case [header_part, payload_part, signature_part]:
            header, payload = _json(header_part), _json(payload_part)
        case _:
            raise BadToken(TokenCode.FORMAT, "a token has three parts with dots between them")
    if header.get("typ") != TYPE:
        raise BadToken(TokenCode.TYPE, "this is a token for something else")
    if header.get("ver") != VERSION:
        raise BadToken(TokenCode.VERSION, "this version of amesh knows tokens of version 1 only")
    if header.get("alg") != ALGORITHM:
        raise BadToken(TokenCode.ALGORITHM, "a token is signed with ES256 and nothing else")
    if payload.get("scope") != SCOPE:
        raise BadToken(TokenCode.SCOPE, "the token does not allow what it is used for")
    if payload.get("single_use") is not True:
        raise BadToken(TokenCode.SINGLE_USE, "the token does not say that it is for one use")
    claims = _claims(payload)
    try:
        # In either alphabet, as Node reads it. The proof of a token is over its text, so a
        # respelled one is to its controller a token that it never minted.
        signature = unb64_any(signature_part)
    except Malformed:
        raise BadToken(TokenCode.SIGNATURE, "the signature does not verify") from None
    return ParsedToken(claims, f"{header_part}.{payload_part}".encode("ascii"), signature, text)


def check_jti(jti: str) -> str:
    """Return `jti` if it can be a token's: `bt_` and 32 lower-case hexadecimal digits.

    Raises:
        Malformed: it cannot.
    """
    if not _JTI.fullmatch(jti):
        raise Malformed("a token's id is bt_ and 32 lower-case hexadecimal digits")
    return jti


def _claims(payload: dict[str, Any]) -> TokenClaims:
    match payload:
        case {
            "iss": str(issuer),
            "pub": str(public_key),
            "iat": issued_at,
            "exp": expires_at,
            "jti": str(jti),
            "name": str(name),
            "relay": str(relay),
        } if type(issued_at) is int and type(expires_at) is int:  # True is an int as well
            pass
        case _:
            raise BadToken(TokenCode.CLAIMS, "a claim is missing, or of another type")
    if max(abs(issued_at), abs(expires_at)) >= _END_OF_TIME:
        raise BadToken(TokenCode.CLAIMS, "a time is beyond all times")
    try:
        return TokenClaims(
            issuer=issuer,
            public_key=unb64(public_key, length=_PUBLIC_KEY_BYTES),
            issued_at=issued_at,
            expires_at=expires_at,
            jti=check_jti(jti),
            name=name,
            relay=check_relay_url(relay),
        )
    except Malformed as error:
        raise BadToken(TokenCode.CLAIMS, str(error)) from None


def _part(value: dict[str, Any]) -> str:
    return b64u(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def _json(part: str) -> dict[str, Any]:
    try:
        value = load_json(unb64u(part))
    except Malformed:
        raise BadToken(TokenCode.FORMAT, "a part of the token is not base64url of JSON") from None
    # Another value than an object has none of the keys asked for, which is what is said of it.
    return value if isinstance(value, dict) else {}
