"""All that the relay decides, without a socket or a clock (docs/protocol.md section 4).

    effects = hub.tick(now)                          before anything else, and once a second
    effects = hub.connect(number, client, now)       a connection is there
    effects = hub.receive(number, frame, now)        it sent a frame
    effects = hub.refuse(number, code, now)          it sent something that is no frame
    effects = hub.disconnect(number, now)            it is gone

`receive` is the table of what each role (roles.py) may send; anything else ends its own
connection, and a session with it. Every table behind it is bounded by the number of
connections or by `limits.MAX_ROWS`.
"""

from __future__ import annotations

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay import limits
from amesh_relay.announcements import Announcements
from amesh_relay.codes import Codes
from amesh_relay.limits import Limits, Tally, Timers
from amesh_relay.roles import (
    GOING_AWAY,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Announcing,
    Connection,
    Deliver,
    Effect,
    Elsewhere,
    Fresh,
    Hangup,
    Paired,
    Spent,
    Waiting,
    Watching,
    error,
    finish,
    reject,
)


class Hub:
    """The state of one relay; a method for each kind of event, all of them pure."""

    def __init__(self, settings: Limits) -> None:
        self._connections: dict[int, Connection] = {}
        self._settings = settings
        self._places: Tally[bytes] = Tally()
        self._silent: Timers[Connection] = Timers(limits.SILENT_SECONDS)
        self._elsewhere: Timers[Connection] = Timers(limits.ELSEWHERE_SECONDS)
        self._codes = Codes(settings)
        self._announcements = Announcements(settings)

    @property
    def connections(self) -> int:
        """How many connections hold a place."""
        return self._places.total

    @property
    def sessions(self) -> int:
        """How many codes wait or are in use."""
        return len(self._codes)

    def set_limits(self, settings: Limits) -> None:
        """Other limits from now on; nobody who is inside has to go."""
        self._settings = self._codes.settings = self._announcements.settings = settings

    def connect(self, number: int, client: bytes, now: float) -> list[Effect]:
        """A connection of `client` (see addresses.client_of) was opened: find it a place."""
        connection = Connection(number, client)
        most = self._settings
        if not self._places.enter(client, most.max_connections_per_address, most.max_connections):
            # Without a place it is not kept: what it sends comes from nobody.
            refusal = error(connection, ErrorCode.TOO_MANY_CONNECTIONS)
            return [*refusal, Hangup(number, TRY_AGAIN_LATER)]
        self._connections[number] = connection
        self._silent.start(connection, now)
        return []

    def adopt(self, number: int, client: bytes) -> None:
        """A connection of another relay, which has a place there, takes part in something here."""
        self._connections[number] = Connection(number, client, is_guest=True)

    def send_elsewhere(self, number: int, now: float) -> None:
        """What a connection is here for is at another relay."""
        connection = self._connections[number]
        connection.role = Elsewhere()
        self._elsewhere.start(connection, now)

    def may_ask(self, number: int, frame: wire.DeviceFrame) -> bool:
        """Whether the frame names a code or a token that others share, and is in its place."""
        connection = self._connections.get(number)
        match connection and connection.role, frame:
            case Fresh(), wire.Listen() | wire.Connect() | wire.BootstrapInit():
                return True
            case Fresh() | Watching(), wire.BootstrapWatch():
                return True
            case Announcing(jti), wire.BootstrapInit():
                return frame.jti == jti
            case _:
                return False

    def knows(self, frame: wire.DeviceFrame) -> bool:
        """Whether the code that a frame names is in use here, or its token watched."""
        match frame:
            case wire.Listen(otc) | wire.Connect(otc):
                return self._codes.in_use(otc)
            case wire.BootstrapWatch(jti) | wire.BootstrapInit(jti):
                return self._announcements.is_watched(jti)
            case _:
                return False

    def is_paired(self, number: int) -> bool:
        """Whether a connection is one end of a session."""
        connection = self._connections.get(number)
        return connection is not None and isinstance(connection.role, Paired)

    def client_of(self, number: int) -> bytes:
        """Whom a connection counts for."""
        return self._connections[number].client

    def reject(
        self,
        number: int,
        frame: wire.BootstrapWatch | wire.BootstrapInit,
        why: Rejection,
        now: float,
    ) -> list[Effect]:
        """A token of it is refused by whoever shares tokens with us; see `announcements`."""
        connection = self._connections.get(number)
        if connection is None or isinstance(connection.role, Spent):
            return []
        if isinstance(frame, wire.BootstrapWatch):
            return reject(connection, frame.jti, why)
        self._silent.start(connection, now)
        return self._announcements.refuse(connection, frame.jti, why)

    def deny(self, number: int, code: ErrorCode, now: float) -> list[Effect]:
        """What it asked for is refused by whoever shares codes with us; it may ask again."""
        connection = self._connections.get(number)
        if connection is None or isinstance(connection.role, Spent):
            return []
        if code is ErrorCode.RATE_LIMITED:
            return self._refuse(connection, code, now)
        return error(connection, code)

    def burn(self, jti: str, age_seconds: float, now: float) -> None:
        """A jti was used up so long ago; to be told in the order in which it happened."""
        self._announcements.burn(jti, age_seconds, now)

    def burned(self) -> list[str]:
        """The jtis that were used up here."""
        return self._announcements.burned()

    def waiting(self) -> list[tuple[str, bytes]]:
        """The codes that wait here, and whom each counts for."""
        return self._codes.waiting()

    def watched(self) -> list[str]:
        """The tokens that are watched here."""
        return self._announcements.watched()

    def lose_watcher(self, jti: str, now: float) -> list[Effect]:
        """Another relay has the watcher of a token; ours has to ask again."""
        watcher = self._announcements.watcher(jti)
        if watcher is None:
            return []
        return [Hangup(watcher.number, TRY_AGAIN_LATER), *self._leave(watcher, now)]

    def expire(self, otc: str, now: float) -> list[Effect]:
        """A code that waits may not wait any longer."""
        return self._codes.expire(otc, now)

    def receive(self, number: int, frame: wire.DeviceFrame, now: float) -> list[Effect]:
        """A frame came in."""
        codes, announcements = self._codes, self._announcements
        connection = self._connections.get(number)
        if connection is None:
            return []
        match connection.role, frame:
            case Paired(session), wire.Data():  # first, as most frames are that
                return codes.data(connection, session, frame, now)
            case Spent() | Elsewhere(), _:
                return []
            case Fresh(), wire.Listen() | wire.Connect() if codes.limited(connection.client, now):
                # Before anything is looked up: who has no attempts left learns nothing.
                return self._refuse(connection, ErrorCode.RATE_LIMITED, now)
            case Fresh(), wire.Listen() if codes.full():
                return self._refuse(connection, ErrorCode.RELAY_CAPACITY, now)
            case Fresh(), wire.Listen(otc):
                return codes.listen(connection, otc, now)
            case Fresh(), wire.Connect(otc):
                return codes.connect(connection, otc, now)
            case Waiting(), wire.Done():
                freed = self._leave(connection, now)
                return [Hangup(connection.number, NORMAL_CLOSURE), *freed]
            case Paired(session), wire.Done():
                return codes.done(connection, session, now)
            case Fresh(), wire.BootstrapWatch(jti):
                return announcements.watch(connection, frozenset(), jti)
            case Watching(jtis), wire.BootstrapWatch(jti):
                return announcements.watch(connection, jtis, jti)
            case Watching(jtis), wire.BootstrapAck(jti, key, signature) if jti in jtis:
                return announcements.answer(wire.BootstrapAcked(jti, key, signature), now)
            case Watching(jtis), wire.BootstrapReject(jti) if jti in jtis:
                return announcements.answer(frame, now)
            case Fresh(), wire.BootstrapInit():
                self._silent.start(connection, now)
                return announcements.announce(connection, frame, now)
            case Announcing(jti), wire.BootstrapInit() if frame.jti == jti:
                self._silent.start(connection, now)
                return announcements.announce(connection, frame, now)
            case _:
                return self._refuse(connection, ErrorCode.INVALID_MESSAGE, now)

    def refuse(self, number: int, code: ErrorCode, now: float) -> list[Effect]:
        """A connection sent something that is no frame: end it, and nothing else."""
        connection = self._connections.get(number)
        if connection is None or isinstance(connection.role, Spent):
            return []
        return self._refuse(connection, code, now)

    def disconnect(self, number: int, now: float) -> list[Effect]:
        """A connection is gone."""
        connection = self._connections.pop(number, None)
        if connection is None:
            return []
        self._silent.stop(connection)
        self._elsewhere.stop(connection)
        if not connection.is_guest:
            self._places.leave(connection.client)
        return self._leave(connection, now)

    def drain(self, now: float) -> list[Effect]:
        """Send away all but the two ends of a session: what they wait for will not come here."""
        effects: list[Effect] = []
        for connection in self._connections.values():
            if not isinstance(connection.role, Paired | Elsewhere | Spent):
                effects += [Hangup(connection.number, GOING_AWAY)]
                effects += [e for e in self._leave(connection, now) if not isinstance(e, Deliver)]
        return effects

    def tick(self, now: float) -> list[Effect]:
        """End what ran out of time, and forget what no longer counts."""
        effects: list[Effect] = []
        for connection in self._silent.due(now):
            if isinstance(connection.role, Fresh | Announcing):
                self._leave(connection, now)
                effects.append(Hangup(connection.number, POLICY_VIOLATION))
        for connection in self._elsewhere.due(now):
            if isinstance(connection.role, Elsewhere):
                effects += finish(connection, wire.RelayErrorFrame(ErrorCode.OTC_EXPIRED))
        effects += self._codes.tick(now)
        self._announcements.tick(now)
        return effects

    def _refuse(self, connection: Connection, code: ErrorCode, now: float) -> list[Effect]:
        others = self._leave(connection, now)
        return [
            *error(connection, code),
            Hangup(connection.number, POLICY_VIOLATION),
            *others,
        ]

    def _leave(self, connection: Connection, now: float) -> list[Effect]:
        """Let go of all that a connection's role holds, and tell who depended on it."""
        role, connection.role = connection.role, Spent()
        match role:
            case Waiting(otc):
                return self._codes.stop_waiting(otc, now)
            case Paired(session):
                return self._codes.abandon(connection, session, now)
            case Watching(jtis):
                return self._announcements.stop_watching(jtis)
            case Fresh() | Announcing() | Elsewhere() | Spent():
                return []
