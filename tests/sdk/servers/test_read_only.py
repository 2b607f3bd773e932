"""Verifying writes nothing: it works in a directory that this process cannot write to.

Two ways to have one. A mount that is read-only, as a container or a ConfigMap gives it, in a mount
namespace of its own; where nobody may mount, modes alone. And modes, for a process that is bound
by them: root is not, unless it gives up the capabilities that say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.sdk.devices import Device
from tests.sdk.servers.processes import Program, asgi, call, running, wsgi

_READ_ONLY: Final = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
_MOUNTS: Final = [("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")]
_BOUND_BY_MODES: Final = "--bounding-set=-dac_override,-dac_read_search,-fowner"
_RUN: Final = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


@contextmanager
def means(kind: str, directory: Path) -> Iterator[tuple[str, ...]]:
    """What to write in front of a command that may only read the directory."""
    mounts = [(*mount, "sh", "-c", _READ_ONLY, str(directory)) for mount in _MOUNTS]
    mount = next((p for p in mounts if kind == "mount" and succeeds(*p, "true")), None)
    modes = ("setpriv", _BOUND_BY_MODES) if os.geteuid() == 0 else ("env",)
    with nullcontext() if mount else only_readable(directory):
        prefix = mount or modes
        assert succeeds(*prefix, "cat", str(directory / "identity.json"))
        for path in (directory / "identity.json", directory / "new", directory / "keys" / "new"):
            assert not succeeds(*prefix, "sh", "-c", 'echo >>"$0"', str(path)), "it can be written"
        yield prefix


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def behind(prefix: tuple[str, ...], program: Program) -> Program:
    return replace(program, arguments=("-c", _RUN, *prefix, sys.executable, *program.arguments))


@contextmanager
def only_readable(directory: Path) -> Iterator[None]:
    """Modes without any permission to write, for a while."""
    paths = [directory, *directory.rglob("*")]
    before = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(before[path] & 0o555)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(before[path])  # also of the list that has taken the place of the old one


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["mount", "modes"])
@pytest.mark.parametrize("program", [asgi("uvicorn"), wsgi("gunicorn")], ids=str)
@pytest.mark.usefixtures("trusted_again")
def test_a_directory_that_can_only_be_read(
    target: Device, controller: Device, kind: str, program: Program
) -> None:
    directory = target.home.directory
    before = contents(directory)
    with (
        means(kind, directory) as prefix,
        running(behind(prefix, program), directory) as server,
    ):
        assert call(server, "GET", "/echo/x", by=controller).status == 200
        assert call(server, "GET", "/echo/x").status == 400
        assert contents(directory) == before
        # Whoever may write, elsewhere, still decides who is let in.
        directory.chmod(0o700)
        (directory / ".lock").chmod(0o600)
        target.revoke(controller)
        assert call(server, "GET", "/echo/x", by=controller).status == 401
        assert "Traceback" not in server.log.text
