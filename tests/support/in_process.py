"""The commands in this process: the whole way from the words to the exit status, in milliseconds.

For tables of words; what depends on a process or a terminal is in `tests.support.cli`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Protocol

import pytest

from amesh_cli.app import main
from tests.support.cli import Done


class Run(Protocol):
    """`amesh ARGUMENTS...` in a directory, without a terminal."""

    def __call__(self, directory: Path, *arguments: str, stdin: str = "") -> Done: ...


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a fixture of these two gives its tests."""
    for name in ("AMESH_RELAY_URL", "AUTH_MESH_PASSPHRASE", "AMESH_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def run(directory: Path, *arguments: str, stdin: str = "") -> Done:
        monkeypatch.setenv("AUTH_MESH_DIR", str(directory))
        monkeypatch.setattr(sys, "argv", ["amesh", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run
