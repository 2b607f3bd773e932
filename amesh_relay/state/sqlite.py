"""Which bootstrap tokens are used up, in a file, so that one relay knows it after a restart."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from amesh_core.errors import UsageError
from amesh_relay import limits

log: Final = logging.getLogger("amesh.relay")

_BUSY_SECONDS: Final = 2.0
_FORGET_EVERY: Final = 100  # rows; to look costs as much as to write some of them
# With a journal of its own beside it, a row costs some 30 us and survives the end of this process,
# however that comes. Waiting for the disk as well would stop all devices for some milliseconds,
# as often as strangers like; the last rows are lost when the power is.
_SET_UP: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS burned (jti TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS burned_at ON burned (at);
"""


class BurnedFile:
    """A table of jtis and when each was used up, in Unix seconds; about the newest `max_rows`."""

    def __init__(self, path: Path, max_rows: int = limits.MAX_ROWS) -> None:
        """Open it, or make it, readable for its owner alone.

        Raises:
            UsageError: it is no such file, or cannot be written.
        """
        self._max_rows = max_rows
        self._added = 0
        self._where = f"--state sqlite:{path}"
        try:
            # Before SQLite makes it with whatever the umask leaves.
            path.touch(mode=0o600)
            with ExitStack() as undo:
                self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
                undo.callback(self._database.close)
                self._database.executescript(_SET_UP)
                undo.pop_all()
        except OSError as error:
            raise UsageError(f"{self._where}: {(error.strerror or str(error)).lower()}") from None
        except sqlite3.Error as error:
            raise UsageError(f"{self._where}: {error}") from None

    def load(self, now: float) -> list[tuple[str, float]]:
        """The jtis that are used up, the oldest first, and how many seconds ago each was.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            self._forget(now)
            rows = self._database.execute("SELECT jti, at FROM burned ORDER BY at").fetchall()
        except sqlite3.Error as error:
            raise UsageError(f"{self._where}: {error}") from None
        # A clock that was set back must not make one count for longer than it may.
        return [(jti, max(0.0, now - at)) for jti, at in rows]

    def add(self, jti: str, now: float) -> None:
        """One is used up; that it cannot be written is logged, and ends no pairing."""
        try:
            self._database.execute("INSERT OR REPLACE INTO burned VALUES (?, ?)", (jti, now))
            self._added += 1
            if self._added % _FORGET_EVERY == 0:
                self._forget(now)
        except sqlite3.Error as error:
            # This process remembers it, and its controller does.
            log.error("a used token could not be written down: %s", error)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _forget(self, now: float) -> None:
        run = self._database.execute
        run("DELETE FROM burned WHERE at < ?", (now - limits.BURNED_JTI_SECONDS,))
        # Strangers can use up tokens of their own; as in memory, the oldest goes.
        run(
            "DELETE FROM burned"
            " WHERE at <= (SELECT at FROM burned ORDER BY at DESC LIMIT 1 OFFSET ?)",
            (self._max_rows,),
        )
