"""Which bootstrap tokens are used up, in a file, so that one relay knows it after a restart."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from amesh_core.errors import UsageError
from amesh_relay import limits

_BUSY_SECONDS: Final = 2.0


class BurnedFile:
    """A table of jtis and when each was used up, in Unix seconds; old ones are dropped."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it, readable for its owner alone.

        Raises:
            UsageError: it is no such file, or cannot be written.
        """
        try:
            # Before SQLite makes it with whatever the umask leaves.
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS burned (jti TEXT PRIMARY KEY, at REAL NOT NULL)"
            )
            self._database.execute("CREATE INDEX IF NOT EXISTS burned_at ON burned (at)")
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"--state sqlite:{path}: {error}") from None

    def load(self, now: float) -> list[tuple[str, float]]:
        """The jtis that are used up, the oldest first, and how many seconds ago each was."""
        self._forget(now)
        rows = self._database.execute("SELECT jti, at FROM burned ORDER BY at").fetchall()
        # A clock that was set back must not make one count for longer than it may.
        return [(jti, max(0.0, now - at)) for jti, at in rows]

    def add(self, jti: str, now: float) -> None:
        """One is used up; it is on the disk when this returns.

        Raises:
            sqlite3.Error: it could not be written.
        """
        self._forget(now)
        self._database.execute("INSERT OR REPLACE INTO burned VALUES (?, ?)", (jti, now))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _forget(self, now: float) -> None:
        self._database.execute(
            "DELETE FROM burned WHERE at < ?", (now - limits.BURNED_JTI_SECONDS,)
        )
