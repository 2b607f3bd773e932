"""How long each connection may take for what, and what happens when it is over.

Rows of tables that are looked at once a second, instead of a timer for each connection.
"""

from __future__ import annotations

from typing import Final

from amesh_relay.connection import Connection
from amesh_relay.limits import Timers

HANDSHAKE_SECONDS: Final = 10.0
# A peer that is gone without a word is noticed after twice that.
PING_SECONDS: Final = 20.0
# At least 3 KiB/s, for the 64 KiB frame that may be waiting; a modem of 1998 does that.
SLOW_PEER_SECONDS: Final = 20.0
# How long the closing handshake of a connection may take.
CLOSE_SECONDS: Final = 5.0


class Patience:
    """All connections of a relay that something is expected of."""

    def __init__(self) -> None:
        self._shaking: Timers[Connection] = Timers(HANDSHAKE_SECONDS)
        self._asking: Timers[Connection] = Timers(PING_SECONDS)
        self._slow: Timers[Connection] = Timers(SLOW_PEER_SECONDS)
        self._closing: Timers[Connection] = Timers(CLOSE_SECONDS)
        self._busy: list[Connection] = []  # who sent something since the last second began

    def accepted(self, connection: Connection, now: float) -> None:
        """It has to say what it wants."""
        self._shaking.start(connection, now)

    def answered(self, connection: Connection) -> None:
        """It said so."""
        self._shaking.stop(connection)

    def opened(self, connection: Connection, now: float) -> None:
        """It is a WebSocket: asked from time to time whether it is still there."""
        self._asking.start(connection, now)

    def sent(self, connection: Connection, most_in_a_second: int) -> None:
        """It sent a message; when that is more than it may, it is not read from for a while."""
        connection.messages += 1
        if connection.messages == 1:
            self._busy.append(connection)
        elif connection.messages > most_in_a_second:
            connection.hold_back(self)

    def stalled(self, connection: Connection, is_stalled: bool, now: float) -> None:
        """It does not read, or does again."""
        if is_stalled:
            self._slow.start(connection, now)
        else:
            self._slow.stop(connection)

    def closing(self, connection: Connection, now: float) -> None:
        """Its end was said; it may agree."""
        self._asking.stop(connection)
        self._closing.start(connection, now)

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        for timers in (self._shaking, self._asking, self._slow, self._closing):
            timers.stop(connection)

    def tick(self, now: float) -> None:
        """A second is over."""
        busy, self._busy = self._busy, []
        for connection in busy:
            connection.messages = 0
            connection.let_go(self)
        for timers in (self._shaking, self._slow, self._closing):
            for connection in timers.due(now):
                connection.abort()
        for connection in self._asking.due(now):
            if connection.is_alive:
                connection.ping()
                self._asking.start(connection, now)
            else:
                connection.abort()
