"""All accepted sockets, counted before the handshake: one that never finishes it holds memory
and a file descriptor all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from amesh_relay.addresses import Address, Network, client_of, plain
from amesh_relay.limits import Limits, Tally

# Sockets over the limit of connections that may exist for a moment: in the handshake, being
# told that they are too many, or closing. One client may have as many again as it may have
# connections.
SPARE_SOCKETS: Final = 1000


class Doors:
    """All accepted sockets, counted per client and in all."""

    def __init__(self, limits: Limits, trusted_proxies: Sequence[Network]) -> None:
        self.limits = limits
        self._trusted_proxies = trusted_proxies
        self._tally: Tally[bytes] = Tally()
        self._keys: dict[int, bytes] = {}

    @property
    def max_sockets(self) -> int:
        """How many sockets may be open at a time."""
        return self.limits.max_connections + SPARE_SOCKETS

    def enter(self, number: int, peer: Address) -> bool:
        """Let a socket in; False when it has to go."""
        address = plain(peer)
        if any(address in network for network in self._trusted_proxies):
            # Whom a proxy speaks for is not known before the handshake.
            key = b"#%d" % number
        else:
            key = client_of(address)
        if not self._tally.enter(
            key, 2 * self.limits.max_connections_per_address, self.max_sockets
        ):
            return False
        self._keys[number] = key
        return True

    def leave(self, number: int) -> None:
        """A socket that had been let in is closed."""
        self._tally.leave(self._keys.pop(number))
