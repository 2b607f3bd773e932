"""The request target: which ones are admitted, and their one spelling; docs/protocol.md section 3.

A signature must not be good for a path that the router behind us never saw. Node's side
runs a target through a WHATWG URL parser, which rewrites some; so a target that it would
rewrite is refused, and on every other ours is the same text, byte for byte. The query is
what two HTTP libraries spell differently, so it alone is parsed, sorted and written anew.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from amesh_core.errors import MalformedRequest

# WHATWG URL section 4.4. Possessive, so that a refusal costs no more than a match.
_ADMITTED: Final = re.compile(
    rb"""
    (?!//)                                 # "//host/..." would name another authority
    (?: /
        (?! (?: \. | %2[eE] ){1,2} (?: [/?] | \Z ) )    # a dot segment, plain or encoded
        [!$%&'()*+,\-.0-9:;=@A-Z\[\]_a-z|~]*+           # a browser sends no other as it is
    )++
    (?: \? [!-"$-~]*+ )?+                  # anything printable but "#": it is rewritten below
    """,
    re.VERBOSE,
)

# What the serialiser writes for each byte of UTF-8 (WHATWG URL section 5.2).
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*-._"
_WRITTEN: Final = tuple(
    chr(byte) if byte in _PLAIN else "+" if byte == 0x20 else f"%{byte:02X}" for byte in range(256)
)
# A query in which there is nothing to rewrite, which is most of them: only the order is left.
# Within this alphabet, names sort alike as they stand and as UTF-16.
_ALREADY_WRITTEN: Final = re.compile(
    r"[A-Za-z0-9*\-._]++=[A-Za-z0-9*\-._]*+(?:&[A-Za-z0-9*\-._]++=[A-Za-z0-9*\-._]*+)*+"
)


def canonical_target(raw: bytes) -> str:
    """The text that a signature covers, of the target as it travels in the request line.

    Raises:
        MalformedRequest: as `check`.
    """
    return canonical(check(raw))


def check(raw: bytes) -> str:
    """Return the target as text if a browser would have sent it as it is.

    Admitted is an absolute path, `/...`, with a query or without. Refused is what a WHATWG
    parser would rewrite or read otherwise: `//host/...`, absolute form, `*`, dot segments
    (plain or encoded), and in the path a backslash or any character it would encode; a
    fragment, a space, a control character or a non-ASCII byte anywhere.

    Raises:
        MalformedRequest: the target is refused; the message does not repeat it.
    """
    if not _ADMITTED.fullmatch(raw):
        raise MalformedRequest(
            "the request target is not one a browser would send as it is: a path has no dot "
            "segments, and what is not plain in it is percent-encoded, such as ^ as %5E"
        )
    return raw.decode("ascii")


def canonical(target: str) -> str:
    """The path as it is, and the query in the one spelling that is signed.

    The query is parsed as application/x-www-form-urlencoded, its pairs sorted by name, stable,
    and serialised (WHATWG URL sections 5.1, 5.2 and 6.2). Known aliases, pinned by tests:
    `?a` and `?a=`, `?` and none, `??a` and `?a`, bytes that are not UTF-8 and U+FFFD.
    """
    path, _, query = target.partition("?")
    if not query:
        return path
    if _ALREADY_WRITTEN.fullmatch(query):
        if "&" not in query:
            return target
        pieces = query.split("&")
        pieces.sort(key=_name)
        return f"{path}?{'&'.join(pieces)}"
    # URLSearchParams drops one leading "?": a second one on the wire.
    pairs = [_pair(piece) for piece in query.removeprefix("?").split("&") if piece]
    # In UTF-16 code-unit order a character beyond U+FFFF comes before U+E000.
    pairs.sort(key=lambda pair: pair[0].encode("utf-16-be"))
    query = "&".join([f"{_write(name)}={_write(value)}" for name, value in pairs])
    return f"{path}?{query}" if query else path


def _name(piece: str) -> str:
    return piece.partition("=")[0]


def _pair(piece: str) -> tuple[str, str]:
    name, _, value = piece.replace("+", " ").partition("=")
    return _read(name), _read(value)


def _read(text: str) -> str:
    # Python, like WHATWG, keeps a "%" that no two hex digits follow, and puts one U+FFFD
    # for each maximal part of a broken UTF-8 sequence.
    return unquote_to_bytes(text).decode("utf-8", "replace")


def _write(text: str) -> str:
    return "".join([_WRITTEN[byte] for byte in text.encode()])
