"""One relay of several: what they decide together, before its own hub decides.

A frame that claims a code or a token is put to the shared state first. Meanwhile nothing is read
from its connection. Granted and at home here, our hub decides as ever; granted and at home at
another relay, the connection is a guest there (guests.py). Denied, the device is told why.
Sessions with both ends at one relay go on without the shared state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.connection import Connection
from amesh_relay.flow import Flow
from amesh_relay.guests import Claim, Guests
from amesh_relay.roles import POLICY_VIOLATION, Burned, Effect
from amesh_relay.state import Denied, Granted, Letter, SharedState, Verdict

if TYPE_CHECKING:
    from amesh_relay.server import Relay

# What one connection may have waiting while it is decided about. It is not read from when there
# is something, so these are frames that came together, and have no more bytes than one read.
MAX_WAITING: Final = 1000


class _Post(Flow):
    """All that waits for the shared state; who makes too much of it waits, too."""

    __slots__ = ()

    def crowd(self) -> None:
        """There is too much."""
        self._block()

    def clear(self) -> None:
        """Not any more."""
        self._unblock()

    def _stop_reading(self) -> None:
        """Nothing is read from it."""

    def _read_on(self) -> None:
        """Nothing is read from it."""


@dataclass(slots=True)
class _Asking:
    """A connection that is being decided about, and what it sent meanwhile."""

    connection: Connection
    waiting: deque[str | bytes] = field(default_factory=deque)


class Cluster:
    """The part of one relay that speaks to others; a `Mailbox`."""

    def __init__(self, relay: Relay, state: SharedState) -> None:
        self._relay = relay
        self._state = state
        self._guests = Guests(relay, state)
        self._asking: dict[int, _Asking] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._post = _Post()

    @property
    def guests_elsewhere(self) -> int:
        """How many connections of ours are guests elsewhere."""
        return self._guests.elsewhere

    # --- what the relay tells -----------------------------------------------------------

    def takes(self, connection: Connection, message: str | bytes) -> bool:
        """Whether a message is not for our hub, or not yet."""
        if (asking := self._asking.get(connection.number)) is not None:
            if len(asking.waiting) < MAX_WAITING:
                asking.waiting.append(message)
                # Not before: most devices wait for an answer, and to stop reading takes time.
                connection.hold_back(self)
            else:
                connection.close(POLICY_VIOLATION)
            return True
        if self._guests.hand_over(connection, message):
            self.slow_down(connection)
            return True
        return False

    def asks(self, connection: Connection, frame: wire.DeviceFrame) -> bool:
        """Whether a frame names something that is shared; then all relays are asked first."""
        number = connection.number
        if not isinstance(frame, Claim) or not self._relay.hub.may_ask(number, frame):
            return False
        asking = self._asking[number] = _Asking(connection)
        # Now, as it may be gone when the task begins.
        client = self._relay.hub.client_of(number)
        self._start(self._decide(asking, frame, client), connection)
        return True

    def slow_down(self, connection: Connection) -> None:
        """It has made us write; when too much waits to be sent, nothing more from it."""
        if self._state.is_crowded:
            self._post.crowd()
        connection.hold_back_for(self._post)

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """A connection of ours does not read, or does again."""
        self._guests.stalled(connection, is_stalled)

    def left(self, number: int) -> None:
        """A connection of ours is gone."""
        self._asking.pop(number, None)
        self._guests.left(number)

    # --- what a shared state brings (state.Mailbox) -------------------------------------

    def take(self, letter: Letter) -> None:
        """A letter from another relay."""
        self._guests.take(letter)

    def lost(self) -> None:
        """Nothing that depends on other relays can be relied on."""
        for node in self.correspondents():
            self.died(node)
        self.roomy()

    def found(self) -> None:
        """Tell again what is here: under this name we are new, and so Redis may be."""
        self._start(self._tell_again())

    def died(self, node: str) -> None:
        """A relay is not there any more."""
        self._guests.died(node)

    def roomy(self) -> None:
        """Not too much waits to be sent."""
        self._post.clear()

    def correspondents(self) -> frozenset[str]:
        """The relays that letters are exchanged with."""
        return self._guests.correspondents

    # --- inside -------------------------------------------------------------------------

    async def _decide(self, asking: _Asking, frame: Claim, client: bytes) -> None:
        match frame:
            case wire.Listen(otc):
                verdict = await self._state.listen(otc, client)
            case wire.Connect(otc):
                verdict = await self._state.connect(otc, client)
            case wire.BootstrapWatch(jti):
                verdict = await self._state.watch(jti)
            case wire.BootstrapInit(jti):
                verdict = await self._state.announce(jti)
        number = asking.connection.number
        is_here = self._asking.pop(number, None) is not None
        # It may have left meanwhile, or was sent away.
        if is_here and self._relay.hub.may_ask(number, frame):
            self._carry_out(asking.connection, frame, client, verdict)
        else:
            self._give_back(frame, verdict)
        if is_here:
            self._catch_up(asking)

    def _carry_out(
        self, connection: Connection, frame: Claim, client: bytes, verdict: Verdict
    ) -> None:
        hub, now, number = self._relay.hub, self._relay.now(), connection.number
        effects: list[Effect] = []
        match verdict, frame:
            case Granted(node), _ if node == self._state.node:
                self._relay.perform(hub.receive(number, frame, now))
                self._guests.settle(number, frame)
            case Granted(node), wire.Connect() | wire.BootstrapInit():
                hub.send_elsewhere(number, now)
                self._guests.send_there(connection, node, frame, client)
            case Denied(ErrorCode() as why), _:
                effects = hub.deny(number, why, now)
            case Denied(Rejection() as why), wire.BootstrapWatch() | wire.BootstrapInit():
                effects = hub.reject(number, frame, why, now)
            case _, wire.BootstrapWatch() | wire.BootstrapInit():
                effects = hub.reject(number, frame, Rejection.OVERLOADED, now)
            case _:
                effects = hub.deny(number, ErrorCode.RELAY_CAPACITY, now)
        self._relay.perform(effects)

    def _give_back(self, frame: Claim, verdict: Verdict) -> None:
        """Nobody is there any more for what was granted."""
        match verdict, frame:
            case Granted(node), wire.Connect(otc) if node != self._state.node:
                self._guests.expire_there(node, otc)
            case Granted(), wire.Connect(otc):
                self._guests.expire(otc)
            case Granted(), wire.Listen() | wire.BootstrapWatch():
                self._guests.disclaim(frame)
            case _:
                pass

    def _catch_up(self, asking: _Asking) -> None:
        """What came meanwhile, in its order, each as if it had come now."""
        connection, number = asking.connection, asking.connection.number
        while asking.waiting and number not in self._asking:
            message = asking.waiting.popleft()
            if not self.takes(connection, message):
                self._relay.decide(connection, message)
        if number in self._asking:  # again, because of one of these
            self._asking[number].waiting.extend(asking.waiting)
        else:
            connection.let_go(self)

    async def _tell_again(self) -> None:
        hub = self._relay.hub
        for jti in hub.burned():
            self._state.tell(Burned(jti))
        for otc, client in hub.waiting():
            if isinstance(await self._state.listen(otc, client, again=True), Denied):
                self._guests.expire(otc)
            self._guests.disclaim(wire.Listen(otc))  # it may have gone meanwhile
        for jti in hub.watched():
            verdict = await self._state.watch(jti)
            if verdict == Denied(Rejection.ALREADY_WATCHED):
                self._relay.perform(hub.lose_watcher(jti, self._relay.now()))
            self._guests.disclaim(wire.BootstrapWatch(jti))

    def _start(
        self, work: Coroutine[None, None, None], connection: Connection | None = None
    ) -> None:
        """Do this meanwhile; a defect is logged, and ends nothing but the connection it is for."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled() or (error := task.exception()) is None:
                return
            loop.call_exception_handler({"message": "a defect in the relay", "exception": error})
            if connection is not None:
                connection.abort()

        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
