"""What a proxy writes before a connection (haproxy.org, proxy-protocol.txt, section 2.2)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

SIGNATURE: Final = bytes([0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A])


def version_2(family: int, body: bytes, *, command: int = 0x21) -> bytes:
    """A header of version 2; its length is that of the body."""
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def for_client(address: str) -> bytes:
    """The header of a TCP connection from an IPv4 address."""
    ports = (50000).to_bytes(2, "big") + (443).to_bytes(2, "big")
    return version_2(0x11, ip_address(address).packed + bytes([192, 0, 2, 1]) + ports)
