"""`amesh doctor --repair`: what can be mended here, each after asking."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from amesh_cli import checks, terminal
from amesh_core import disk
from amesh_core.errors import Declined, NoIdentity
from amesh_core.io import repairing
from amesh_core.io.home import Home

if TYPE_CHECKING:
    from amesh_core.io.repairing import PutBack
    from amesh_core.settings import Settings


def repair(settings: Settings, *, yes: bool) -> None:
    """Mend modes and a list that was put back; says so when there is nothing of that kind.

    Raises:
        Declined: the person said no.
        UsageError: there is something to ask and no terminal.
        AmeshError: the directory cannot be opened, or the list is none of ours.
    """
    if not disk.exists(settings.directory):
        raise NoIdentity(str(settings.directory))
    mended = _close_to_others(settings.directory, yes=yes)
    home = Home.open(settings)
    put_back = repairing.find(home)
    if put_back is not None:
        _take_on(home, put_back, yes=yes)
    if not mended and put_back is None:
        terminal.say("Nothing to repair.")


def _close_to_others(directory: Path, *, yes: bool) -> bool:
    open_to = checks.open_to_others(directory)
    if not open_to:
        return False
    terminal.warn("other users of this machine can get at:")
    for path, mode in open_to.items():
        terminal.say(f"  {path}, mode {mode:04o}")
    if not yes and not terminal.confirm("Close this to all but its owner?", flag="--yes"):
        raise Declined
    for path in open_to:
        disk.close_to_others(path)
    terminal.say("Closed. What they read or changed before stays read or changed.")
    return True


def _take_on(home: Home, put_back: PutBack, *, yes: bool) -> None:
    allow_list = put_back.allow_list
    if put_back.newest is None:
        terminal.warn("what remembers the newest allow list cannot be believed.")
    else:
        terminal.warn("the allow list is older than one that was here before.")
        terminal.say(f"  newest seen   {put_back.newest}")
    terminal.say(f"  present list  {allow_list.updated_at}, devices: {len(allow_list.devices)}")
    for device in allow_list.devices:
        name = terminal.quoted(device.friendly_name)
        terminal.say(f"    {device.device_id}  {name}  {device.role or 'without a role'}")
    terminal.say("Whoever was revoked since it was written is on it again.")
    if not yes and not terminal.confirm("Trust these devices from now on?", flag="--yes"):
        raise Declined
    repairing.take_on(home, put_back, time.time())
    terminal.say("The present list counts again. `amesh revoke` whoever should not be on it.")
