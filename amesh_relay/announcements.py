"""Bootstrap frames: who watches a jti, who announces itself under it, which are used up.

docs/protocol.md sections 4 and 6. The relay cannot tell a good announcement from a bad
one; it only sees to it that nobody but the watching socket answers, and that a jti is
used up by that answer alone. Whoever watches hears of a used-up jti, too: only the
controller knows whether it is the same device again or a second one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import Rejection
from amesh_relay import limits
from amesh_relay.limits import Attempts, Limits, Timers
from amesh_relay.roles import (
    POLICY_VIOLATION,
    Announcing,
    Burned,
    Connection,
    Deliver,
    Effect,
    Hangup,
    Spent,
    Unwatched,
    Watching,
    reject,
)


@dataclass(slots=True)
class _Watch:
    """Who watches a jti, and the announcements it has not answered yet.

    An answer does not say which announcement it is for, so a controller answers each of
    them, in order; those that left meanwhile keep their place in the row.
    """

    watcher: Connection
    unanswered: deque[tuple[Connection, float]] = field(default_factory=deque)

    def forget(self, now: float) -> None:
        """Drop whom the watcher leaves unanswered, so the row never outgrows the init limit."""
        while self.unanswered and self.unanswered[0][1] + limits.ANSWER_SECONDS <= now:
            self.unanswered.popleft()


class Announcements:
    """The watches of all controllers, and the jtis that are used up."""

    def __init__(self, settings: Limits) -> None:
        self.settings = settings
        self._watches: dict[str, _Watch] = {}
        self._inits: Attempts[str] = Attempts(
            limits.INITS_PER_JTI, limits.INIT_WINDOW_SECONDS, limits.MAX_ROWS
        )
        self._burned: Timers[str] = Timers(limits.BURNED_JTI_SECONDS, limits.MAX_ROWS)

    def watch(self, watcher: Connection, mine: frozenset[str], jti: str) -> list[Effect]:
        """A controller, watching `mine` already, wants to hear of `jti`."""
        if jti in mine:
            return [Deliver(watcher.number, wire.BootstrapWatching(jti))]
        if jti in self._watches:
            return reject(watcher, jti, Rejection.ALREADY_WATCHED)
        full = len(self._watches) >= self.settings.max_sessions
        if full or len(mine) >= self.settings.max_watches:
            return reject(watcher, jti, Rejection.OVERLOADED)
        self._watches[jti] = _Watch(watcher)
        watcher.role = Watching(mine | {jti})
        return [Deliver(watcher.number, wire.BootstrapWatching(jti))]

    def announce(self, target: Connection, frame: wire.BootstrapInit, now: float) -> list[Effect]:
        """A target shows itself to the watcher of its jti, if there is one."""
        jti = frame.jti
        if self._inits.exhausted(jti, now):
            return self.refuse(target, jti, Rejection.OVERLOADED)
        self._inits.add(jti, now)
        watch = self._watches.get(jti)
        if watch is None:
            is_used = self._burned.running(jti, now)
            return self.refuse(
                target, jti, Rejection.ALREADY_USED if is_used else Rejection.NO_WATCHER
            )
        target.role = Announcing(jti)
        watch.forget(now)
        watch.unanswered.append((target, now))
        return [Deliver(watch.watcher.number, frame)]

    def refuse(self, target: Connection, jti: str, why: Rejection) -> list[Effect]:
        """An announcement gets nowhere; too many of them end their connection."""
        if why is Rejection.OVERLOADED:
            target.role = Spent()
            return [*reject(target, jti, why), Hangup(target.number, POLICY_VIOLATION)]
        # From now on it may try this token again, and no other.
        target.role = Announcing(jti)
        return reject(target, jti, why)

    def answer(self, frame: wire.BootstrapAcked | wire.BootstrapReject, now: float) -> list[Effect]:
        """The watcher of `frame.jti` answers the announcement that waits longest."""
        watch = self._watches[frame.jti]
        if not watch.unanswered:
            return []
        target, _ = watch.unanswered.popleft()
        effects: list[Effect] = []
        if isinstance(frame, wire.BootstrapAcked):
            # Only now: who merely knows a jti must not be able to use it up.
            self._burned.start(frame.jti, now)
            effects.append(Burned(frame.jti))
        if isinstance(target.role, Announcing):
            effects.append(Deliver(target.number, frame))
        return effects

    def burn(self, jti: str, age_seconds: float, now: float) -> None:
        """A jti was used up so long ago; to be told in the order in which it happened."""
        self._burned.start(jti, now - age_seconds)

    def burned(self) -> list[str]:
        """The jtis that are used up, the oldest first."""
        return list(self._burned)

    def is_watched(self, jti: str) -> bool:
        """Whether somebody watches a jti."""
        return jti in self._watches

    def watcher(self, jti: str) -> Connection | None:
        """Who watches a jti."""
        return self._watches[jti].watcher if jti in self._watches else None

    def watched(self) -> list[str]:
        """The jtis that somebody watches."""
        return list(self._watches)

    def stop_watching(self, jtis: frozenset[str]) -> list[Effect]:
        """A watcher is gone; so say those who still wait for its answer."""
        effects: list[Effect] = []
        for jti in jtis:
            for target, _ in self._watches.pop(jti).unanswered:
                if isinstance(target.role, Announcing):
                    effects += reject(target, jti, Rejection.NO_WATCHER)
            effects.append(Unwatched(jti))
        return effects

    def tick(self, now: float) -> None:
        """Forget what no longer counts."""
        self._inits.forget(now)
        self._burned.due(now)
