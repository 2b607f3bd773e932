"""A session whose two ends are connected to different relays.

The relay that has the target of a code, or the watcher of a token, is its home: its hub decides
about the session, alone. The connection of the other end is a guest there: its own relay hands on
what it sends and writes what comes back. Between relays go letters, of these kinds:

    from the guest's relay     enter(frame, client)  frame(text)  gone  stall  flow
    from the home              tell(text)  end(code)  hold  go  lost
    about a code               expire(otc): its controller has left before it got there

Letters about a guest are numbered. One that is missing, a relay that died, or a shared state that
is away ends the guest on both sides, as a lost connection does: who finds out says so with `gone`
or `lost`, and so does who gets a letter about a guest that it does not know. Sessions with both
ends at one relay need no letters and go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from amesh_core.errors import BadFrame
from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.connection import Connection
from amesh_relay.flow import Flow
from amesh_relay.roles import POLICY_VIOLATION, Burned, Effect, Freed, Unwatched
from amesh_relay.state import Denied, Granted, Kind, Letter, SharedState, Unknown, Verdict

if TYPE_CHECKING:
    from amesh_relay.server import Relay

log: Final = logging.getLogger("amesh.relay")

_Claim = wire.Listen | wire.Connect | wire.BootstrapWatch | wire.BootstrapInit
# What one connection may have waiting while it is decided about. It is not read from meanwhile,
# so these are frames that came together with the first, and have no more bytes than one read.
MAX_WAITING: Final = 1000


@dataclass(slots=True)
class _Link:
    """Letters about one guest: whom they are exchanged with, and how many so far."""

    node: str
    guest: str
    sent: int = 0
    received: int = 0

    def is_next(self, letter: Letter) -> bool:
        """Whether it is the one that has to come now."""
        self.received += 1
        return letter.number == self.received - 1


class Leg(Flow):
    """A guest, as the home's hub sees it: something to send to, like a connection."""

    __slots__ = ("_cluster", "is_over", "link", "number")

    def __init__(self, cluster: Cluster, number: int, link: _Link) -> None:
        super().__init__()
        self.number = number
        self.link = link
        self.is_over = False
        self._cluster = cluster

    def send(self, text: str) -> None:
        """Send it a message."""
        self._cluster.write(self.link, Kind.TELL, text=text)

    def close(self, code: int) -> None:
        """Begin its end, after what was sent before."""
        self._cluster.write(self.link, Kind.END, code=code)
        self.is_over = True

    def flush(self) -> None:
        """Letters leave by themselves; after the last there is nothing to wait for."""
        if self.is_over:
            self._cluster.forget(self)

    def stalled(self, is_stalled: bool) -> None:
        """Its own relay says whether it reads."""
        if is_stalled:
            self._block()
        else:
            self._unblock()

    def vanish(self) -> None:
        """It is gone."""
        self._vanish()

    def _stop_reading(self) -> None:
        self._cluster.write(self.link, Kind.HOLD)

    def _read_on(self) -> None:
        self._cluster.write(self.link, Kind.GO)


class _Post(Flow):
    """All letters on their way to the shared state; who writes too many waits."""

    __slots__ = ()

    def is_crowded(self, is_crowded: bool) -> None:
        """Whether more of them wait than should."""
        if is_crowded:
            self._block()
        else:
            self._unblock()

    def _stop_reading(self) -> None:
        """Nothing is read from it."""

    def _read_on(self) -> None:
        """Nothing is read from it."""


@dataclass(slots=True)
class _Away:
    """A connection of ours that is a guest elsewhere."""

    connection: Connection
    link: _Link


@dataclass(slots=True)
class _Asking:
    """A connection that is being decided about, and what it sent meanwhile."""

    connection: Connection
    waiting: deque[str | bytes] = field(default_factory=deque)


