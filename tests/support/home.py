"""Directories and devices for tests, made in a millisecond.

A new key file costs 200 ms of Argon2 on purpose. Tests write theirs with the smallest
parameters there are; opening honours what a key file says, so nothing in the product
knows of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from amesh_core import disk
from amesh_core.allow_list import AllowList
from amesh_core.crypto import PrivateKey
from amesh_core.identity import Peer, Role, device_id
from amesh_core.io.home import Home
from amesh_core.keystore import encrypted_file
from amesh_core.keystore.encrypted_file import EncryptedFileStore
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from amesh_core.wire.files import Argon2Cost, IdentityFile

CHEAP: Final = Argon2Cost(t=1, m=8, p=1)  # the least that RFC 9106 section 3.1 allows
PASSPHRASE: Final = "correct horse battery staple"
NOW: Final = 1_767_323_045.678  # 2026-01-02T03:04:05.678Z, as in the vectors


def make_home(
    directory: Path, *, name: str = "test device", max_controllers: int = 1, now: float = NOW
) -> Home:
    """An initialised directory, its passphrase in `.passphrase`, opened."""
    disk.make_directory(directory)
    store = EncryptedFileStore(directory, PASSPHRASE.encode, CHEAP)
    key = store.create()
    file = IdentityFile(
        device_id=device_id(key.public),
        key_alias=device_id(key.public),
        public_key=key.public,
        friendly_name=name,
        created_at=instant(now),
        storage_backend="encrypted-file",
        max_controllers=max_controllers,
    )
    disk.write_new(directory / ".passphrase", PASSPHRASE.encode(), mode=0o400)
    disk.write_new(directory / "allow_list.json", AllowList.empty(key.public, now).encode(key))
    store.remember(key, device_id(key.public), instant(now))
    disk.write_new(directory / "identity.json", file.encode())
    return Home.open(Settings(directory=directory))


def cheap_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Home.create` in this process make its key file the cheap way."""
    monkeypatch.setattr(encrypted_file, "COST", CHEAP)


def make_peer(name: str = "peer", role: Role = Role.CONTROLLER) -> Peer:
    """Another device, with a key of its own."""
    return peer_of(PrivateKey.generate(), name, role)


def peer_of(key: PrivateKey, name: str = "peer", role: Role = Role.CONTROLLER) -> Peer:
    """The device that has `key`, as the other side of a ceremony sees it."""
    return Peer(device_id(key.public), key.public, name, role)


def record(home: Home, *peers: Peer, now: float = NOW) -> None:
    """Put devices on the list of a home, whatever its limit."""
    with home.editing_allow_list(now) as edit:
        for peer in peers:
            edit.allow_list = edit.allow_list.record(
                peer, added_by="handshake", now=now, limit=len(edit.allow_list.devices) + 1
            )
