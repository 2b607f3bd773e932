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
from tests.sdk.servers.processes import Running, asgi, call, running
from tests.support.cli import PATIENCE_SECONDS, amesh, environment
from tests.support.home import make_home
from tests.support.swtpm import software_tpm

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


def fetch(directory: Path, server: Running, **env: str) -> bool:
    """Whether `amesh fetch`, a process of its own, is let in."""
    return amesh(directory, "fetch", f"{server.url}/echo/x", no_proxy="*", **env).status == 0


def is_let_in(directory: Path, server: Running) -> bool:
    """Whether what this directory signs with now is."""
    return call(server, "GET", "/echo/x", by=device(directory)).status == 200


def listed(directory: Path) -> dict[str, str]:
    """Device id -> role of everything on the allow list of `directory`."""
    devices = device(directory).home.allow_list().devices
    return {entry.device_id: str(entry.role) for entry in devices}


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
        assert is_let_in(laptop, server)

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
        assert is_let_in(copy, server)
        assert program.asks() == 200

        # Its hour is cut short. The program that ran all the time has the new key by now,
        # or looks for it within a second.
        assert amesh(service, "revoke", old_id, "--yes").status == 0
        assert not is_let_in(copy, server)
        assert is_let_in(laptop, server)
        end = time.monotonic() + PATIENCE_SECONDS
        while program.asks() != 200:
            assert time.monotonic() < end, "the program never noticed its new key"

        # The service moves on as well, and serves through it.
        statement.write_text(amesh(service, "rotate").out)
        assert amesh(laptop, "accept-rotation", str(statement), "--yes").status == 0
        assert amesh(service, "rotate", "--finish", "--yes").status == 0
        assert program.asks() == 200
        assert is_let_in(laptop, server)
        assert listed(service) == {new_id: "controller"}
        assert listed(laptop) == {device(service).device_id: "target"}

        # Revoked, neither key comes back.
        assert amesh(service, "revoke", "laptop", "--yes").status == 0
        assert program.asks() == 401
        assert not is_let_in(laptop, server)
        assert "Traceback" not in server.log.text
    assert listed(service) == {}


def test_into_a_tpm_and_out_of_it(tmp_path: Path) -> None:
    """The list comes under the TPM's seal, its newest state into the TPM's memory, and back."""
    laptop = make_home(tmp_path / "laptop", name="laptop")
    service = make_home(tmp_path / "service", name="service").directory
    device(service).trust(Device(laptop))
    Device(laptop).trust(device(service), Role.TARGET)
    statement, path = tmp_path / "statement", laptop.directory / "allow_list.json"

    def moves_to(backend: str) -> None:
        done = amesh(laptop.directory, "rotate", "--backend", backend, **env)
        assert done.status == 0, done.err
        statement.write_text(done.out)
        done = amesh(
            service, "accept-rotation", str(statement), "--yes", "--overlap", "0", "--json"
        )
        assert done.status == 0, done.err
        done = amesh(laptop.directory, "rotate", "--finish", "--yes", **env)
        assert done.status == 0, done.err
        assert list(listed(service)) == [device(laptop.directory).device_id]
        shown = json.loads(amesh(laptop.directory, "list", "--json", **env).out)
        assert shown["storageBackend"] == backend
        assert [entry["role"] for entry in shown["devices"]] == ["target"]

    with software_tpm() as tpm, running(asgi("uvicorn"), service) as server:
        env = {"AMESH_TPM_TCTI": tpm.tcti}
        moves_to("tpm2")
        assert not list(laptop.directory.glob("keys/*.key.json"))
        assert not (laptop.directory / ".passphrase").exists()
        assert fetch(laptop.directory, server, **env)
        # Put back with everything that lies in the directory.
        whole = tmp_path / "whole"
        shutil.copytree(laptop.directory, whole)
        assert amesh(laptop.directory, "revoke", "service", "--yes", **env).status == 0
        shutil.rmtree(laptop.directory)
        shutil.copytree(whole, laptop.directory)
        done = amesh(laptop.directory, "list", **env)
        assert done.status == 8
        assert "older than" in done.err
        assert "counts again" in amesh(laptop.directory, "doctor", "--repair", "--yes", **env).err
        moves_to("encrypted-file")
        assert tpm.handles("nv-index") == []
    # Without the TPM, which has nothing of it any more.
    assert amesh(laptop.directory, "list").status == 0
    again = json.loads(path.read_text())
    assert len(again["devices"]) == 1
