"""The PROXY protocol, versions 1 and 2: a proxy says first for whom it speaks.

Pure. haproxy.org's proxy-protocol.txt is the specification; only the source address matters here.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from amesh_core.errors import Malformed
from amesh_relay.addresses import Address

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # of version 2, section 2.2
_HEADER_BYTES: Final = 16
_MAX_LINE_BYTES: Final = 107  # section 2.1: the longest line of version 1, CRLF included
# Addresses take at most 216 bytes; extensions (TLVs) may follow, and some proxies send them.
_MAX_BODY_BYTES: Final = 2048
_LOCAL, _PROXY = 0x20, 0x21
_ADDRESS_BYTES: Final = {0x1: 4, 0x2: 16}  # family, the upper half of a byte -> IPv4, IPv6


@dataclass(frozen=True, slots=True)
class Preamble:
    """For whom the connection is; None when the proxy speaks for itself or does not know.

    `length` is how many bytes it took; what follows is the connection.
    """

    client: Address | None
    length: int


def parse(data: bytes) -> Preamble | None:
    """Read the beginning of a connection; None while there is too little of it.

    Raises:
        Malformed: it does not begin with either version, or not as it must go on.
    """
    if data.startswith(_SIGNATURE[: len(data)]):
        return _version_2(data)
    if data.startswith(b"PROXY "[: len(data)]):
        return _version_1(data)
    raise Malformed("no PROXY protocol")


def _version_1(data: bytes) -> Preamble | None:
    line, end, _ = data[:_MAX_LINE_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= _MAX_LINE_BYTES:
            raise Malformed("a PROXY line without end")
        return None
    length = len(line) + len(end)
    match line.decode("ascii", "replace").split(" "):
        case ["PROXY", "UNKNOWN", *_]:
            return Preamble(None, length)
        case ["PROXY", "TCP4" | "TCP6" as family, source, _, _, _]:
            try:
                address = ip_address(source)
            except ValueError:
                raise Malformed("a PROXY line without an address") from None
            if (address.version == 6) is not (family == "TCP6"):
                raise Malformed("a PROXY line with an address of another family")
            return Preamble(address, length)
        case _:
            raise Malformed("a PROXY line of another form")


def _version_2(data: bytes) -> Preamble | None:
    if len(data) < _HEADER_BYTES:
        return None
    command, family = data[12], data[13] >> 4
    body_bytes = int.from_bytes(data[14:_HEADER_BYTES], "big")
    if command not in (_LOCAL, _PROXY) or body_bytes > _MAX_BODY_BYTES:
        raise Malformed("a PROXY header of another version, or too long")
    length = _HEADER_BYTES + body_bytes
    if len(data) < length:
        return None
    wanted = _ADDRESS_BYTES.get(family)
    if command == _LOCAL or wanted is None:
        return Preamble(None, length)
    source = data[_HEADER_BYTES : _HEADER_BYTES + wanted]
    if 2 * wanted + 4 > body_bytes:  # two addresses and two ports
        raise Malformed("a PROXY header without its addresses")
    return Preamble(IPv4Address(source) if wanted == 4 else IPv6Address(source), length)
