"""Codes, the sessions that grow from them, and who guesses at them (docs/protocol.md section 4).

A session is an object that its two connections hold; nobody finds it by its code once it
began. So what a stale socket sends reaches nobody, also when its code is in use again.
"""

from __future__ import annotations

from typing import Final

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode
from amesh_relay import limits
from amesh_relay.limits import Attempts, Limits, Tally, Timers
from amesh_relay.roles import (
    NORMAL_CLOSURE,
    Connection,
    Deliver,
    Effect,
    Freed,
    Hangup,
    Paired,
    Session,
    Spent,
    Waiting,
    error,
    finish,
)

# The bytes of a data frame around its payload, so that empty payloads are not free.
_DATA_FRAME_BYTES: Final = len(wire.encode(wire.Data("")))


class Codes:
    """Which codes wait, which are in use, and which were guessed at too often."""

    def __init__(self, settings: Limits) -> None:
        self.settings = settings
        self._places: Tally[bytes] = Tally()  # codes of each client, waiting or in use
        self._waiting: dict[str, Connection] = {}
        self._sessions: dict[str, Session] = {}
        self._wait: Timers[str] = Timers(limits.WAIT_SECONDS)
        self._idle: Timers[Session] = Timers(limits.IDLE_SECONDS)
        self._life: Timers[Session] = Timers(limits.LIFE_SECONDS)
        self._past: Timers[str] = Timers(limits.EXPIRED_CODE_SECONDS, limits.MAX_ROWS)
        self._guessers: Attempts[bytes] = Attempts(
            limits.FAILED_ATTEMPTS, limits.ADDRESS_WINDOW_SECONDS, limits.MAX_ROWS
        )
        self._guessed: Attempts[str] = Attempts(
            limits.FAILED_ATTEMPTS, limits.BURNED_CODE_SECONDS, limits.MAX_ROWS
        )

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sessions)

    def limited(self, client: bytes, now: float) -> bool:
        """Whether a client has used up its attempts for now."""
        return self._guessers.exhausted(client, now)

    def full(self) -> bool:
        """Whether there is room for no further code."""
        return len(self) >= self.settings.max_sessions

    def in_use(self, otc: str) -> bool:
        """Whether a code waits, or has a session."""
        return otc in self._waiting or otc in self._sessions

    def waiting(self) -> list[tuple[str, bytes]]:
        """The codes that wait, and whom each counts for."""
        return [(otc, target.client) for otc, target in self._waiting.items()]

    def expire(self, otc: str, now: float) -> list[Effect]:
        """A code that waits may not wait any longer."""
        if otc not in self._waiting:
            return []
        expired = finish(self._waiting[otc], wire.RelayErrorFrame(ErrorCode.OTC_EXPIRED))
        return [*expired, *self.stop_waiting(otc, now)]

    def listen(self, target: Connection, otc: str, now: float) -> list[Effect]:
        """A target wants to wait under `otc`."""
        if self.in_use(otc) or self._guessed.exhausted(otc, now):
            # Counted too: otherwise listening would be a free way to find codes in use.
            self._guessers.add(target.client, now)
            return error(target, ErrorCode.OTC_IN_USE)
        if not self._places.enter(target.client, self.settings.max_sessions_per_address):
            return error(target, ErrorCode.RELAY_CAPACITY)
        self._waiting[otc] = target
        self._wait.start(otc, now)
        target.role = Waiting(otc)
        return [Deliver(target.number, wire.Ack())]

    def connect(self, controller: Connection, otc: str, now: float) -> list[Effect]:
        """A controller looks for the target behind `otc`."""
        if otc in self._waiting:
            return self._pair(controller, otc, now)
        if otc in self._sessions:
            code = ErrorCode.PEER_ALREADY_CONNECTED
        elif self._past.running(otc, now) or self._guessed.exhausted(otc, now):
            code = ErrorCode.OTC_EXPIRED
        else:
            code = ErrorCode.OTC_NOT_FOUND
        self._guessers.add(controller.client, now)
        self._guessed.add(otc, now)
        return error(controller, code)

    def data(
        self, sender: Connection, session: Session, frame: wire.Data, now: float
    ) -> list[Effect]:
        """Hand on a frame, within the session's limit."""
        receiver = session.other(sender)
        session.bytes_left -= _DATA_FRAME_BYTES + len(frame.payload.encode())
        if session.bytes_left < 0:
            over = wire.RelayErrorFrame(ErrorCode.SESSION_DATA_LIMIT)
            return [*finish(sender, over), *finish(receiver, over), *self._end(session, now)]
        self._idle.start(session, now)
        return [Deliver(receiver.number, frame)]

    def done(self, sender: Connection, session: Session, now: float) -> list[Effect]:
        """One side says that the ceremony is over; it is, for both."""
        sender.role = Spent()
        return [
            *finish(session.other(sender), wire.Done()),
            Hangup(sender.number, NORMAL_CLOSURE),
            *self._end(session, now),
        ]

    def stop_waiting(self, otc: str, now: float) -> list[Effect]:
        """The target behind a code does not wait any longer."""
        self._places.leave(self._waiting.pop(otc).client)
        self._wait.stop(otc)
        self._past.start(otc, now)
        return [Freed(otc)]

    def abandon(self, leaver: Connection, session: Session, now: float) -> list[Effect]:
        """One side of a session is gone."""
        gone = wire.RelayErrorFrame(ErrorCode.PEER_DISCONNECTED)
        return [*finish(session.other(leaver), gone), *self._end(session, now)]

    def tick(self, now: float) -> list[Effect]:
        """End what ran out of time, and forget what no longer counts."""
        effects: list[Effect] = []
        expired = wire.RelayErrorFrame(ErrorCode.OTC_EXPIRED)
        for otc in self._wait.due(now):
            effects += self.expire(otc, now)
        # A session that ran out of both is met once: ending it stops the other timer.
        while late := self._idle.due(now) or self._life.due(now):
            for session in late:
                effects += self._end(session, now)
                effects += finish(session.target, expired) + finish(session.controller, expired)
        self._past.due(now)
        self._guessers.forget(now)
        self._guessed.forget(now)
        return effects

    def _pair(self, controller: Connection, otc: str, now: float) -> list[Effect]:
        target = self._waiting.pop(otc)
        self._wait.stop(otc)
        session = Session(otc, target, controller, limits.MAX_SESSION_BYTES)
        self._sessions[otc] = session
        self._idle.start(session, now)
        self._life.start(session, now)
        target.role = controller.role = Paired(session)
        return [
            Deliver(target.number, wire.PeerFound()),
            Deliver(controller.number, wire.PeerFound()),
        ]

    def _end(self, session: Session, now: float) -> list[Effect]:
        del self._sessions[session.otc]
        self._places.leave(session.target.client)
        self._idle.stop(session)
        self._life.stop(session)
        self._past.start(session.otc, now)
        return [Freed(session.otc)]
