"""Processes of our own that are watched line by line and never outlive their use."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Final

from amesh_core.errors import AmeshError

# Generous: a loaded machine still starts an interpreter in a fraction of this.
PATIENCE_SECONDS: Final = 20


class ActorFailed(AmeshError):
    """A process ended, or was silent, before it said what was waited for."""

    code = "process_failed"


class Actor:
    """A running `python ARGUMENTS...`; leaving the `with` block ends it."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.said = ""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in _pipe(self._process.stdout):
            self._lines.put(line)
        self._lines.put(None)

    def expect(self, pattern: str) -> str:
        """Wait for a line that matches; returns its first group, or the match.

        Raises:
            ActorFailed: the process ended or said nothing of the kind in time.
        """
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                line = None
            if line is None:
                raise ActorFailed(f"waited for {pattern!r}, but heard: {self.said.strip()}")
            self.said += line
            if found := re.search(pattern, line):
                return found[found.lastindex or 0]

    def write(self, text: str) -> None:
        """Type into the process."""
        stdin = _pipe(self._process.stdin)
        stdin.write(text)
        stdin.flush()

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        status = self._process.wait(timeout=PATIENCE_SECONDS)
        self._drain()
        return status

    def stop(self) -> None:
        """End the process, politely first."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain()

    def _drain(self) -> None:
        self._reader.join(timeout=PATIENCE_SECONDS)
        while not self._lines.empty():
            self.said += self._lines.get() or ""

    def __enter__(self) -> Actor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process was started without this pipe")
    return stream


def run(*arguments: str, env: Mapping[str, str]) -> tuple[int, str, str]:
    """Run `python ARGUMENTS...` to its end; returns exit status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS * 2,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
