"""A session whose two ends are connected to different relays.

The relay that has the target of a code, or the watcher of a token, is its home: its hub decides
about the session, alone. The connection of the other end is a guest there: its own relay hands on
what it sends and writes what comes back. Between relays go letters, of these kinds:

    from the guest's relay     enter(frame, client)  frame(text)  gone  stall  flow
    from the home              tell(text)  end(code)  hold  go

Letters about a guest are numbered. One that is missing, a relay that died, or a shared state that
is away ends the guest on both sides, as a lost connection does. Sessions with both ends at one
relay need no letters and go on.
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
from amesh_relay.roles import POLICY_VIOLATION, Effect, Freed, Unwatched
from amesh_relay.state import Denied, Granted, Letter, SharedState, Unknown, Verdict

if TYPE_CHECKING:
    from amesh_relay.server import Relay

log: Final = logging.getLogger("amesh.relay")

_Claim = wire.Listen | wire.Connect | wire.BootstrapWatch | wire.BootstrapInit
_Kept = wire.Listen | wire.BootstrapWatch
# What one connection may have waiting while it is decided about; it is not read from meanwhile,
# so these are frames that came together with the first.
_MAX_WAITING: Final = 1000


@dataclass(slots=True)
class _Link:
    """Letters about one guest: whom they are exchanged with, and how many so far."""

    node: str
    guest: str
    sent: int = 0
    received: int = 0


class Leg(Flow):
    """A guest, as the home's hub sees it: something to send to, like a connection."""

    def __init__(self, cluster: Cluster, number: int, link: _Link) -> None:
        super().__init__()
        self.number = number
        self.link = link
        self._cluster = cluster

    def send(self, text: str) -> None:
        """Send it a message."""
        self._cluster.write(self.link, "tell", text=text)

    def close(self, code: int) -> None:
        """Begin its end, after what was sent before."""
        self._cluster.write(self.link, "end", code=code)

    def flush(self) -> None:
        """Letters leave by themselves."""

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
        self._cluster.write(self.link, "hold")

    def _read_on(self) -> None:
        self._cluster.write(self.link, "go")


@dataclass(slots=True)
class _Away:
    """A connection of ours that is a guest elsewhere."""

    connection: Connection
    link: _Link


