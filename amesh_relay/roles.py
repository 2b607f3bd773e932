"""What a connection is to the relay, and what the relay may do to it: plain data.

    Fresh ── listen ──> Waiting ── (a controller connects) ──> Paired ──> Spent
      ├──── connect ─────────────────────────────────────────> Paired ──> Spent
      ├──── bootstrap_watch ──> Watching
      ├──── bootstrap_init ──> Announcing
      └──── (at another relay) ──> Elsewhere

No role leads back to Fresh: a socket belongs to one session for its whole life.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection

# Close codes of RFC 6455 section 7.4.1 and of the registry it opens.
NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013
CLOSE_CODES: Final = (NORMAL_CLOSURE, GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send `frame` to the connection with the number `to`."""

    to: int
    frame: wire.RelayFrame


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection with the number `to`, after what was delivered to it before."""

    to: int
    close_code: int


@dataclass(frozen=True, slots=True)
class Freed:
    """A code is not in use any more; whoever shares codes with other relays tells them."""

    otc: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Burned:
    """A jti is used up, for the token's longest life and an hour."""

    jti: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unwatched:
    """Nobody here watches a jti any more."""

    jti: str = field(repr=False)


Effect = Deliver | Hangup | Freed | Burned | Unwatched


@dataclass(frozen=True, slots=True)
class Fresh:
    """Has not said yet what it is here for."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A target whose code waits for a controller."""

    otc: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Paired:
    """One end of a session."""

    session: Session


@dataclass(frozen=True, slots=True)
class Watching:
    """A controller that waits for announcements under these jtis."""

    jtis: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Announcing:
    """A target that announces itself under one jti."""

    jti: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Its session, or its watcher, is at another relay, which decides what it may do."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Its session is over, or it broke a rule: whatever it still sends is dropped."""


Role = Fresh | Waiting | Paired | Watching | Announcing | Elsewhere | Spent


@dataclass(slots=True, eq=False)
class Connection:
    """One socket, seen from inside: its number, never used twice, and its role."""

    number: int
    client: bytes = field(repr=False)  # addresses.client: whom it counts for
    role: Role = Fresh()
    is_guest: bool = False  # of another relay: its place is there


@dataclass(slots=True, eq=False)
class Session:
    """Two connections that met, and how many bytes they may still send."""

    otc: str = field(repr=False)
    target: Connection
    controller: Connection
    bytes_left: int

    def other(self, connection: Connection) -> Connection:
        """The connection at the other end."""
        return self.controller if connection is self.target else self.target


def error(connection: Connection, code: ErrorCode) -> list[Effect]:
    """Say what is wrong; the connection goes on."""
    return [Deliver(connection.number, wire.RelayErrorFrame(code))]


def reject(connection: Connection, jti: str, reason: Rejection) -> list[Effect]:
    """Say why a bootstrap frame is refused; the connection goes on."""
    return [Deliver(connection.number, wire.BootstrapReject(jti, reason))]


def finish(connection: Connection, last: wire.RelayFrame) -> list[Effect]:
    """Its session is over: one last frame, then close."""
    connection.role = Spent()
    return [Deliver(connection.number, last), Hangup(connection.number, NORMAL_CLOSURE)]
