"""What a relay has done so far, in numbers: no address, code or payload can be read from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from amesh_core.wire import relay as wire

# Each of the two devices of a session is told so.
_BOTH: Final = 2


@dataclass(slots=True)
class Counts:
    """Totals since the start; they only grow.

    `errors` are by the error code that a device was sent, `bootstrap` by what became of a
    frame of a bootstrap token.
    """

    sockets: int = 0
    refused_sockets: int = 0
    refused_tokens: int = 0
    messages: int = 0
    forwarded_bytes: int = 0
    peers_found: int = 0
    peers_done: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    bootstrap: Counter[str] = field(default_factory=Counter)

    @property
    def pairings(self) -> int:
        """Codes under which two devices met."""
        return self.peers_found // _BOTH

    def told(self, frame: wire.RelayFrame) -> None:
        """A device was sent a frame."""
        match frame:
            case wire.Data(payload):  # first, as most frames are that
                self.forwarded_bytes += len(payload)
            case wire.PeerFound():
                self.peers_found += 1
            case wire.Done():
                self.peers_done += 1
            case wire.RelayErrorFrame(code):
                self.errors[str(code)] += 1
            case wire.BootstrapInit():
                self.bootstrap["announced"] += 1
            case wire.BootstrapAcked():
                self.bootstrap["acknowledged"] += 1
            case wire.BootstrapReject(_, error):
                self.bootstrap[str(error)] += 1
            case _:
                pass