@dataclass(slots=True)
class _Asking:
    """A connection that is being decided about, and what it sent meanwhile."""

    task: asyncio.Task[None]
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

    @property
    def guests_elsewhere(self) -> int:
        """How many connections of ours are guests elsewhere."""
        return len(self._away)

    # --- what the relay tells -----------------------------------------------------------

    def takes(self, connection: Connection, message: str | bytes) -> bool:
        """Whether a message is not for our hub, or not yet."""
        number = connection.number
        if (asking := self._asking.get(number)) is not None:
            if len(asking.waiting) < _MAX_WAITING:
                asking.waiting.append(message)
            else:
                connection.close(POLICY_VIOLATION)
            return True
        if (away := self._away.get(number)) is not None:
            if isinstance(message, str):
                self.write(away.link, "frame", text=message)
            else:
                self._end_guest(away, ErrorCode.INVALID_MESSAGE)
            return True
        return False

    def asks(self, connection: Connection, frame: wire.DeviceFrame) -> bool:
        """Whether a frame names something that is shared; then all relays are asked first."""
        if not isinstance(frame, _Claim) or not self._relay.hub.may_ask(connection.number, frame):
            return False
        # Nothing more from it until that is decided.
        connection.hold_back(self)
        self._asking[connection.number] = _Asking(self._start(self._decide(connection, frame)))
        return True

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """A connection of ours does not read, or does again."""
        if (away := self._away.get(connection.number)) is not None:
            self.write(away.link, "stall" if is_stalled else "flow")

    def left(self, number: int) -> None:
        """A connection of ours is gone."""
        self._asking.pop(number, None)
        if (away := self._away.pop(number, None)) is not None:
            self.write(away.link, "gone")

    def write(self, link: _Link, kind: str, *, text: str = "", code: int = 0) -> None:
        """Write a letter about a guest."""
        letter = Letter(self._state.node, link.guest, link.sent, kind, text, b"", code)
        link.sent += 1
        self._state.send(link.node, letter)

    # --- deciding together --------------------------------------------------------------

    async def _decide(self, connection: Connection, frame: _Claim) -> None:
        number = connection.number
        client = self._relay.hub.client_of(number)
        match frame:
            case wire.Listen(otc):
                verdict = await self._state.listen(otc, client)
            case wire.Connect(otc):
                verdict = await self._state.connect(otc, client)
            case wire.BootstrapWatch(jti):
                verdict = await self._state.watch(jti)
            case wire.BootstrapInit(jti):
                verdict = await self._state.announce(jti)
        asking = self._asking.pop(number, None)
        if asking is None:
            self._give_back(frame, verdict)
            return
        self._carry_out(connection, frame, client, verdict)
        # In their order, each as if it had come now; one of them may ask again.
        while asking.waiting and number not in self._asking:
            message = asking.waiting.popleft()
            if not self.takes(connection, message):
                self._relay.decide(connection, message)
        if number in self._asking:
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
                effects = hub.receive(number, frame, now)
                if isinstance(frame, _Kept) and not hub.holds(number, frame):
                    self._give_back(frame, verdict)  # a limit of our own was in the way
            case Granted(node), wire.Connect() | wire.BootstrapInit():
                hub.send_elsewhere(number)
                link = _Link(node, f"{self._state.node}/{number}")
                self._away[number] = _Away(connection, link)
                text = wire.encode(frame)
                letter = Letter(self._state.node, link.guest, 0, "enter", text, client)
                link.sent = 1
                self._state.send(node, letter)
            case Denied(ErrorCode() as why), _:
                effects = hub.deny(number, why, now)
            case Denied(Rejection() as why), wire.BootstrapWatch(jti) | wire.BootstrapInit(jti):
                effects = hub.reject(number, jti, why)
            case Unknown(), wire.BootstrapWatch(jti) | wire.BootstrapInit(jti):
                effects = hub.reject(number, jti, Rejection.OVERLOADED)
            case _:
                effects = hub.deny(number, ErrorCode.RELAY_CAPACITY, now)
        self._relay.perform(effects)

    def _give_back(self, frame: _Claim, verdict: Verdict) -> None:
        """Who asked has left meanwhile."""
        match verdict, frame:
            case Granted(), wire.Listen(otc):
                self._state.tell(Freed(otc))
            case Granted(), wire.BootstrapWatch(jti):
                self._state.tell(Unwatched(jti))
            case Granted(node), wire.Connect(otc) if node == self._state.node:
                self._expire(otc)
            case Granted(node), wire.Connect(otc):
                link = _Link(node, f"{self._state.node}/-")
                self.write(link, "expire", text=otc)
            case _:
                pass

    # --- what a shared state brings (state.Mailbox) -------------------------------------

    def take(self, letter: Letter) -> None:
        """A letter from another relay: about a guest here, or about ours there."""
        if letter.kind == "expire":
            self._expire(letter.text)
        elif letter.guest.startswith(f"{self._state.node}/"):
            self._take_from_home(letter)
        else:
            self._take_from_guest(letter)

    def lost(self) -> None:
        """Nothing that depends on other relays can be relied on."""
        for node in self.correspondents():
            self.died(node)

    def found(self) -> None:
        """Tell again what is here: a Redis that was started anew knows nothing."""
        self._start(self._tell_again())

    def died(self, node: str) -> None:
        """A relay is not there any more: nor are its guests, nor its sessions."""
        for away in [a for a in self._away.values() if a.link.node == node]:
            self._end_guest(away, ErrorCode.PEER_DISCONNECTED)
        for leg in [leg for leg in self._legs.values() if leg.link.node == node]:
            self._forget(leg)

    def correspondents(self) -> frozenset[str]:
        """The relays that letters are exchanged with."""
        links = [away.link for away in self._away.values()]
        links += [leg.link for leg in self._legs.values()]
        return frozenset(link.node for link in links)

    # --- inside -------------------------------------------------------------------------

    def _take_from_home(self, letter: Letter) -> None:
        away = self._away.get(int(letter.guest.rpartition("/")[2]))
        if away is None or away.link.node != letter.sender:
            return
        if letter.number != away.link.received:
            self._end_guest(away, ErrorCode.PEER_DISCONNECTED)
            return
        away.link.received += 1
        connection = away.connection
        match letter.kind:
            case "tell":
                connection.send(letter.text)
                connection.flush()
            case "end":
                connection.close(letter.code)
                connection.flush()
            case "hold":
                connection.hold_back(away.link.guest)
            case "go":
                connection.let_go(away.link.guest)

    def _take_from_guest(self, letter: Letter) -> None:
        key = (letter.sender, letter.guest)
        leg = self._legs.get(key)
        if letter.kind == "enter" and leg is None and letter.number == 0:
            link = _Link(letter.sender, letter.guest, received=1)
            leg = self._legs[key] = Leg(self, self._relay.number(), link)
            self._relay.adopt(leg, letter.client)
            self._hand_on(leg, letter.text)
            return
        if leg is None:
            return
        if letter.number != leg.link.received:
            self._forget(leg)
            return
        leg.link.received += 1
        match letter.kind:
            case "frame":
                self._hand_on(leg, letter.text)
            case "stall" | "flow":
                leg.stalled(letter.kind == "stall")
            case "gone":
                self._forget(leg)

    def _hand_on(self, leg: Leg, text: str) -> None:
        hub, now = self._relay.hub, self._relay.now()
        try:
            effects = hub.receive(leg.number, wire.decode_from_device(text), now)
        except BadFrame as error:
            effects = hub.refuse(leg.number, ErrorCode(error.relay_code), now)
        for touched in self._relay.perform(effects):
            leg.hold_back_for(touched)

    def _forget(self, leg: Leg) -> None:
        del self._legs[leg.link.node, leg.link.guest]
        self._relay.dismiss(leg)
        leg.vanish()

    def _end_guest(self, away: _Away, why: ErrorCode) -> None:
        connection = away.connection
        connection.send(wire.encode(wire.RelayErrorFrame(why)))
        connection.close(POLICY_VIOLATION)
        connection.flush()

    def _expire(self, otc: str) -> None:
        self._relay.perform(self._relay.hub.expire(otc, self._relay.now()))

    async def _tell_again(self) -> None:
        for otc, client in self._relay.hub.waiting():
            if isinstance(await self._state.listen(otc, client, again=True), Denied):
                self._expire(otc)
        for jti in self._relay.hub.watched():
            await self._state.watch(jti)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
