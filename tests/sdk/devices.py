"""Devices, each with a directory of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amesh_core.identity import Peer, Role
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from amesh_sdk import Amesh
from amesh_sdk.asgi import AuthMeshMiddleware
from amesh_sdk.opened import opened
from amesh_sdk.signer import Signer
from tests.support.asgi import App
from tests.support.home import make_home, record


@dataclass(frozen=True)
class Device:
    """A directory, and what programs on that device do with it."""

    home: Home

    @property
    def settings(self) -> Settings:
        return Settings(self.home.directory)

    @property
    def device_id(self) -> str:
        return self.home.identity.device_id

    @property
    def amesh(self) -> Amesh:
        return Amesh(self.settings)

    def signer(self, clock: Callable[[], float] = time.time) -> Signer:
        return Signer(opened(self.settings), clock=clock)

    def sign(self, method: str, target: str, body: bytes = b"", **signer: Any) -> bytes:
        """The Authorization value for one request."""
        return self.signer(**signer).sign(method, target.encode("ascii"), body).encode("ascii")

    def protect(self, app: App, **options: Any) -> AuthMeshMiddleware:
        return AuthMeshMiddleware(app, settings=self.settings, **options)

    @property
    def list_file(self) -> Path:
        return self.home.directory / "allow_list.json"

    def trust(self, other: Device, role: Role = Role.CONTROLLER) -> None:
        identity = other.home.identity
        peer = Peer(identity.device_id, identity.public_key, identity.friendly_name, role)
        record(self.home, peer, now=time.time())

    def revoke(self, other: Device) -> None:
        with self.home.editing_allow_list(time.time()) as edit:
            edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(other.device_id))

    def trust_until(self, other: Device, end: float) -> None:
        """Let the trust in a listed device end at `end`, in Unix seconds."""
        with self.home.editing_allow_list(time.time()) as edit:
            entry = edit.allow_list.find(other.device_id)
            ending = replace(entry, expires_at=instant(end))
            devices = [ending if one is entry else one for one in edit.allow_list.devices]
            edit.allow_list = replace(edit.allow_list, devices=tuple(devices))


def make_target(directory: Path) -> Device:
    return Device(make_home(directory / "target", name="prod-api"))


def make_controller(target: Device) -> Device:
    """A device that the target trusts."""
    device = Device(make_home(target.home.directory.parent / "controller", name="laptop"))
    target.trust(device)
    return device


def make_stranger(target: Device) -> Device:
    return Device(make_home(target.home.directory.parent / "stranger", name="stranger"))
