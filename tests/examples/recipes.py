"""The recipes of `examples/` as a reader of their READMEs would run them.

Everything is done in a copy in which only the ports are others, so that nothing is in the way
of anything. Commands are never written here: they are found in the READMEs by a part of them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.sdk.devices import Device
from tests.sdk.servers.processes import Answer, Log, Running, call, wait_until_it_listens
from tests.support.asgi import Served
from tests.support.cli import PATIENCE_SECONDS, Done, environment
from tests.support.ports import free_port

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = sorted(readme.parent.name for readme in ROOT.glob("examples/*/README.md"))

_PORT: Final = re.compile(r"(?:localhost:|127\.0\.0\.1:|--port |listen |port )([1-9][0-9]{3,4})\b")
# Where `amesh`, `python` and the servers are that a reader has installed; nginx on Debian.
PATH: Final = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])


def copy_examples(to: Path, *, ports: bool = True) -> Path:
    """All of `examples/` under `to`, with a free port in place of each that it names."""
    copy = to / "examples"
    shutil.copytree(
        ROOT / "examples",
        copy,
        ignore=shutil.ignore_patterns("__pycache__", "devices", "appendonlydir", "nginx.*mp"),
    )
    if ports:
        files = [path for path in copy.rglob("*") if path.is_file()]
        named = sorted({port for path in files for port in _PORT.findall(path.read_text())})
        free = {port: str(free_port()) for port in named}
        for path in files:
            text = re.sub(
                rf"\b({'|'.join(named)})\b", lambda found: free[found[1]], path.read_text()
            )
            path.write_text(text)
    return copy


@dataclass
class Readme:
    """What a README tells its reader to type and to open; remembers what was."""

    path: Path
    left: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.path.read_text(encoding="utf-8")
        blocks: list[str] = re.findall(
            r"^```console\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE
        )
        lines = [line for block in blocks for line in block.splitlines()]
        assert all(line.startswith("$ ") for line in lines)
        commands = [line.removeprefix("$ ") for line in lines]
        self.installs = [line for line in commands if line.startswith("pip install ")]
        self.commands = [line for line in commands if line not in self.installs]
        self.left = list(self.commands)

    def command(self, part: str) -> str:
        """The one command that has this in it."""
        (found,) = [line for line in self.commands if part in line]
        if found in self.left:
            self.left.remove(found)
        return found

    def url(self, part: str) -> str:
        """The one URL in the prose that has this in it."""
        urls: list[str] = re.findall(r"`(http://[^`]+)`", self.text)
        (found,) = {url for url in urls if part in url}
        return found


@dataclass(frozen=True)
class Recipe:
    """One folder, and the terminals in which its commands are typed."""

    examples: Path
    name: str
    readme: Readme

    @property
    def folder(self) -> Path:
        """Where its commands are typed."""
        return self.examples / self.name

    def run(self, part: str, *, on: str | None = None, **env: str) -> Done:
        """Type a command, in a terminal of that device, and wait for its end."""
        done = subprocess.run(
            ["sh", "-c", self._typed(part, on)],
            cwd=self.examples,
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS * 3,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def serving(self, part: str, *, on: str | None = None, port: int = 0) -> Iterator[Running]:
        """Type the command of a server; its port is in the command, if not given."""
        typed = self._typed(part, on)
        port = port or int(_PORT.findall(typed)[-1])
        process = subprocess.Popen(
            ["sh", "-c", typed],
            cwd=self.examples,
            env=self._environment({"PYTHONUNBUFFERED": "1"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        log = Log()
        reader = threading.Thread(target=log.drain, args=[process])
        reader.start()
        try:
            try:
                wait_until_it_listens(port, process)
            except AssertionError as error:
                raise AssertionError(f"{typed!r}:\n{log.text}") from error
            yield Running("127.0.0.1", port, log, process)
        finally:
            _stop(process, reader)

    def _typed(self, part: str, on: str | None) -> str:
        first = []
        if on is not None:  # as examples/README.md has it, before changing into the folder
            first = [Readme(self.examples / "README.md").command(f"export AUTH_MESH_DIR=$PWD/{on}")]
        return "\n".join([*first, f"cd {self.name or '.'}", self.readme.command(part)])

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        # No identity but the one that a command or a terminal names.
        clean = environment(self.examples / "nowhere", PATH=PATH, PYTHONPATH=str(ROOT))
        clean["HOME"] = str(self.examples / "home")
        return {k: v for k, v in clean.items() if k != "WEB_CONCURRENCY"} | more


def _stop(process: subprocess.Popen[str], reader: threading.Thread) -> None:
    """Ctrl-C in that terminal: it reaches the shell and all that runs in it."""
    with suppress(ProcessLookupError):  # some have been killed before
        os.killpg(process.pid, signal.SIGINT)
    reader.join(PATIENCE_SECONDS)
    if reader.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        reader.join()
    process.wait(PATIENCE_SECONDS)
    assert process.stdout is not None
    process.stdout.close()


@dataclass(frozen=True)
class Examples:
    """A copy of all recipes, with a laptop and a server that are paired."""

    root: Path

    def recipe(self, name: str) -> Recipe:
        """The recipe in that folder."""
        return Recipe(self.root, name, Readme(self.root / name / "README.md"))

    def device(self, where: str) -> Device:
        """What is in that directory, for requests that no program of ours would send."""
        return Device(Home.open(Settings(self.root / where)))

    @property
    def laptop(self) -> Device:
        """The controller."""
        return self.device("devices/laptop")

    @property
    def server(self) -> Device:
        """The target."""
        return self.device("devices/server")

    def revoke(self) -> None:
        """End the trust in the laptop."""
        self.server.revoke(self.laptop)


def browse(url: str) -> Answer:
    """What a browser gets."""
    parts = urlsplit(url)
    return call(Served(str(parts.hostname), parts.port or 80), "GET", parts.path)


JSON: Final = {"Content-Type": "application/json"}


def signed(device: Device, method: str, target: str, body: bytes = b"") -> dict[str, str]:
    """Headers that are good once."""
    return JSON | {"Authorization": device.sign(method, target, body).decode("ascii")}


@dataclass(frozen=True)
class Request:
    """One that is let in if it is signed, and how it is answered then."""

    method: str
    target: str
    body: bytes = b""
    status: int = 200


def check_door(
    server: Running, device: Device, revoke: Callable[[], None], request: Request
) -> None:
    """The device is let in once for each signature, and never again when it is revoked."""
    method, target, body = request.method, request.target, request.body
    assert call(server, method, target, body=body, headers=JSON).status == 400
    once = signed(device, method, target, body)
    assert call(server, method, target, body=body, headers=once).status == request.status
    again = call(server, method, target, body=body, headers=once)
    assert (again.status, again.body) == (401, b'{"error":"unauthorized"}')
    server.log.wait_for("refused: replayed")
    revoke()
    late = signed(device, method, target, body)
    assert call(server, method, target, body=body, headers=late).status == 401
    server.log.wait_for("refused: unknown_device")
