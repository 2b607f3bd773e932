"""The memory nonce store: a million nonces, and how long one request may wait for it

Measured in a process of its own, so that what others left behind is not taken for ours.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from array import array
from pathlib import Path
from statistics import median
from time import thread_time_ns
from typing import Final

from amesh_core.nonces import MemoryNonceStore
from bench.report import Row

_MILLION: Final = 1_000_000
_MORE: Final = 200_000
_ALL: Final = _MILLION + 2 * _MORE
_DEVICES: Final = [f"am_device{number:07}" for number in range(8)]
_TTL_SECONDS: Final = 62
_STATM: Final = Path("/proc/self/statm")


def run() -> list[Row]:
    """The rows of this module."""
    child = [sys.executable, "-m", "bench.nonces"]
    done = subprocess.run(child, capture_output=True, check=True, text=True)
    found = json.loads(done.stdout)
    megabytes, stall = found["megabytes"], found["longest_milliseconds"]
    return [
        Row("a million nonces", f"{megabytes:.0f} MB", "< 120 MB", megabytes < 120),
        Row("the longest that one spend takes", f"{stall:.2f} ms", "< 5 ms", stall < 5),
        Row("a spend among a million", f"{found['median_microseconds']:.1f} us"),
    ]


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _measure() -> dict[str, float]:
    # Filled with zeros, so that they do not grow while the store does.
    runs = [array("q", [0]) * _ALL for _ in range(2)]
    grown = [_spend_all(took) for took in runs]
    # The store does the same in both runs. What made a call slow in one of them only was the
    # machine; what does it in both is ours.
    both = array("q", map(min, *runs))
    return {
        "megabytes": grown[0] / 1e6,
        "longest_milliseconds": max(both) / 1e6,
        "median_microseconds": median(both[_MILLION:]) / 1e3,
    }


def _spend_all(took: array[int]) -> int:
    """A million arrive within a minute, more while those expire, and more after a pause in
    which all have expired at once. The time of each goes to `took`, in nanoseconds on the
    processor; returned is by how many bytes the process has grown at a million.
    """
    clock = _Clock()
    store = MemoryNonceStore(clock=clock)
    before, grown = _resident_bytes(), 0
    for number in range(_ALL):
        clock.now += 60 / _MILLION
        if number == _MILLION:
            grown = _resident_bytes() - before
        if number == _MILLION + _MORE:
            clock.now += 1000
        nonce = f"{number:022}"
        begin = thread_time_ns()
        fresh = store.spend(_DEVICES[number % len(_DEVICES)], nonce, _TTL_SECONDS)
        took[number] = thread_time_ns() - begin
        if not fresh:
            raise RuntimeError("a new nonce was taken for a spent one")
    return grown


def _resident_bytes() -> int:
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and the peak


if __name__ == "__main__":
    print(json.dumps(_measure()))
