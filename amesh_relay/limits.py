"""How many, how often and how long; every table has a bound (docs/protocol.md section 4).

Nothing here reads a clock: `now` is a number of seconds that never runs backwards.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

WAIT_SECONDS: Final = 60.0  # a code waits for its controller
IDLE_SECONDS: Final = 120.0  # a person may be typing digits
LIFE_SECONDS: Final = 300.0  # a ceremony has five minutes in all
# Of a session at another relay, which ends it in time; unless nothing is heard of that any more.
ELSEWHERE_SECONDS: Final = LIFE_SECONDS + 10
MAX_SESSION_BYTES: Final = 5 * 1024 * 1024

FAILED_ATTEMPTS: Final = 5  # per address, and per code
ADDRESS_WINDOW_SECONDS: Final = 60.0
# A code that was guessed at is out of use for as long as a ceremony may take, so that who
# camps on one code until somebody listens with it only takes that code out of the draw.
BURNED_CODE_SECONDS: Final = LIFE_SECONDS
# How long a late controller is told "expired" instead of "not found".
EXPIRED_CODE_SECONDS: Final = LIFE_SECONDS

INITS_PER_JTI: Final = 10
INIT_WINDOW_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 60.0  # a controller answers an announcement without asking a person
BURNED_JTI_SECONDS: Final = 25 * 3600.0  # a token's longest life and an hour

# A socket that says nothing useful must not hold a place; as long as a code waits.
SILENT_SECONDS: Final = WAIT_SECONDS

# Rows of a table of failures, spent codes or burned jtis: at 200 to 400 bytes each, at
# most ~25 MB a table. When one is full the oldest row goes: to push a row out, an attacker
# needs as many other addresses, codes or tokens, with which he could as well go on directly.
MAX_ROWS: Final = 65536


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator may set; the rest of the limits belongs to the protocol."""

    max_connections: int = 10_000
    max_connections_per_address: int = 100
    max_sessions: int = 50_000
    max_sessions_per_address: int = 50
    max_watches: int = 1000  # of one connection
    max_messages_per_second: int = 100  # of one connection; more have to wait


class Attempts(Generic[K]):
    """Failures per key within a sliding window; holds at most `max_rows` keys."""

    def __init__(self, limit: int, window_seconds: float, max_rows: int = MAX_ROWS) -> None:
        self._limit = limit
        self._window_seconds = window_seconds
        self._max_rows = max_rows
        # The key that failed last is last, so what has run out is in front.
        self._moments: dict[K, tuple[float, ...]] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def exhausted(self, key: K, now: float) -> bool:
        """Whether `key` failed `limit` times within the window."""
        moments = self._moments.get(key, ())
        return len(moments) == self._limit and moments[0] + self._window_seconds > now

    def add(self, key: K, now: float) -> None:
        """Count one failure; only the newest `limit` of a key are kept."""
        moments = self._moments.pop(key, ())
        self._moments[key] = (*moments, now)[-self._limit :]
        self.forget(now)
        if len(self._moments) > self._max_rows:
            del self._moments[next(iter(self._moments))]

    def forget(self, now: float) -> None:
        """Drop what no longer counts."""
        while self._moments:
            key, moments = next(iter(self._moments.items()))
            if moments[-1] + self._window_seconds > now:
                return
            del self._moments[key]


class Timers(Generic[K]):
    """Keys that all run for the same time; holds at most `max_rows` of them when given."""

    def __init__(self, seconds: float, max_rows: int | None = None) -> None:
        self._seconds = seconds
        self._max_rows = max_rows
        # All run equally long, so the order of starting is the order of ending.
        self._ends: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[K]:
        return iter(self._ends)

    def start(self, key: K, now: float) -> None:
        """Let `key` run from now on, from the beginning if it ran already."""
        self._ends.pop(key, None)
        self._ends[key] = now + self._seconds
        if self._max_rows is not None and len(self._ends) > self._max_rows:
            del self._ends[next(iter(self._ends))]

    def stop(self, key: K) -> None:
        """Forget `key`, running or not."""
        self._ends.pop(key, None)

    def running(self, key: K, now: float) -> bool:
        """Whether `key` was started and its time is not over."""
        return self._ends.get(key, now) > now

    def due(self, now: float) -> list[K]:
        """Take out, oldest first, the keys whose time is over."""
        due: list[K] = []
        for key, end in self._ends.items():
            if end > now:
                break
            due.append(key)
        for key in due:
            del self._ends[key]
        return due


class Tally(Generic[K]):
    """How many are inside, per key and in all; a key with nobody inside takes no memory."""

    def __init__(self) -> None:
        self._counts: dict[K, int] = {}
        self.total = 0

    def enter(self, key: K, max_per_key: int, max_total: int | None = None) -> bool:
        """Take a place; False, and nothing taken, when the key or the house is full."""
        count = self._counts.get(key, 0)
        if count >= max_per_key or (max_total is not None and self.total >= max_total):
            return False
        self._counts[key] = count + 1
        self.total += 1
        return True

    def leave(self, key: K) -> None:
        """Give back a place that `enter` gave."""
        self.total -= 1
        if self._counts[key] == 1:
            del self._counts[key]
        else:
            self._counts[key] -= 1
