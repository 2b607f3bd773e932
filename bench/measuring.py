"""How two things are compared: in turn, in one run, on one core."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import thread_time
from typing import Final

_ROUNDS: Final = 61
CALLS: Final = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians of two calls that took turns: seconds each, and the ratio of their rates."""

    bare_seconds: float
    ours_seconds: float
    rate: float


def compare(
    bare: Callable[[], object],
    ours: Callable[[], object],
    *,
    before: Callable[[int], object] = int,
    rounds: int = _ROUNDS,
    calls: int = CALLS,
) -> Comparison:
    """Call both in turn; the median of the rounds is what counts."""
    times = in_turn(bare, ours, before=before, rounds=rounds, calls=calls)
    return Comparison(
        median(one for one, _ in times),
        median(other for _, other in times),
        median(one / other for one, other in times),
    )


def in_turn(
    *those: Callable[[], object],
    before: Callable[[int], object] = int,
    rounds: int = _ROUNDS,
    calls: int = CALLS,
) -> list[tuple[float, ...]]:
    """Call each of those in turn, in blocks of `calls`; for each round, the seconds of each.

    `before` makes ready, unmeasured, what the next block of each consumes.
    """
    times = []
    for _ in range(rounds + 1):
        before(calls)
        times.append(tuple(_seconds(one, calls) for one in those))
    return times[1:]  # the first warms up


def _seconds(call: Callable[[], object], calls: int) -> float:
    begin = thread_time()
    for _ in range(calls):
        call()
    return (thread_time() - begin) / calls


@contextmanager
def one_core(core: int | None = None) -> Iterator[None]:
    """Stay on one core, the last if none is named, where the system lets a process choose."""
    if sys.platform != "linux":
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores) if core is None else core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
