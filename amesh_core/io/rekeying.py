"""The key file under another passphrase; docs/protocol.md section 2.3.

Key file and `.passphrase` change together (io/staging.py), so at every instant the key opens
either with what was there before or with what is there now, or with what its operator chose.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from amesh_core import disk
from amesh_core.errors import HomeBusy, UsageError
from amesh_core.io import identity_file, passphrase, staging
from amesh_core.io.home import Home
from amesh_core.io.staging import IDENTITY_FILE, KEYS, ROTATION_FILE
from amesh_core.keystore import Means, encrypted_file


@dataclass(frozen=True, slots=True)
class Changed:
    """What a person has to be told: where the old passphrase is, if it has a place yet.

    `to_change` names the place of the operator that still holds the old passphrase, and is
    looked at before any other; None if there is none.
    """

    was_beside_key: bool
    to_change: str | None


def change(home: Home, new: bytes | None) -> Changed:
    """Encrypt the key file anew, under `new` or under a passphrase that is generated.

    One that is given is not written anywhere, and `.passphrase` goes; one that is generated
    is written there. Argon2 parameters below those of new files are raised.

    Raises:
        UsageError: the back end has no passphrase, the new one is empty, or a rotation is
            under way.
        KeyStoreError: the old passphrase is missing or does not open the key.
        HomeBusy: somebody else changed it meanwhile.
        HomeUnwritable: it cannot be written; nothing happened.
        IdentityReplaced: there is a new identity.
    """
    directory = home.directory
    before = check(home)
    if new is not None and not new:
        raise UsageError("an empty passphrase protects nothing")
    secret = passphrase.generate() if new is None else new
    # Now, as AMESH_PASSPHRASE_FILE may name what will be gone.
    found = passphrase.from_operator(home.settings)
    was_beside_key = before.lies_beside_key(directory)
    alias, public = home.file.key_alias, home.identity.public_key
    path = Path(KEYS) / f"{alias}.key.json"
    seen = disk.stamp(directory / path)
    # Before the lock: it takes two key derivations, and nobody need wait for them.
    store = encrypted_file.open_store(directory, Means(lambda: before.secret))
    data = store.under_another(alias, public, secret)
    with disk.locked(directory):
        file = identity_file.unreplaced(directory, home.identity)
        _check_no_rotation(directory)
        if disk.stamp(directory / path) != seen:
            raise HomeBusy(f"{directory / path} was changed meanwhile")
        with staging.staged(directory) as stage:
            disk.make_subdirectory(stage / KEYS)
            disk.write_new(stage / path, data)
            disk.sync_directory(stage / KEYS)
            if new is None:
                disk.write_new(stage / passphrase.FILE, secret, mode=passphrase.MODE)
            if file.passphrase is not None:  # of a very old file; it would be the old one
                moved = dataclasses.replace(file, passphrase=None)
                disk.write_new(stage / IDENTITY_FILE, moved.encode())
            staging.amend(directory, stage, discard=[Path(passphrase.FILE)])
    is_old = found is not None and found.secret != secret and not was_beside_key
    return Changed(was_beside_key, found.source if found is not None and is_old else None)


def check(home: Home) -> passphrase.Found:
    """The present passphrase, once it is known to open the key and may be changed.

    Raises:
        UsageError, KeyStoreError: as `change`.
    """
    if home.backend != "encrypted-file":
        raise UsageError(f"the key is in {home.backend}, which has no passphrase of ours")
    _check_no_rotation(home.directory)
    home.key()
    return passphrase.find(home.settings, home.directory, home.file.passphrase)


def _check_no_rotation(directory: Path) -> None:
    # The key that waits there is under the same passphrase.
    if disk.exists(directory / ROTATION_FILE):
        raise UsageError(
            "a new key is waiting to take over: first `amesh rotate --finish` or `--abort`"
        )