class Cluster:
    """The guests of one relay, and its connections that are guests elsewhere; a `Mailbox`."""

    def __init__(self, relay: Relay, state: SharedState) -> None:
        self._relay = relay
        self._state = state
        self._asking: dict[int, _Asking] = {}
        self._away: dict[int, _Away] = {}
        self._legs: dict[tuple[str, str], Leg] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._post = _Post()

    @property
    def guests_elsewhere(self) -> int:
        """How many connections of ours are guests elsewhere."""
        return len(self._away)

    # --- what the relay tells -----------------------------------------------------------

    def takes(self, connection: Connection, message: str | bytes) -> bool:
        """Whether a message is not for our hub, or not yet."""
        number = connection.number
        if (asking := self._asking.get(number)) is not None:
            if len(asking.waiting) < MAX_WAITING:
                asking.waiting.append(message)
            else:
                connection.close(POLICY_VIOLATION)
            return True
        if (away := self._away.get(number)) is not None:
            if isinstance(message, str):
                self.write(away.link, Kind.FRAME, text=message)
                self.slow_down(connection)
            else:
                self._end_guest(away, ErrorCode.INVALID_MESSAGE)
            return True
        return False

    def asks(self, connection: Connection, frame: wire.DeviceFrame) -> bool:
        """Whether a frame names something that is shared; then all relays are asked first."""
        number = connection.number
        if not isinstance(frame, _Claim) or not self._relay.hub.may_ask(number, frame):
            return False
        # Nothing more from it until that is decided.
        connection.hold_back(self)
        asking = self._asking[number] = _Asking(connection)
        # Now, as it may be gone when the task begins.
        client = self._relay.hub.client_of(number)
        self._start(self._decide(asking, frame, client), connection)
        return True

    def slow_down(self, connection: Connection) -> None:
        """It has made us write; when too much waits to be sent, nothing more from it."""
        if self._state.is_crowded:
            self._post.is_crowded(True)
        connection.hold_back_for(self._post)

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """A connection of ours does not read, or does again."""
        if (away := self._away.get(connection.number)) is not None:
            self.write(away.link, Kind.STALL if is_stalled else Kind.FLOW)

    def left(self, number: int) -> None:
        """A connection of ours is gone."""
        self._asking.pop(number, None)
        if (away := self._away.pop(number, None)) is not None:
            self.write(away.link, Kind.GONE)

    def write(
        self, link: _Link, kind: Kind, *, text: str = "", client: bytes = b"", code: int = 0
    ) -> None:
        """Write a letter about a guest."""
        letter = Letter(self._state.node, link.guest, link.sent, kind, text, client, code)
        link.sent += 1
        self._state.send(link.node, letter)

    # --- deciding together --------------------------------------------------------------

    async def _decide(self, asking: _Asking, frame: _Claim, client: bytes) -> None:
        match frame:
            case wire.Listen(otc):
                verdict = await self._state.listen(otc, client)
            case wire.Connect(otc):
                verdict = await self._state.connect(otc, client)
            case wire.BootstrapWatch(jti):
                verdict = await self._state.watch(jti)
            case wire.BootstrapInit(jti):
                verdict = await self._state.announce(jti)
        connection, number = asking.connection, asking.connection.number
        is_here = self._asking.pop(number, None) is not None
        # It may have left meanwhile, or was sent away.
        if not is_here or not self._relay.hub.may_ask(number, frame):
            self._give_back(frame, verdict)
        else:
            self._carry_out(connection, frame, client, verdict)
        if is_here:
            self._catch_up(asking)

    def _catch_up(self, asking: _Asking) -> None:
        """What came meanwhile, in its order, each as if it had come now."""
        connection, number = asking.connection, asking.connection.number
        while asking.waiting and number not in self._asking:
            message = asking.waiting.popleft()
            if not self.takes(connection, message):
                self._relay.decide(connection, message)
        if number in self._asking:  # again, by one of these
            self._asking[number].waiting.extend(asking.waiting)
        else:
            connection.let_go(self)

    def _carry_out(
        self, connection: Connection, frame: _Claim, client: bytes, verdict: Verdict
    ) -> None:
        hub, now, number = self._relay.hub, self._relay.now(), connection.number
        effects: list[Effect] = []
        match verdict, frame:
            case Granted(node), _ if node == self._state.node:
                self._relay.perform(hub.receive(number, frame, now))
                self._settle(number, frame)
            case Granted(node), wire.Connect() | wire.BootstrapInit():
                hub.send_elsewhere(number, now)
                link = _Link(node, f"{self._state.node}/{number}")
                self._away[number] = _Away(connection, link)
                self.write(link, Kind.ENTER, text=wire.encode(frame), client=client)
            case Denied(ErrorCode() as why), _:
                effects = hub.deny(number, why, now)
            case Denied(Rejection() as why), wire.BootstrapWatch() | wire.BootstrapInit():
                effects = hub.reject(number, frame, why, now)
            case Unknown(), wire.BootstrapWatch() | wire.BootstrapInit():
                effects = hub.reject(number, frame, Rejection.OVERLOADED, now)
            case _:
                effects = hub.deny(number, ErrorCode.RELAY_CAPACITY, now)
        self._relay.perform(effects)

    def _give_back(self, frame: _Claim, verdict: Verdict) -> None:
        """Who asked has left meanwhile."""
        match verdict, frame:
            case Granted(node), wire.Connect(otc) if node != self._state.node:
                self.write(_Link(node, "-"), Kind.EXPIRE, text=otc)
            case Granted(node), wire.Connect(otc) if node == self._state.node:
                self._expire(otc)
            case Granted(), wire.Listen() | wire.BootstrapWatch():
                self._tell_what_is_not_here(frame)
            case _:
                pass

    def _settle(self, number: int, frame: _Claim) -> None:
        """Our hub has decided about what others were told is here; that may be so no more."""
        if isinstance(frame, wire.Connect) and not self._relay.hub.is_paired(number):
            self._expire(frame.otc)
        self._tell_what_is_not_here(frame)

    def _tell_what_is_not_here(self, frame: _Claim) -> None:
        if self._relay.hub.knows(frame):
            return
        match frame:
            case wire.Listen(otc) | wire.Connect(otc):
                self._state.tell(Freed(otc))
            case wire.BootstrapWatch(jti) | wire.BootstrapInit(jti):
                self._state.tell(Unwatched(jti))

    # --- what a shared state brings (state.Mailbox) -------------------------------------

    def take(self, letter: Letter) -> None:
        """A letter from another relay: about a guest here, or about ours there."""
        node, _, number = letter.guest.partition("/")
        if letter.kind is Kind.EXPIRE:
            self._expire(letter.text)
        elif node == self._state.node and number.isdecimal():
            self._take_from_home(letter, int(number))
        else:
            self._take_from_guest(letter)

    def lost(self) -> None:
        """Nothing that depends on other relays can be relied on."""
        for node in self.correspondents():
            self.died(node)
        self.roomy()

    def found(self) -> None:
        """Tell again what is here: under this name we are new, and so Redis may be."""
        self._start(self._tell_again())

    def died(self, node: str) -> None:
        """A relay is not there any more: nor are its guests, nor its sessions."""
        for away in [a for a in self._away.values() if a.link.node == node]:
            self._end_guest(away, ErrorCode.PEER_DISCONNECTED)
        for leg in [leg for leg in self._legs.values() if leg.link.node == node]:
            self._lose(leg)

    def roomy(self) -> None:
        """Not too much waits to be sent."""
        self._post.is_crowded(False)

    def correspondents(self) -> frozenset[str]:
        """The relays that letters are exchanged with."""
        links = [away.link for away in self._away.values()]
        links += [leg.link for leg in self._legs.values()]
        return frozenset(link.node for link in links)

    # --- inside -------------------------------------------------------------------------

    def _take_from_home(self, letter: Letter, number: int) -> None:
        away = self._away.get(number)
        if away is None or away.link.node != letter.sender:
            if letter.kind not in (Kind.END, Kind.LOST):
                self.write(_Link(letter.sender, letter.guest), Kind.GONE)
            return
        if letter.kind is Kind.LOST or not away.link.is_next(letter):
            self._end_guest(away, ErrorCode.PEER_DISCONNECTED)
            return
        connection = away.connection
        match letter.kind:
            case Kind.TELL:
                connection.send(letter.text)
                connection.flush()
            case Kind.END:
                self._part(away)
                connection.close(letter.code)
                connection.flush()
            case Kind.HOLD:
                connection.hold_back(away.link.guest)
            case Kind.GO:
                connection.let_go(away.link.guest)
            case _:
                self._end_guest(away, ErrorCode.PEER_DISCONNECTED)

    def _take_from_guest(self, letter: Letter) -> None:
        key = (letter.sender, letter.guest)
        leg = self._legs.get(key)
        if leg is None:
            if letter.kind is Kind.ENTER and letter.number == 0:
                link = _Link(letter.sender, letter.guest, received=1)
                leg = self._legs[key] = Leg(self, self._relay.number(), link)
                self._relay.adopt(leg, letter.client)
                self._let_in(leg, letter.text)
            elif letter.kind is not Kind.GONE:
                self.write(_Link(letter.sender, letter.guest), Kind.LOST)
            return
        if letter.kind is Kind.GONE:
            self.forget(leg)
            return
        if not leg.link.is_next(letter):
            self._lose(leg)
            return
        match letter.kind:
            case Kind.FRAME:
                self._hand_on(leg, letter.text)
            case Kind.STALL | Kind.FLOW:
                leg.stalled(letter.kind is Kind.STALL)
            case _:
                self._lose(leg)

    def _let_in(self, leg: Leg, text: str) -> None:
        """A guest begins with what its relay was told that we have."""
        self._hand_on(leg, text)
        frame = wire.decode_from_device(text)
        if isinstance(frame, _Claim):
            self._settle(leg.number, frame)
        if not leg.is_over and not self._relay.hub.takes_part(leg.number):
            # It was told why. What it asks for next, its own relay decides with all others.
            leg.close(POLICY_VIOLATION)
            leg.flush()

    def _hand_on(self, leg: Leg, text: str) -> None:
        hub, now = self._relay.hub, self._relay.now()
        try:
            effects = hub.receive(leg.number, wire.decode_from_device(text), now)
        except BadFrame as error:
            effects = hub.refuse(leg.number, ErrorCode(error.relay_code), now)
        for touched in self._relay.perform(effects):
            if not leg.is_over:
                leg.hold_back_for(touched)

    def forget(self, leg: Leg) -> None:
        """A guest is gone, or was told its end."""
        if self._legs.pop((leg.link.node, leg.link.guest), None) is not None:
            leg.is_over = True
            leg.vanish()
            self._relay.dismiss(leg)

    def _lose(self, leg: Leg) -> None:
        """What a guest sent, or was told, is not known for sure."""
        self.write(leg.link, Kind.LOST)
        self.forget(leg)

    def _end_guest(self, away: _Away, why: ErrorCode) -> None:
        connection = away.connection
        self.write(away.link, Kind.GONE)
        self._part(away)
        connection.send(wire.encode(wire.RelayErrorFrame(why)))
        connection.close(POLICY_VIOLATION)
        connection.flush()

    def _part(self, away: _Away) -> None:
        """It is no guest any more, and its end can be heard."""
        del self._away[away.connection.number]
        away.connection.let_go(away.link.guest)

    def _expire(self, otc: str) -> None:
        self._relay.perform(self._relay.hub.expire(otc, self._relay.now()))

    async def _tell_again(self) -> None:
        hub = self._relay.hub
        for jti in hub.burned():
            self._state.tell(Burned(jti))
        for otc, client in hub.waiting():
            if isinstance(await self._state.listen(otc, client, again=True), Denied):
                self._expire(otc)
            self._tell_what_is_not_here(wire.Listen(otc))
        for jti in hub.watched():
            verdict = await self._state.watch(jti)
            if verdict == Denied(Rejection.ALREADY_WATCHED):
                # It is told by its end, and asks again.
                self._relay.perform(hub.lose_watcher(jti, self._relay.now()))
            self._tell_what_is_not_here(wire.BootstrapWatch(jti))

    def _start(
        self, work: Coroutine[None, None, None], connection: Connection | None = None
    ) -> None:
        """Do this meanwhile; a defect is told, and ends nothing but the connection it is for."""

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
