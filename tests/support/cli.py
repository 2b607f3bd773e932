"""Run the real commands: to their end, or at a terminal of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect

# Generous: two cores run the whole suite, and nothing here waits when all goes well.
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str


def environment(directory: Path, **more: str) -> dict[str, str]:
    """This process's environment without any amesh of its owner, living in `directory`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AMESH_", "AUTH_MESH_", "COVERAGE_"))
        and key not in ("CREDENTIALS_DIRECTORY", "NO_COLOR", "FORCE_COLOR")
    }
    ours = {
        "AUTH_MESH_DIR": str(directory),
        "AMESH_TPM_TCTI": "device:/dev/no-such-tpm",  # not the chip of whoever runs the tests
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    return kept | ours | more


def amesh(directory: Path, *arguments: str, stdin: str = "", **env: str) -> Done:
    """Run `amesh ARGUMENTS...` in `directory`, without a terminal, to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "amesh_cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(directory, **env),
        timeout=PATIENCE_SECONDS * 3,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def listed(directory: Path) -> dict[str, str]:
    """Device id -> role of everything on the allow list of `directory`."""
    devices: list[dict[str, Any]] = json.loads(amesh(directory, "list", "--json").out)["devices"]
    return {device["deviceId"]: device["role"] for device in devices}


class AtTerminal:
    """`amesh ARGUMENTS...` with a person at a terminal."""

    def __init__(self, directory: Path, *arguments: str, **env: str) -> None:
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "amesh_cli", *arguments],
            env=environment(directory, **env),
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            dimensions=(40, 100),
        )
        self.seen = ""

    @property
    def process_id(self) -> int:
        """Of the command."""
        assert self._child.pid is not None
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether there is no such process any more."""
        return not self._child.isalive()

    def sees(self, pattern: str) -> str:
        """Wait until the screen has it; returns the first group, or the match."""
        self._child.expect(pattern)
        self.seen += f"{self._child.before}{self._child.after}"
        found = self._child.match
        assert isinstance(found, re.Match)
        return str(found[found.lastindex or 0])

    def types(self, text: str) -> None:
        """Type a line."""
        self._child.sendline(text)

    def presses_ctrl_c(self) -> None:
        """Interrupt."""
        self._child.sendintr()

    def is_killed(self) -> None:
        """SIGKILL: nothing of it runs on, not even a handler."""
        self._child.kill(9)
        self._child.expect(pexpect.EOF)
        self._child.wait()

    def ends(self) -> int:
        """Wait for the end; returns the exit status."""
        self._child.expect(pexpect.EOF)
        self.seen += str(self._child.before)
        self._child.wait()
        return -1 if self._child.exitstatus is None else self._child.exitstatus
