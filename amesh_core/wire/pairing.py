"""Device to device: the messages of a pairing, version 2 (docs/protocol.md section 5).

    payload = b64(JSON)                     JSON inside a box
    Commit  {"v":2,"commit"}                Claim     {"role","publicKey","friendlyName",
    Hello   {"v":2,"eph","nonce"}                      "issuedAt","sig"}
    Reveal  {"eph","nonce"}                 Rejected  {"rejected":true}
    Box     {"box"}                         Trouble   {"error"}
                                            Done      {"done":true}

Form only. What needs the curve, the other side's role or the rules for names is checked in
`amesh_core.pairing`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, load_json, parse_instant, unb64

VERSION: Final = 2
COMMITMENT_BYTES: Final = 32  # SHA-256
NONCE_BYTES: Final = 32
POINT_BYTES: Final = 33  # SEC 1 compressed
SIGNATURE_BYTES: Final = 64  # r || s


@dataclass(frozen=True, slots=True)
class Commit:
    """The target binds itself to a Reveal before it has seen anything."""

    commitment: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """The controller's ephemeral key (33 bytes) and nonce (32)."""

    ephemeral: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Reveal:
    """The target's ephemeral key and nonce; before they are sent, nobody may know them."""

    ephemeral: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Box:
    """Ciphertext and tag; only the keys of the ceremony open it."""

    sealed: bytes


@dataclass(frozen=True, slots=True)
class Older:
    """The first message of pairing version 1: 33 bytes of a key and nothing else."""


Frame = Commit | Hello | Reveal | Box | Older


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the other side says it is; the signature still has to be checked."""

    role: Literal["controller", "target"]
    public_key: bytes
    friendly_name: str
    issued_at: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A person on the other side said no, or typed other digits."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The other side agreed but could not write its list; `reason` is its own text."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The target has recorded the controller."""


Sealed = Claim | Rejected | Trouble | Done


def encode(frame: Commit | Hello | Reveal | Box) -> str:
    """The payload that carries `frame`."""
    match frame:
        case Commit(commitment):
            return _payload({"v": VERSION, "commit": b64(commitment)})
        case Hello(ephemeral, nonce):
            return _payload({"v": VERSION, "eph": b64(ephemeral), "nonce": b64(nonce)})
        case Reveal(ephemeral, nonce):
            return _payload({"eph": b64(ephemeral), "nonce": b64(nonce)})
        case Box(sealed):
            return _payload({"box": b64(sealed)})


def decode(payload: str) -> Frame:
    """Read one payload.

    Raises:
        Malformed: any other form, a key more or less or twice, base64 that is not canonical,
            another length, an ephemeral key that is not a compressed point in form.
    """
    data = unb64(payload)
    # No JSON text begins with these bytes, so this cannot be a message of version 2.
    if len(data) == POINT_BYTES and data[0] in (2, 3):
        return Older()
    match load_json(data):
        # `type(...) is int` because 2.0 == 2, and a value has one spelling only.
        case {"v": version, "commit": str(commitment), **rest} if _is_ours(version) and not rest:
            return Commit(unb64(commitment, length=COMMITMENT_BYTES))
        case {"v": version, "eph": str(ephemeral), "nonce": str(nonce), **rest} if (
            _is_ours(version) and not rest
        ):
            return Hello(_point(ephemeral), unb64(nonce, length=NONCE_BYTES))
        case {"eph": str(ephemeral), "nonce": str(nonce), **rest} if not rest:
            return Reveal(_point(ephemeral), unb64(nonce, length=NONCE_BYTES))
        case {"box": str(sealed), **rest} if not rest:
            return Box(unb64(sealed))
        case _:
            raise Malformed("not a message of pairing version 2")


def encode_sealed(message: Sealed) -> bytes:
    """The JSON that goes into a box."""
    match message:
        case Claim(role, public_key, friendly_name, issued_at, signature):
            return _json(
                {
                    "role": role,
                    "publicKey": b64(public_key),
                    "friendlyName": friendly_name,
                    "issuedAt": issued_at,
                    "sig": b64(signature),
                }
            )
        case Rejected():
            return _json({"rejected": True})
        case Trouble(reason):
            return _json({"error": reason})
        case Done():
            return _json({"done": True})


def decode_sealed(plaintext: bytes) -> Sealed:
    """Read what was in a box.

    Raises:
        Malformed: as `decode`, or a time of another form.
    """
    match load_json(plaintext):
        case {
            "role": "controller" | "target" as role,
            "publicKey": str(public_key),
            "friendlyName": str(friendly_name),
            "issuedAt": str(issued_at),
            "sig": str(signature),
            **rest,
        } if not rest:
            parse_instant(issued_at)  # its form; its freshness is not judged
            return Claim(
                role,
                _point(public_key),
                friendly_name,
                issued_at,
                unb64(signature, length=SIGNATURE_BYTES),
            )
        case {"rejected": True, **rest} if not rest:
            return Rejected()
        case {"error": str(reason), **rest} if not rest:
            return Trouble(reason)
        case {"done": True, **rest} if not rest:
            return Done()
        case _:
            raise Malformed("not a sealed message of pairing version 2")


def _is_ours(version: object) -> bool:
    return type(version) is int and version == VERSION


def _point(text: str) -> bytes:
    point = unb64(text, length=POINT_BYTES)
    if point[0] not in (2, 3):
        raise Malformed("not a compressed point")
    return point


def _payload(value: dict[str, Any]) -> str:
    return b64(_json(value))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
