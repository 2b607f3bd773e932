"""Device to device: the messages of the older pairing, version 1 (docs/protocol.md section 5.8).

    Key      b64(33 bytes)                  an ephemeral key, in clear
    Box      b64(nonce12 || ciphertext)     Claim {"publicKey","friendlyName","timestamp","selfSig"}
    Verdict  sas_confirmed, sas_rejected    in clear, and so worth nothing against the relay
    Newer    any first message of version 2

Form only, as in `pairing`. Node reads more spellings of base64 than this does; it writes one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from amesh_core.errors import Malformed
from amesh_core.wire import pairing as v2
from amesh_core.wire.encoding import b64, load_json, parse_instant, unb64

NONCE_BYTES: Final = 12  # RFC 8439 section 2.8
_TAG_BYTES: Final = 16
_CONFIRMED: Final = "sas_confirmed"
_REJECTED: Final = "sas_rejected"


@dataclass(frozen=True, slots=True)
class Key:
    """One side's ephemeral key, 33 bytes, a compressed point in form."""

    ephemeral: bytes


@dataclass(frozen=True, slots=True)
class Box:
    """An encrypted Claim. Neither its direction nor the ceremony is bound to it."""

    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target made of the digits, as anybody on the way could say it."""

    matched: bool


@dataclass(frozen=True, slots=True)
class Newer:
    """A message of pairing version 2."""


Frame = Key | Box | Verdict | Newer


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the other side says it is; the signature still has to be checked."""

    public_key: bytes
    friendly_name: str
    timestamp: str
    signature: bytes


def encode(frame: Key | Box | Verdict) -> str:
    """The payload that carries `frame`."""
    match frame:
        case Key(ephemeral):
            return b64(ephemeral)
        case Box(nonce, sealed):
            return b64(nonce + sealed)
        case Verdict(matched):
            return _CONFIRMED if matched else _REJECTED


def decode(payload: str) -> Frame:
    """Read one payload.

    Raises:
        Malformed: any other form, or base64 that is not canonical.
    """
    if payload in (_CONFIRMED, _REJECTED):
        return Verdict(payload == _CONFIRMED)
    data = unb64(payload)
    if len(data) == v2.POINT_BYTES and data[0] in (2, 3):
        return Key(data)
    if _is_newer(payload):
        return Newer()
    if len(data) < NONCE_BYTES + _TAG_BYTES:
        raise Malformed("not a message of pairing version 1")
    return Box(data[:NONCE_BYTES], data[NONCE_BYTES:])


def encode_claim(claim: Claim) -> bytes:
    """The JSON that goes into a box."""
    return json.dumps(
        {
            "publicKey": b64(claim.public_key),
            "friendlyName": claim.friendly_name,
            "timestamp": claim.timestamp,
            "selfSig": b64(claim.signature),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode("utf-8")


def decode_claim(plaintext: bytes) -> Claim:
    """Read what was in a box.

    The signature is over key, name and time without anything between them. With a key and a
    time of one length each, no letter can move from one to the other.

    Raises:
        Malformed: a key more or less or twice, a value of another type, length or form.
    """
    match load_json(plaintext):
        case {
            "publicKey": str(public_key),
            "friendlyName": str(friendly_name),
            "timestamp": str(timestamp),
            "selfSig": str(signature),
            **rest,
        } if not rest:
            parse_instant(timestamp)  # its form; its freshness is not judged, as in Node
            return Claim(
                unb64(public_key, length=v2.POINT_BYTES),
                friendly_name,
                timestamp,
                unb64(signature, length=v2.SIGNATURE_BYTES),
            )
        case _:
            raise Malformed("not an identity of pairing version 1")


def _is_newer(payload: str) -> bool:
    # A box is random bytes: that they spell such a JSON object will not happen.
    try:
        v2.decode(payload)
    except Malformed:
        return False
    return True
