"""`Authorization: AuthMesh ...`; docs/protocol.md section 3.

There is one spelling but for the order of the fields and a space after each comma. Node's
parser finds the fields anywhere in the line; what surrounds them there is refused here.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Final, NamedTuple

from amesh_core.errors import Malformed, MalformedHeader, MissingHeader
from amesh_core.wire.encoding import b64, b64u, unb64_any, unb64u

# Of `id` and `sig`, decoding checks the alphabet.
_FIELDS: Final = (
    r'v="([!#-~]{1,8})"',
    r'id="([^"]{1,128})"',
    r'ts="([0-9]{1,16})"',
    r'nonce="([A-Za-z0-9_-]{1,64})"',
    r'sig="([^"]{1,256})"',
)
# The scheme is case-sensitive, as it is on Node's side. The longest match has 517 characters,
# so that the limit of 1 024 holds by itself.
_IN_ORDER: Final = re.compile(f"AuthMesh {', ?'.join(_FIELDS)}")
# Five times one of the five: each group then holds a value only if each field was there, and
# so only if each was there once.
_ANY_ORDER: Final = re.compile(rf"AuthMesh (?:(?:{'|'.join(_FIELDS)})(?:, ?(?!\Z)|\Z)){{5}}")
# What every signer of ours writes, read in a third of the time: 44 characters of base64 have no
# bits to spare, and 86 of base64url none after one of these four, so nothing is left to test.
_USUAL: Final = re.compile(
    r'AuthMesh v="(1)",id="([A-Za-z0-9+/]{44})",ts="([0-9]{1,16})",'
    r'nonce="([A-Za-z0-9_-]{22})",sig="([A-Za-z0-9_-]{85}[AQgw])"'
)


class Credential(NamedTuple):
    """What a request says of its sender; nothing in it is believed yet.

    `timestamp` (Unix seconds) and `nonce` stay the texts that were sent: they are signed as
    such. `public_key` and `signature` may have any length here.
    """

    version: str
    public_key: bytes
    timestamp: str
    nonce: str
    signature: bytes

    def encode(self) -> str:
        """The header value, its fields in the order of the specification."""
        return (
            f'AuthMesh v="{self.version}",id="{b64(self.public_key)}",ts="{self.timestamp}",'
            f'nonce="{self.nonce}",sig="{b64u(self.signature)}"'
        )


def parse(lines: Sequence[bytes | str]) -> Credential:
    """Read the values of all Authorization lines of a request, of which there must be one.

    Raises:
        MissingHeader: there is none.
        MalformedHeader: there are several, or the one is not exactly a credential.
    """
    if not lines:
        raise MissingHeader
    if len(lines) > 1:
        raise MalformedHeader("more than one Authorization header")
    line = lines[0]
    # Latin-1 reads any bytes, and the pattern is ASCII alone.
    text = line if isinstance(line, str) else line.decode("latin-1")
    if usual := _USUAL.fullmatch(text):
        version, public_key, timestamp, nonce, signature = usual.groups()
        standard = signature.replace("-", "+").replace("_", "/") + "=="
        return Credential(version, a2b_base64(public_key), timestamp, nonce, a2b_base64(standard))
    found = _IN_ORDER.fullmatch(text) or _ANY_ORDER.fullmatch(text)
    if found is None:
        raise MalformedHeader("the Authorization header is not an AuthMesh credential")
    version, public_key, timestamp, nonce, signature = found.groups("")
    if not (version and public_key and timestamp and nonce and signature):
        raise MalformedHeader("a field of the Authorization header is missing")
    try:
        return Credential(version, unb64_any(public_key), timestamp, nonce, unb64u(signature))
    except Malformed:
        raise MalformedHeader("a field of the Authorization header is not base64") from None
