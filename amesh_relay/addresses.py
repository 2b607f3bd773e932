"""Which client is behind a socket, and whom we count as one client.

docs/protocol.md section 4. Limits per client are worth as much as the address they count,
and an `X-Forwarded-For` header begins with whatever the client wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# For a socket without an address: of a Unix path, or of a peer that is gone already.
NOWHERE: Final = IPv6Address(0)

# An IPv6 customer has at least a /64 to draw addresses from (RFC 6177).
_IPV6_GROUP_BYTES: Final = 8


def network(text: str) -> Network:
    """Read `10.0.0.0/8`, `fd00::/8` or a single address.

    Raises:
        ValueError: neither; host bits that are set are an error too.
    """
    return ip_network(text)


def client_address(peer: Address, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """The address of the client of a socket.

    `peer` is the other end of the socket, `forwarded` the values of its X-Forwarded-For
    headers in order. Each proxy appends the address it was called from, so only what our
    own proxies appended can be believed: from the right, the first address that is not a
    trusted proxy. What cannot be read as an address counts as the proxy that passed it on.
    """
    address = plain(peer)
    hops = [hop for value in forwarded for hop in value.split(",")]
    while hops and any(address in network for network in trusted):
        hop = _hop(hops.pop())
        if hop is None:
            break
        address = hop
    return address


def client_of(address: Address) -> bytes:
    """What limits per client are counted by: an IPv4 address, or an IPv6 /64."""
    if address.version == 4:
        return address.packed
    return address.packed[:_IPV6_GROUP_BYTES]


def _hop(text: str) -> Address | None:
    """One entry of X-Forwarded-For; some proxies add the port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return plain(ip_address(text))
    except ValueError:
        return None


def plain(address: Address) -> Address:
    """An IPv4 address that was written as IPv6, as IPv4."""
    # A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d: all of them in one /64.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
