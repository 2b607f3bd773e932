"""Who a device is: its id, its name, its key (docs/protocol.md section 1)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from amesh_core import crypto
from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64u

MAX_NAME_CODE_POINTS: Final = 64

# Default_Ignorable_Code_Point (Unicode 16 DerivedCoreProperties) that are not already in
# category C*: they print as nothing, so two different names would look the same.
_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
# Quotation_Mark (Unicode 16 PropList) and the two accents typed in its place: names are
# always shown between quotation marks, so none may seem to end one.
_QUOTES: Final = re.compile(
    "[\"'`\u00b4\u00ab\u00bb\u2018-\u201f\u2039\u203a\u2e42\u300c-\u300f\u301d-\u301f"
    "\ufe41-\ufe44\uff02\uff07\uff62\uff63]"
)


class Role(StrEnum):
    """What a listed device is to this one."""

    CONTROLLER = "controller"  # may call us
    TARGET = "target"  # we may call it


class DeviceKey(Protocol):
    """A private key that can be used but not seen."""

    @property
    def public(self) -> bytes:
        """The 33-byte compressed point."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes r || s, low-S, ECDSA over SHA-256(message)."""

    def mac(self, message: bytes) -> bytes:
        """32 bytes HMAC-SHA256 under the allow list's key; the secret stays in the back end."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device says of itself; the public half of identity.json."""

    device_id: str
    public_key: bytes
    friendly_name: str


@dataclass(frozen=True, slots=True)
class Peer:
    """The device on the other side of a ceremony; `role` is what it becomes to this one."""

    device_id: str
    public_key: bytes
    friendly_name: str
    role: Role


def device_id(public: bytes) -> str:
    """`am_` and 16 characters of b64u(SHA-256(33-byte compressed public key))."""
    return "am_" + b64u(crypto.sha256(public))[:16]


def check_name(name: str) -> str:
    """Return `name` if it is a good name (docs/protocol.md section 5), so it can be shown.

    1 to 64 code points, NFC, nothing invisible, no control characters, no spaces but single
    inner ones, no quotation marks: what a terminal shows is what the name is.

    Raises:
        Malformed: says which rule is broken, without repeating the name.
    """
    if not 1 <= len(name) <= MAX_NAME_CODE_POINTS:
        raise Malformed(f"a name has 1 to {MAX_NAME_CODE_POINTS} characters")
    if name != name.strip(" ") or "  " in name:
        raise Malformed("a name has no leading, trailing or double space")
    for character in name:
        if character != " " and unicodedata.category(character)[0] in "CZ":
            raise Malformed("a name has no control, format or space character but the plain space")
    if _QUOTES.search(name):
        raise Malformed("a name has no quotation mark")
    if _IGNORABLE.search(name):
        raise Malformed("a name has no invisible character")
    if not unicodedata.is_normalized("NFC", name):
        raise Malformed("a name is in Unicode normalisation form C")
    return name
