"""Sessions whose two ends are connected to different relays, and the letters between these.

The relay that has the target of a code, or the watcher of a token, is its home: its hub decides
about the session, alone. The connection of the other end is a guest there: its own relay hands on
what it sends and writes what comes back. Letters are of these kinds:

    from the guest's relay     enter(frame, client)  frame(text)  gone  stall  flow
    from the home              tell(text)  end(text, code)  hold  go  lost
    about a code               expire(otc): its controller left before it got there

Letters about a guest are numbered. One that is missing, a relay that died, or a shared state that
is away ends the guest on both sides, as a lost connection does: who finds out says so with `gone`
or `lost`, and so does who gets a letter about a guest that it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from amesh_core.errors import BadFrame
from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode
from amesh_relay.connection import Connection
from amesh_relay.flow import Flow
from amesh_relay.roles import CLOSE_CODES, POLICY_VIOLATION, Effect, Freed, Unwatched
from amesh_relay.state import Kind, Letter, SharedState

if TYPE_CHECKING:
    from amesh_relay.server import Relay

Visit = wire.Connect | wire.BootstrapInit
Claim = wire.Listen | wire.BootstrapWatch | Visit
_NOBODY: Final = "-"


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

    __slots__ = ("_guests", "_unsaid", "is_over", "link", "number")

    def __init__(self, guests: Guests, number: int, link: _Link) -> None:
        super().__init__()
        self.number = number
        self.link = link
        self.is_over = False  # nothing more is said to it
        self._guests = guests
        self._unsaid = ""  # the last message, which may be the last of all

    def send(self, text: str) -> None:
        """Send it a message, at the next `flush`."""
        self._say()
        self._unsaid = text

    def close(self, code: int) -> None:
        """Begin its end, after what was sent before."""
        self._guests.write(self.link, Kind.END, text=self._unsaid, code=code)
        self._unsaid = ""
        self.is_over = True

    def flush(self) -> None:
        """Letters leave by themselves; after the last there is nothing to wait for."""
        self._say()
        if self.is_over:
            self._guests.forget(self)

    def _say(self) -> None:
        if self._unsaid:
            self._guests.write(self.link, Kind.TELL, text=self._unsaid)
            self._unsaid = ""

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
        self._guests.write(self.link, Kind.HOLD)

    def _read_on(self) -> None:
        self._guests.write(self.link, Kind.GO)


@dataclass(slots=True)
class _Away:
    """A connection of ours that is a guest elsewhere."""

    connection: Connection
    link: _Link


class Guests:
    """The guests of one relay, and its connections that are guests elsewhere."""

    def __init__(self, relay: Relay, state: SharedState) -> None:
        self._relay = relay
        self._state = state
        self._away: dict[int, _Away] = {}
        self._legs: dict[tuple[str, str], Leg] = {}

    @property
    def elsewhere(self) -> int:
        """How many connections of ours are guests elsewhere."""
        return len(self._away)

    @property
    def correspondents(self) -> frozenset[str]:
        """The relays that letters are exchanged with."""
        links = [away.link for away in self._away.values()]
        links += [leg.link for leg in self._legs.values()]
        return frozenset(link.node for link in links)

    # --- ours elsewhere -----------------------------------------------------------------

    def send_there(self, connection: Connection, node: str, frame: Visit, client: bytes) -> None:
        """A connection of ours begins to be a guest."""
        link = _Link(node, f"{self._state.node}/{connection.number}")
        self._away[connection.number] = _Away(connection, link)
        self.write(link, Kind.ENTER, text=wire.encode(frame), client=client)

    def hand_over(self, connection: Connection, message: str | bytes) -> bool:
        """Whether a connection is a guest elsewhere; then that is where its message goes."""
        away = self._away.get(connection.number)
        if away is None:
            return False
        if isinstance(message, str):
            self.write(away.link, Kind.FRAME, text=message)
        else:
            self._end(away, ErrorCode.INVALID_MESSAGE)
        return True

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """A connection of ours does not read, or does again."""
        if (away := self._away.get(connection.number)) is not None:
            self.write(away.link, Kind.STALL if is_stalled else Kind.FLOW)

    def left(self, number: int) -> None:
        """A connection of ours is gone."""
        if (away := self._away.pop(number, None)) is not None:
            self.write(away.link, Kind.GONE)

    # --- both ---------------------------------------------------------------------------

    def take(self, letter: Letter) -> None:
        """A letter from another relay: about a guest here, or about ours there."""
        node, _, number = letter.guest.partition("/")
        if letter.kind is Kind.EXPIRE:
            self.expire(letter.text)
        elif node == self._state.node and number.isdecimal():
            self._take_from_home(letter, int(number))
        else:
            self._take_from_guest(letter)

    def died(self, node: str) -> None:
        """A relay is not there any more: nor are its guests, nor its sessions."""
        for away in [away for away in self._away.values() if away.link.node == node]:
            self._end(away, ErrorCode.PEER_DISCONNECTED)
        for leg in [leg for leg in self._legs.values() if leg.link.node == node]:
            self._lose(leg)

    def write(
        self, link: _Link, kind: Kind, *, text: str = "", client: bytes = b"", code: int = 0
    ) -> None:
        """Write a letter about a guest."""
        letter = Letter(self._state.node, link.guest, link.sent, kind, text, client, code)
        link.sent += 1
        self._state.send(link.node, letter)

    # --- what we were said to have ------------------------------------------------------

    def settle(self, number: int, frame: Claim) -> None:
        """Our hub has decided about what others are told is here; perhaps it is not any more."""
        if isinstance(frame, wire.Connect) and not self._relay.hub.is_paired(number):
            # For the others that code is spent, so nobody else comes.
            self.expire(frame.otc)
        self.disclaim(frame)

    def disclaim(self, frame: Claim) -> None:
        """Unless we have the code or token of a frame, others need not think so."""
        if self._relay.hub.knows(frame):
            return
        match frame:
            case wire.Listen(otc) | wire.Connect(otc):
                self._state.tell(Freed(otc))
            case wire.BootstrapWatch(jti) | wire.BootstrapInit(jti):
                self._state.tell(Unwatched(jti))

    def expire_there(self, node: str, otc: str) -> None:
        """The controller of a code that waits there has left."""
        self.write(_Link(node, _NOBODY), Kind.EXPIRE, text=otc)

    def expire(self, otc: str) -> None:
        """A code that waits here may not wait any longer."""
        self._relay.perform(self._relay.hub.expire(otc, self._relay.now()))

    # --- inside -------------------------------------------------------------------------

    def _take_from_home(self, letter: Letter, number: int) -> None:
        away = self._away.get(number)
        if away is None or away.link.node != letter.sender:
            if letter.kind not in (Kind.END, Kind.LOST):
                self.write(_Link(letter.sender, letter.guest), Kind.GONE)
            return
        if not away.link.is_next(letter):
            self._end(away, ErrorCode.PEER_DISCONNECTED)
            return
        connection = away.connection
        match letter.kind:
            case Kind.TELL:
                connection.send(letter.text)
                connection.flush()
            case Kind.END:
                self._part(away)
                if letter.text:
                    connection.send(letter.text)
                code = letter.code if letter.code in CLOSE_CODES else POLICY_VIOLATION
                connection.close(code)
                connection.flush()
            case Kind.HOLD:
                connection.hold_back(away.link.guest)
            case Kind.GO:
                connection.let_go(away.link.guest)
            case _:
                self._end(away, ErrorCode.PEER_DISCONNECTED)

    def _take_from_guest(self, letter: Letter) -> None:
        leg = self._legs.get((letter.sender, letter.guest))
        if leg is None:
            if letter.kind is Kind.ENTER and letter.number == 0:
                self._let_in(letter)
            elif letter.kind not in (Kind.GONE, Kind.LOST):
                self.write(_Link(letter.sender, letter.guest), Kind.LOST)
        elif letter.kind is Kind.GONE:
            self.forget(leg)
        elif not leg.link.is_next(letter):
            self._lose(leg)
        elif letter.kind is Kind.FRAME:
            self._hand_on(leg, letter.text)
        elif letter.kind in (Kind.STALL, Kind.FLOW):
            leg.stalled(letter.kind is Kind.STALL)
        else:
            self._lose(leg)

    def _let_in(self, letter: Letter) -> None:
        """A guest begins with what its relay was told that we have."""
        link = _Link(letter.sender, letter.guest, received=1)
        leg = self._legs[link.node, link.guest] = Leg(self, self._relay.number(), link)
        self._relay.adopt(leg, letter.client)
        hub = self._relay.hub
        try:
            frame = wire.decode_from_device(letter.text)
        except BadFrame:
            frame = wire.Done()
        if not isinstance(frame, Visit):
            self._lose(leg)
            return
        self._perform(leg, hub.receive(leg.number, frame, self._relay.now()))
        self.settle(leg.number, frame)
        is_known = isinstance(frame, wire.BootstrapInit) and hub.knows(frame)
        if not (leg.is_over or is_known or hub.is_paired(leg.number)):
            # It was told why. What it tries next, its own relay decides, together with all.
            leg.close(POLICY_VIOLATION)
            leg.flush()

    def _hand_on(self, leg: Leg, text: str) -> None:
        hub, now = self._relay.hub, self._relay.now()
        try:
            effects = hub.receive(leg.number, wire.decode_from_device(text), now)
        except BadFrame as error:
            effects = hub.refuse(leg.number, ErrorCode(error.relay_code), now)
        self._perform(leg, effects)

    def _perform(self, leg: Leg, effects: list[Effect]) -> None:
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

    def _end(self, away: _Away, why: ErrorCode) -> None:
        connection = away.connection
        self.write(away.link, Kind.GONE)
        self._part(away)
        connection.send(wire.encode(wire.RelayErrorFrame(why)))
        connection.close(POLICY_VIOLATION)
        connection.flush()

    def _part(self, away: _Away) -> None:
        """It is no guest any more; that its end is agreed to must be read."""
        del self._away[away.connection.number]
        away.connection.let_go(away.link.guest)
