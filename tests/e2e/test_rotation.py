"""Two processes that never stop, a service and a client, and both move on to new keys meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amesh_core.identity import Role
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.sdk.devices import Device
from tests.sdk.servers.processes import Running, asgi, running
from tests.support.cli import PATIENCE_SECONDS, amesh, environment, listed
from tests.support.home import make_home

CLIENT = """
import sys
from amesh_sdk import amesh

for url in sys.stdin:
    print(amesh.fetch(url.strip()).status_code, flush=True)
"""


@dataclass(frozen=True)
class Client:
    """A program that signs a request whenever it is told to."""

    process: subprocess.Popen[str]
    url: str

    def asks(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        print(self.url, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def client(directory: Path, server: Running) -> Iterator[Client]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(directory, no_proxy="*"),
    )
    with process:
        yield Client(process, f"{server.url}/echo/x")
        assert process.stdin
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0


def fetch(directory: Path, server: Running) -> bool:
    """Whether `amesh fetch`, a process of its own, is let in."""
    return amesh(directory, "fetch", f"{server.url}/echo/x", no_proxy="*").status == 0


def device(directory: Path) -> Device:
    return Device(Home.open(Settings(directory)))


def test_a_service_and_its_client_move_on(tmp_path: Path) -> None:
    laptop = make_home(tmp_path / "laptop", name="laptop").directory
    service = make_home(tmp_path / "service", name="service").directory
    device(service).trust(device(laptop))
    device(laptop).trust(device(service), Role.TARGET)
    old_id, statement = device(laptop).device_id, tmp_path / "statement"

    with running(asgi("uvicorn"), service) as server, client(laptop, server) as program:
        assert program.asks() == 200

        # The new key is made; the old one is what everybody knows.
        statement.write_text(amesh(laptop, "rotate").out)
        assert program.asks() == 200
        assert fetch(laptop, server)

        # The service knows both.
        done = amesh(service, "accept-rotation", str(statement), "--yes", "--overlap", "1h")
        assert done.status == 0, done.err
        assert program.asks() == 200
        copy = tmp_path / "copy"
        shutil.copytree(laptop, copy)

        # The old key is gone from the laptop; a copy of it is let in for its hour.
        assert amesh(laptop, "rotate", "--finish", "--yes").status == 0
        new_id = device(laptop).device_id
        assert new_id != old_id
        assert fetch(laptop, server)
        assert fetch(copy, server)
        assert program.asks() == 200

        # Its hour is cut short. The program that ran all the time has the new key by now,
        # or looks for it within a second.
        assert amesh(service, "revoke", old_id, "--yes").status == 0
        assert not fetch(copy, server)
        assert fetch(laptop, server)
        end = time.monotonic() + PATIENCE_SECONDS
        while program.asks() != 200:
            assert time.monotonic() < end, "the program never noticed its new key"

        # The service moves on as well, and serves through it.
        statement.write_text(amesh(service, "rotate").out)
        assert amesh(laptop, "accept-rotation", str(statement), "--yes").status == 0
        assert amesh(service, "rotate", "--finish", "--yes").status == 0
        assert program.asks() == 200
        assert fetch(laptop, server)
        assert listed(service) == {new_id: "controller"}
        assert listed(laptop) == {device(service).device_id: "target"}

        # Revoked, neither key comes back.
        assert amesh(service, "revoke", "laptop", "--yes").status == 0
        assert program.asks() == 401
        assert not fetch(laptop, server)
        assert "Traceback" not in server.log.text
    shown = json.loads(amesh(service, "list", "--json").out)
    assert shown["devices"] == []
