"""identity.json, found and checked; docs/protocol.md section 2."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import suppress
from pathlib import Path

from amesh_core import disk
from amesh_core.errors import (
    HomeBusy,
    HomeUnwritable,
    IdentityDamaged,
    IdentityReplaced,
    Malformed,
)
from amesh_core.identity import Identity, device_id
from amesh_core.io import passphrase, staging
from amesh_core.io.staging import IDENTITY_FILE
from amesh_core.wire.files import IdentityFile

log = logging.getLogger("amesh.keystore")


def read_settled(directory: Path) -> IdentityFile | None:
    """identity.json, read while no other identity is taking its place."""
    while True:
        if staging.is_replacing(directory):
            with disk.locked(directory):
                staging.settle(directory)
        elif staging.is_littered(directory):
            # Only tidiness: whoever is writing now, or cannot be written to, is left alone.
            with suppress(HomeBusy, HomeUnwritable), disk.locked(directory, timeout_seconds=0):
                staging.settle(directory)
        file = read(directory)
        if not staging.is_replacing(directory):
            return file


def read(directory: Path) -> IdentityFile | None:
    path = directory / IDENTITY_FILE
    data = disk.read_own(path)
    if data is None:
        return None
    try:
        file = IdentityFile.parse(data)
    except Malformed as error:
        raise IdentityDamaged(f"{path}: {error}") from None
    if file.device_id != device_id(file.public_key):
        raise IdentityDamaged(f"{path}: deviceId is not that of publicKey")
    return file


def unreplaced(directory: Path, ours: Identity) -> IdentityFile:
    """identity.json as it is now, while it is still that of `ours`; the caller holds the lock.

    Raises:
        IdentityReplaced: there is another identity, or none.
        IdentityDamaged, HomeUnwritable: it cannot be read, or what was cut off not finished.
    """
    staging.settle(directory)
    file = read(directory)
    if file is None or file.public_key != ours.public_key:
        raise IdentityReplaced(ours.device_id, str(directory))
    return file


def counts(directory: Path, public: bytes) -> bool:
    """Whether the identity with that key counts by now, be it all in its place or not.

    The caller holds the lock, and had settled the directory.
    """
    try:
        file = read(directory)
    except IdentityDamaged:
        file = None
    return staging.is_replacing(directory) or (file is not None and file.public_key == public)


def move_passphrase_out(directory: Path, file: IdentityFile) -> IdentityFile:
    """Old files kept the passphrase in identity.json; it belongs into a file of its own."""
    path = directory / IDENTITY_FILE
    try:
        with disk.locked(directory):
            staging.settle(directory)
            file = read(directory) or file
            if file.passphrase is None:
                return file
            secret = file.passphrase.encode("utf-8", "surrogatepass")
            target = directory / passphrase.FILE
            present = disk.read_own(target)
            if present is None:
                disk.replace(target, secret, mode=passphrase.MODE)
            elif passphrase.without_newline(present) != secret:
                log.warning("%s and %s hold different passphrases; remove one", path, target)
                return file
            moved = dataclasses.replace(file, passphrase=None)
            disk.replace(path, moved.encode())
            log.warning("moved the passphrase out of %s into %s", path, target)
            return moved
    except HomeUnwritable:
        log.warning("%s holds the passphrase of its key, and it cannot be moved out", path)
        return file
