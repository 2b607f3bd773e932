"""Two paired devices for the tests of your own service; docs/servers.md has each framework.

    devices = paired_devices(tmp_path)
    os.environ["AUTH_MESH_DIR"] = str(devices.service.directory)
    client.auth = devices.caller.auth()

Only the ceremony is left out, as both are ours: keys, signatures and each check are real.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from amesh_core.identity import Peer, Role
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_sdk import Amesh


@dataclass(frozen=True, slots=True)
class PairedDevices:
    """`caller` signs as `amesh` does on its device; `service` is where the other one lives.

    The service finds its device in AUTH_MESH_DIR, or by `settings=` of its middleware.
    """

    caller: Amesh
    service: Settings


def paired_devices(directory: Path) -> PairedDevices:
    """Make a controller, "caller", and its target, "service", in a directory of a test.

    It takes about half a second, so once for all tests: keys in files, under the passphrase
    that the environment has, or a new one.

    Raises:
        HomeError, KeyStoreError: the directory cannot be used, or devices are there already.
    """
    present = replace(
        Settings.from_env(os.environ), bootstrap_token=None, bootstrap_token_file=None
    )
    caller, service = (_made(present, directory / name) for name in ("caller", "service"))
    me = caller.identity
    with service.editing_allow_list(now := time.time()) as edit:
        peer = Peer(me.device_id, me.public_key, me.friendly_name, Role.CONTROLLER)
        edit.allow_list = edit.allow_list.record(peer, added_by="testing", now=now, limit=1)
    return PairedDevices(
        Amesh(replace(present, directory=caller.directory)),
        replace(present, directory=service.directory),
    )


def _made(present: Settings, directory: Path) -> Home:
    settings = replace(present, directory=directory)
    Home.create(settings, name=directory.name, backend="encrypted-file", now=time.time())
    return Home.open(settings)
