"""Which tokens one connection has asked its relay to watch, and what it said to each.

docs/protocol.md section 4. A relay limits what it takes at once, and how many a connection watches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from amesh_core.errors import RelayLost
from amesh_core.io.relay_line import ANSWER_SECONDS, Line
from amesh_core.wire import relay as wire

MAX_UNANSWERED: Final = 64  # questions; their answers fit into any socket's buffer


@dataclass
class Questions:
    """What one connection's relay was asked to watch; `news` is what it agreed to since told."""

    _open: deque[str] = field(default_factory=deque)
    _asked: dict[str, float] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    news: bool = False

    def look(self, jtis: Sequence[str]) -> None:
        """Begin anew with all that have no answer, or a refusal, in this order.

        Raises:
            RelayLost: there was time enough for an answer.
        """
        now = time.monotonic()
        if any(now - since > ANSWER_SECONDS for since in self._asked.values()):
            raise RelayLost(f"the relay did not answer in {ANSWER_SECONDS:.0f} s")
        self._open = deque(j for j in jtis if j not in self.closed and j not in self._asked)

    async def ask(self, line: Line) -> None:
        """Send what may be sent: a relay that waits for us to read must not wait for ever."""
        while self._open and len(self._asked) < MAX_UNANSWERED:
            jti = self._open.popleft()
            await line.send(wire.BootstrapWatch(jti))
            self._asked[jti] = time.monotonic()

    def answered(self, jti: str) -> bool:
        """Whether it was asked about, which it is not any more."""
        return self._asked.pop(jti, None) is not None

    def are_answered(self) -> bool:
        """Whether the relay has said something to each."""
        return not self._open and not self._asked
