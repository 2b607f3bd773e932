"""Tests side by side in several processes, a few of which want the machine to themselves."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """A room for many at once, or for one alone; all of them know the same directory."""

    def __init__(self, directory: Path) -> None:
        self._gate, self._room = (
            os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("gate", "room")
        )

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn, and have it; not to be nested."""
        # One who waits for an empty room keeps the gate: nobody comes in before, again and again.
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Said rather than closed: a child that was forked has the same file open.
            fcntl.flock(self._room, fcntl.LOCK_UN)
