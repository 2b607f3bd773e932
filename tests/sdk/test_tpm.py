"""Devices whose keys are in TPMs: threads, event loops, forks, servers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from amesh_core.errors import TpmError
from amesh_core.io.home import Home
from amesh_core.keystore.tpm2.chip import chip
from amesh_core.keystore.tpm2.store import TpmKey
from amesh_core.settings import Settings
from amesh_sdk.opened import OpenHome
from amesh_sdk.signer import Signer
from tests.sdk.devices import Device
from tests.sdk.servers.processes import Running, call, running, together, wsgi
from tests.sdk.test_signing import check
from tests.support.cli import environment
from tests.support.home import NOW
from tests.support.swtpm import SoftwareTpm, resource_manager, software_tpm


@dataclass(frozen=True)
class TpmDevice(Device):
    """A device, and the TPM that it is told to use."""

    tcti: str

    @property
    def settings(self) -> Settings:
        return Settings(self.home.directory, tpm_tcti=self.tcti)


@pytest.fixture
def tpm() -> Iterator[SoftwareTpm]:
    with software_tpm() as running:
        running.make_storage_root_key()
        yield running
        chip(running.tcti).close()


def make(directory: Path, tcti: str, name: str) -> TpmDevice:
    settings = Settings(directory / name, tpm_tcti=tcti)
    return TpmDevice(Home.create(settings, name=name, backend="tpm2", now=NOW).home, tcti)


@pytest.fixture
def device(tmp_path: Path, tpm: SoftwareTpm) -> TpmDevice:
    return make(tmp_path, tpm.tcti, "laptop-with-tpm")


def test_sixteen_threads_sign(device: TpmDevice) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            target = f"/{number}/{turn}"
            value = device.sign("POST", target, b"body").decode()
            check(value, device, "POST", target, b"body")

    with ThreadPoolExecutor(16) as threads:
        for future in [threads.submit(work, number) for number in range(16)]:
            future.result()


def test_an_event_loop_leaves_signing_to_its_thread(
    device: TpmDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chip may take 300 ms for a signature."""
    signed_in: set[str] = set()
    real = TpmKey.sign

    def sign(key: TpmKey, message: bytes) -> bytes:
        signed_in.add(threading.current_thread().name)
        return real(key, message)

    monkeypatch.setattr(TpmKey, "sign", sign)
    signer = Signer(OpenHome(device.settings))

    async def main() -> list[str]:
        return await asyncio.gather(*(signer.asign("GET", b"/", b"") for _ in range(16)))

    for value in asyncio.run(main()):
        check(value, device, "GET", "/", b"")
    assert {name.split("_")[0] for name in signed_in} == {"amesh-sign"}


def test_a_tpm_that_comes_back_is_used_again(device: TpmDevice, tpm: SoftwareTpm) -> None:
    device.sign("GET", "/")
    tpm.kill()
    with pytest.raises(TpmError):
        device.sign("GET", "/")
    tpm.start()
    check(device.sign("GET", "/").decode(), device, "GET", "/", b"")


FORKS = """
import os, sys
from amesh_sdk import amesh
amesh.sign("GET", "https://api.example/")
children = []
for number in range(3):
    if not (child := os.fork()):
        amesh.sign("GET", f"https://api.example/{number}")
        sys.exit(7)
    amesh.sign("GET", "https://api.example/")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    amesh.sign("GET", "https://api.example/")
"""


def test_a_device_signs_before_and_after_forks(tmp_path: Path, tpm: SoftwareTpm) -> None:
    with resource_manager(tpm) as manager:
        device = make(tmp_path, manager.tcti, "forking")
        chip(manager.tcti).close()
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FORKS],
            env=environment(device.home.directory, AMESH_TPM_TCTI=manager.tcti),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tpm.handles("transient") == []


def test_a_service_with_a_tpm_lets_in_whom_it_trusts(
    tmp_path: Path, tpm: SoftwareTpm, controller: Device, stranger: Device
) -> None:
    """gunicorn --preload; its list is sealed by the TPM, and read again when it changes."""
    with resource_manager(tpm) as manager:
        target = make(tmp_path, manager.tcti, "api-with-tpm")
        target.trust(controller)
        server = wsgi("gunicorn", AMESH_TPM_TCTI=manager.tcti).with_options("--preload", "-w2")
        with running(server, target.home.directory) as service:
            assert answers(service, controller) == {200}
            assert answers(service, stranger) == {401}
            target.revoke(controller)
            target.trust(stranger)
            assert answers(service, controller) == {401}
            assert answers(service, stranger) == {200}
        chip(manager.tcti).close()
    assert tpm.handles("transient") == []


def answers(service: Running, device: Device) -> set[int]:
    """To so many requests at once that both workers take some."""
    return set(together(12, lambda n: call(service, "GET", f"/echo/{n}", by=device).status))
