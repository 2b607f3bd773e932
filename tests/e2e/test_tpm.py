"""Two devices, each with a TPM of its own, from `amesh init` to a request that is let in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from amesh_core.io.home import Home
from amesh_core.keystore.tpm2.chip import chip
from amesh_core.settings import Settings
from amesh_sdk.asgi import AuthMeshMiddleware
from tests.sdk.test_fetch import echo
from tests.support.asgi import serving
from tests.support.cli import AtTerminal, Done, amesh
from tests.support.relay import relay_process
from tests.support.swtpm import SoftwareTpm, resource_manager, software_tpm


class Device:
    """A directory, and the TPM that its commands are told to use."""

    def __init__(self, directory: Path, tpm: SoftwareTpm, tcti: str) -> None:
        self.directory = directory
        self.tpm = tpm
        self.tcti = tcti
        self.env = {"AMESH_TPM_TCTI": tcti}

    def runs(self, *arguments: str) -> Done:
        return amesh(self.directory, *arguments, **self.env)

    def at_terminal(self, *arguments: str) -> AtTerminal:
        return AtTerminal(self.directory, *arguments, **self.env)

    @property
    def settings(self) -> Settings:
        return Settings(self.directory, tpm_tcti=self.tcti)

    def devices(self) -> dict[str, str]:
        """Device id -> role."""
        shown = json.loads(self.runs("list", "--json").out)["devices"]
        return {device["deviceId"]: device["role"] for device in shown}


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    # A service keeps its keys loaded, so its TPM must have places for the commands, too.
    with software_tpm() as one, software_tpm() as two, resource_manager(one) as manager:
        target = Device(tmp_path / "target", one, manager.tcti)
        yield target, Device(tmp_path / "controller", two, two.tcti)
        chip(target.tcti).close()


def test_two_devices_with_tpms_pair_and_call(devices: tuple[Device, Device]) -> None:
    target, controller = devices
    for device in devices:
        made = device.runs("init", "--name", device.directory.name, "--backend", "tpm2", "--json")
        assert (made.status, made.err) == (0, "")
        told = json.loads(made.out)
        assert (told["storageBackend"], told["hardwareBound"]) == ("tpm2", True)
        assert told["passphraseBesideKey"] is False
    with relay_process() as relay:
        listen = target.at_terminal("listen", "--relay", relay.url)
        code = listen.sees(r"amesh invite (\d{6})")
        invite = controller.at_terminal("invite", code, "--relay", relay.url)
        listen.types(invite.sees(r"digits (\d{3} \d{3})"))
        invite.sees(r"\[y/N\]")
        invite.types("y")
        assert listen.ends() == invite.ends() == 0
    assert list(target.devices().values()) == ["controller"]
    assert list(controller.devices().values()) == ["target"]

    app = AuthMeshMiddleware(echo, settings=target.settings)
    with serving(app) as service:
        fetched = controller.runs("fetch", service.url + "/x")
        assert (fetched.status, fetched.err) == (0, "")
        controller_id = Home.open(controller.settings).identity.device_id
        assert target.runs("revoke", controller_id, "--yes").status == 0
        assert controller.runs("fetch", service.url + "/x").status != 0
    for device in devices:
        chip(device.tcti).close()
        assert device.tpm.handles("transient") == []  # every command tidied up


def test_the_best_back_end_is_found_and_named(devices: tuple[Device, Device]) -> None:
    device, _ = devices
    made = device.runs("init", "--name", "found")
    assert made.status == 0
    assert "tpm2" in made.out
    assert "software" not in made.out + made.err
    assert not (device.directory / ".passphrase").exists()


def test_what_a_person_reads_when_the_tpm_was_cleared(devices: tuple[Device, Device]) -> None:
    device, _ = devices
    assert device.runs("init", "--name", "lost").status == 0
    device.tpm.run("tpm2_clear")
    done = device.runs("list")
    assert done.status == 4
    said = re.sub(r"\s+", " ", done.err)
    assert "this TPM cannot use the key: it was cleared since, or another one made it" in said
    assert "hint: the key is lost" in said
    assert "Traceback" not in done.err


def test_what_a_person_reads_when_there_is_no_tpm(devices: tuple[Device, Device]) -> None:
    device, _ = devices
    device.env = {"AMESH_TPM_TCTI": "device:/dev/no-such-tpm"}
    done = device.runs("init", "--name", "none", "--backend", "tpm2")
    assert done.status == 4
    said = re.sub(r"\s+", " ", done.err)
    assert "there is no /dev/no-such-tpm" in said
    assert not (device.directory / "identity.json").exists()


def test_a_lost_mark_is_mended_after_asking(devices: tuple[Device, Device]) -> None:
    device, _ = devices
    assert device.runs("init", "--name", "mended").status == 0
    (index,) = device.tpm.handles("nv-index")
    device.tpm.run("tpm2_nvundefine", "-C", "o", index)
    done = device.runs("list")
    assert done.status == 8
    assert "it is gone" in done.err
    assert "amesh doctor --repair" in done.err
    device.runs("doctor", "--repair", "--yes")
    assert device.runs("list").status == 0
    assert device.tpm.handles("nv-index") == [index]
