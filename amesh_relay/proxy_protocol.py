"""The PROXY protocol, versions 1 and 2: a proxy says first for whom it speaks.

Pure. haproxy.org's proxy-protocol.txt is the specification; only the source address matters here.
A header is read to its last byte and no further, as what follows may be TLS:

    while missing(header):
        header += so many bytes, or fewer
    client(header)
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from amesh_core.errors import Malformed
from amesh_relay.addresses import Address

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # of version 2, section 2.2
_HEADER_BYTES: Final = 16
_WORD: Final = b"PROXY "  # of version 1, section 2.1
_MIN_LINE_BYTES: Final = 15  # PROXY UNKNOWN, CRLF included
_MAX_LINE_BYTES: Final = 107
# Two addresses take at most 216 bytes; extensions (TLVs) may follow, and some proxies send them.
_MAX_BODY_BYTES: Final = 2048
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_BYTES: Final = {0x1: 4, 0x2: 16}  # family, the upper half of a byte -> IPv4, IPv6


def missing(header: bytes) -> int:
    """How many bytes more certainly belong to a header that begins so; 0 when it is whole.

    Raises:
        Malformed: it does not begin as either version does, or is too long.
    """
    if header.startswith(_WORD[: len(header)]):
        return _missing_of_line(header)
    if not header.startswith(_SIGNATURE[: len(header)]):
        raise Malformed("no PROXY protocol")
    if len(header) < _HEADER_BYTES:
        return _HEADER_BYTES - len(header)
    body_bytes = int.from_bytes(header[14:_HEADER_BYTES], "big")
    if body_bytes > _MAX_BODY_BYTES:
        raise Malformed("a PROXY header that is too long")
    return _HEADER_BYTES + body_bytes - len(header)


def client(header: bytes) -> Address | None:
    """For whom the connection is; None when the proxy speaks for itself or does not know.

    Raises:
        Malformed: a whole header that says neither.
    """
    if header.startswith(_WORD):
        return _of_line(header)
    command, family = header[12], header[13] >> 4
    if command not in (_LOCAL, _PROXY):
        raise Malformed("a PROXY header of another version")
    wanted = _ADDRESS_BYTES.get(family)
    if command == _LOCAL or wanted is None:
        return None
    if len(header) < _HEADER_BYTES + 2 * wanted + 4:  # two addresses and two ports
        raise Malformed("a PROXY header without its addresses")
    source = header[_HEADER_BYTES : _HEADER_BYTES + wanted]
    return IPv4Address(source) if wanted == 4 else IPv6Address(source)


def _missing_of_line(line: bytes) -> int:
    if line.endswith(b"\r\n"):
        return 0
    if len(line) < _MIN_LINE_BYTES - 1:
        return _MIN_LINE_BYTES - len(line)
    if len(line) >= _MAX_LINE_BYTES:
        raise Malformed("a PROXY line without end")
    return 1 if line.endswith(b"\r") or len(line) == _MAX_LINE_BYTES - 1 else 2


def _of_line(line: bytes) -> Address | None:
    match line.decode("ascii", "replace").removesuffix("\r\n").split(" "):
        case ["PROXY", "UNKNOWN", *_]:
            return None
        case ["PROXY", "TCP4" | "TCP6" as family, source, _, _, _]:
            try:
                address = ip_address(source)
            except ValueError:
                raise Malformed("a PROXY line without an address") from None
            if (address.version == 6) is not (family == "TCP6"):
                raise Malformed("a PROXY line with an address of another family")
            return address
        case _:
            raise Malformed("a PROXY line of another form")
