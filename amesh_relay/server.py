"""Sockets around the hub; nothing is decided here (docs/protocol.md section 4).

A frame comes in, the hub says what to do, and that is done at once and in order. Then the
connection whose frame it was, and no other, is not read from until all of it is written: a
peer that does not read stalls who sends to it, and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Final

from websockets.http11 import Request, Response

from amesh_core.errors import BadFrame
from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode
from amesh_relay.addresses import Address, client_address, client_of
from amesh_relay.cluster import Cluster
from amesh_relay.config import Config
from amesh_relay.connection import READ_BUFFER_BYTES, Connection
from amesh_relay.counts import Counts
from amesh_relay.desk import Desk
from amesh_relay.doors import Doors
from amesh_relay.guests import Leg
from amesh_relay.hub import Hub
from amesh_relay.limits import Limits
from amesh_relay.logs import DayNumbers
from amesh_relay.patience import Patience
from amesh_relay.roles import GOING_AWAY, Burned, Deliver, Effect, Freed, Hangup, Unwatched
from amesh_relay.state.choice import burned_file, shared_state

if TYPE_CHECKING:
    from amesh_relay.state import SharedState

log: Final = logging.getLogger("amesh.relay")

# How late what runs out may be noticed while others speak.
RESOLUTION_SECONDS: Final = 0.1
# How long the closing handshakes of all connections may take at our own end.
STOP_SECONDS: Final = 2.0


class Relay:
    """One relay: a hub, and the connections it talks through; a `House` of them."""

    def __init__(
        self, config: Config, clock: Callable[[], float], state: SharedState | None = None
    ) -> None:
        """`clock` gives seconds and never runs backwards; `state` replaces the one of `config`.

        Raises:
            UsageError: the file of the access token, or the state, cannot be used.
        """
        self.read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self.counts = Counts()
        self.is_draining = False
        self._clock = clock
        self._limits = config.limits
        self._proxies = config.trusted_proxies
        self._proxy_protocol = config.proxy_protocol
        self.desk = Desk(self, config)
        self.hub = Hub(config.limits)
        self._doors = Doors(config.limits, self._proxies)
        self._patience = Patience()
        self._numbers = DayNumbers(_today())
        self._inside: set[Connection] = set()
        self._sockets: dict[int, Connection | Leg] = {}
        self._state = state or shared_state(config.state)
        self._cluster = Cluster(self, self._state) if self._state else None
        self._burned = burned_file(config.state)
        for jti, age_seconds in self._burned.load(time.time()) if self._burned else ():
            self.hub.burn(jti, age_seconds, clock())
        self._next_tick = 0.0
        self._quiet = asyncio.Event()

    @property
    def max_sockets(self) -> int:
        """How many sockets may be open at a time."""
        return self._doors.max_sockets

    @property
    def sockets(self) -> int:
        """How many are open."""
        return len(self._inside)

    @property
    def connections(self) -> int:
        """How many of them are WebSockets with a place at the hub."""
        return self.hub.connections

    @property
    def sessions(self) -> int:
        """How many codes wait or are in use here."""
        return self.hub.sessions

    @property
    def is_alone(self) -> bool:
        """Whether it cannot reach what it shares with other relays."""
        return self._state is not None and not self._state.is_available

    def connection(self) -> Connection:
        """What asyncio makes of a socket that it accepts."""
        return Connection(self, self.number())

    def number(self) -> int:
        """A number that no connection had before."""
        return self._numbers.next(_today())

    async def keep_in_touch(self) -> None:
        """Share state with other relays, if it is shared, until cancelled."""
        if self._state is not None and self._cluster is not None:
            await self._state.run(self._cluster)

    def adopt(self, leg: Leg, client: bytes) -> None:
        """A connection of another relay takes part in something here."""
        self._sockets[leg.number] = leg
        self.hub.adopt(leg.number, client)

    def dismiss(self, leg: Leg) -> None:
        """It is gone, or cannot be reached."""
        self.perform(self.hub.disconnect(leg.number, self.now()))
        del self._sockets[leg.number]
        self._quiet.set()

    def introduces(self, peer: Address) -> bool:
        """Whether a connection of this peer begins with whom it is for (PROXY protocol)."""
        return self._proxy_protocol and any(peer in network for network in self._proxies)

    def set_limits(self, limits: Limits) -> None:
        """Other limits from now on; nobody who is inside has to go."""
        self._limits = self._doors.limits = limits
        self.hub.set_limits(limits)

    def tick(self) -> None:
        """A second is over, more or less."""
        self._patience.tick(self.now())

    async def drain(self, seconds: float) -> None:
        """Take no new device, and let pairings that run come to their end, for so long."""
        self.is_draining = True
        self.perform(self.hub.drain(self.now()))
        try:
            async with asyncio.timeout(seconds):
                while self._running():
                    await self._change()
        except TimeoutError:
            log.warning("pairings that are cut, as they took too long: %d", self._running())

    async def close(self) -> None:
        """End every connection with 1001."""
        log.info("stopping with %d connections open", self.hub.connections)
        for connection in list(self._inside):
            if connection.is_open:
                connection.close(GOING_AWAY)
                connection.flush()
            else:
                connection.abort()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self._inside:
                    await self._change()
        except TimeoutError:
            for connection in list(self._inside):
                connection.abort()
            await asyncio.sleep(0)  # asyncio tells of a cut socket in its next turn
        if self._burned is not None:
            self._burned.close()

    # --- what a connection tells (connection.House) -------------------------------------

    def enter(self, connection: Connection) -> bool:
        """A socket was accepted."""
        self.counts.sockets += 1
        if not self._doors.enter(connection.number, connection.peer):
            self.counts.refused_sockets += 1
            return False
        self._inside.add(connection)
        self._patience.accepted(connection, self._clock())
        return True

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """Plain HTTP is answered here, and who may not be a WebSocket."""
        self._patience.answered(connection)
        return self.desk.answer(request, lambda: self._client(connection, request), self._clock())

    def open(self, connection: Connection, request: Request) -> None:
        """A WebSocket is found a place at the hub."""
        now = self.now()
        self._sockets[connection.number] = connection
        self._patience.opened(connection, now)
        self._debug("connection %s is open", connection.number)
        self.perform(self.hub.connect(connection.number, self._client(connection, request), now))

    def receive(self, connection: Connection, message: str | bytes) -> None:
        """A message is here."""
        self.counts.messages += 1
        self._patience.sent(connection, self._limits.max_messages_per_second)
        if self._cluster is None or not self._cluster.takes(connection, message):
            self.decide(connection, message)

    def decide(self, connection: Connection, message: str | bytes) -> None:
        """A message is for the hub; when it names what is shared, others are asked before."""
        number = connection.number
        try:
            frame = wire.decode_from_device(message)
        except BadFrame as error:
            self._debug("connection %s sent something malformed", number)
            effects = self.hub.refuse(number, ErrorCode(error.relay_code), self.now())
        else:
            if self._cluster is not None and self._cluster.asks(connection, frame):
                return
            effects = self.hub.receive(number, frame, self.now())
        for touched in self.perform(effects):
            connection.hold_back_for(touched)
        if self._cluster is not None:
            self._cluster.slow_down(connection)

    def controlled(self, connection: Connection) -> None:
        """A ping, or so: as much work as a message, and there may be no more of them."""
        self._patience.sent(connection, self._limits.max_messages_per_second)

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """It does not read, or it does again."""
        self._patience.stalled(connection, is_stalled, self._clock())
        if self._cluster is not None:
            self._cluster.stalled(connection, is_stalled)

    def closing(self, connection: Connection) -> None:
        """It has a moment to agree to its end."""
        self._patience.closing(connection, self._clock())

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        self._patience.gone(connection)
        if connection in self._inside:
            self._inside.remove(connection)
            self._doors.leave(connection.number)
        if self._cluster is not None:
            self._cluster.left(connection.number)
        if connection.number in self._sockets:
            self.perform(self.hub.disconnect(connection.number, self.now()))
            # Last: until then the hub may still speak of it, though nothing is sent any more.
            del self._sockets[connection.number]
            self._debug("connection %s is closed", connection.number)
        self._quiet.set()

    # --- inside -------------------------------------------------------------------------

    def now(self) -> float:
        """The time; what it has run out for is ended first, and nobody waits for that."""
        now = self._clock()
        # Not at every frame: to look for what ran out costs as much as a frame does.
        if now >= self._next_tick:
            self._next_tick = now + RESOLUTION_SECONDS
            self.perform(self.hub.tick(now))
        return now

    def perform(self, effects: Iterable[Effect]) -> list[Connection | Leg]:
        """Do what the hub says, in its order, which is the order on the wire.

        Returns the connections that were written to; who caused it waits until they have room.
        """
        touched: dict[Connection | Leg, None] = {}
        for effect in effects:
            match effect:
                case Deliver(to, frame):
                    connection = self._sockets[to]
                    self.counts.told(frame)
                    connection.send(wire.encode(frame))
                    touched[connection] = None
                case Hangup(to, code):
                    connection = self._sockets[to]
                    connection.close(code)
                    touched[connection] = None
                case Burned(jti) if self._burned is not None:
                    self._burned.add(jti, time.time())
                case Freed() | Burned() | Unwatched():
                    if self._state is not None:
                        self._state.tell(effect)
        for connection in touched:
            connection.flush()
        if touched:
            self._quiet.set()
        return list(touched)

    def _client(self, connection: Connection, request: Request) -> bytes:
        """Whom a connection counts for."""
        forwarded = request.headers.get_all("X-Forwarded-For")
        return client_of(client_address(connection.peer, forwarded, self._proxies))

    def _debug(self, text: str, number: int) -> None:
        # A name takes time to make, and is mostly for nobody.
        if log.isEnabledFor(logging.DEBUG):
            log.debug(text, self._numbers.name(number))

    def _running(self) -> int:
        """Sessions that are here, or that a connection of ours is in."""
        return self.hub.sessions + (self._cluster.guests_elsewhere if self._cluster else 0)

    async def _change(self) -> None:
        self._quiet.clear()
        await self._quiet.wait()


def _today() -> date:
    return datetime.now(UTC).date()
