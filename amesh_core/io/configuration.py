"""What may be changed about a device after it was made; docs/protocol.md section 2.

Each change is one whole file, written under the lock of the directory, in which everything
else stays as it is: keys that we do not know too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from amesh_core import disk
from amesh_core.errors import IdentityReplaced, Malformed, NoIdentity, UsageError
from amesh_core.identity import check_name
from amesh_core.io import identity_file, staging
from amesh_core.io.home import CONFIG_FILE, Home
from amesh_core.io.relay_line import check_relay_url
from amesh_core.io.staging import IDENTITY_FILE
from amesh_core.wire.files import IdentityFile, with_relay

# As `amesh init` has it: what a person can mean by "many", and not a slip of the finger.
MAX_CONTROLLERS = 10_000


def set_max_controllers(home: Home, limit: int) -> None:
    """Let `limit` controllers call this device.

    Not fewer than are listed: they would all be let in as before, and the number would be
    the only thing to say otherwise.

    Raises:
        UsageError: no number of controllers, or more of them are listed.
        AllowListBroken, KeyStoreError: they cannot be counted.
        HomeBusy, HomeUnwritable, IdentityReplaced: nothing was changed.
    """
    if not 1 <= limit <= MAX_CONTROLLERS:
        raise UsageError(f"max-controllers is a number from 1 to {MAX_CONTROLLERS}")
    home.key()  # before the lock: nobody need wait for the unlocking

    def change(file: IdentityFile) -> IdentityFile:
        listed = len(home.allow_list().controllers())
        if listed > limit:
            raise UsageError(
                f"{listed} controllers are listed, so {limit} cannot be the most there may be; "
                "`amesh revoke` some first"
            )
        return replace(file, max_controllers=limit)

    _change_identity(home, change)


def set_name(home: Home, name: str) -> None:
    """Call this device `name` from the next pairing on.

    Raises:
        UsageError: no good name.
        HomeBusy, HomeUnwritable, IdentityReplaced: nothing was changed.
    """
    try:
        check_name(name)
    except Malformed as error:
        raise UsageError(f"this name cannot be used: {error}") from None
    _change_identity(home, lambda file: replace(file, friendly_name=name))


def set_relay(home: Home, url: str | None) -> None:
    """Meet at this relay when nothing else names one; None: at the built-in one.

    Raises:
        UsageError: not the URL of a relay, or config.json is not JSON.
        HomeBusy, HomeUnwritable: nothing was changed.
    """
    if url is not None:
        check_relay_url(url)
    path = home.directory / CONFIG_FILE
    with disk.locked(home.directory):
        staging.settle(home.directory)
        try:
            data = with_relay(disk.read_own(path), url)
        except Malformed as error:
            raise UsageError(f"{path}: {error}") from None
        disk.replace(path, data)


def _change_identity(home: Home, change: Callable[[IdentityFile], IdentityFile]) -> None:
    with disk.locked(home.directory):
        staging.settle(home.directory)
        file = identity_file.read(home.directory)
        if file is None:
            raise NoIdentity(str(home.directory))
        if file.public_key != home.identity.public_key:
            raise IdentityReplaced(home.identity.device_id, str(home.directory))
        disk.replace(home.directory / IDENTITY_FILE, change(file).encode())
