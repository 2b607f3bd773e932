"""Putting another device on the list, and what a person may settle about it afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from amesh_cli import here, terminal
from amesh_core.errors import AmbiguousDevice, Malformed

if TYPE_CHECKING:
    from amesh_core.allow_list import Device
    from amesh_core.identity import Peer
    from amesh_core.io.home import Home


def recorder(
    home: Home,
    *,
    added_by: str,
    replacing: Collection[str] = (),
    pairing: str | None = None,
    trust_seconds: int | None = None,
) -> Callable[[Peer], Device]:
    """What writes a peer to the list of `home`, at once and whole.

    Trust in a controller ends `trust_seconds` after it is written, or never.
    """

    def record(peer: Peer) -> Device:
        now = time.time()
        with home.editing_allow_list(now) as edit:
            edit.allow_list = edit.allow_list.record(
                peer,
                added_by=added_by,
                now=now,
                # As it is under the lock: `amesh config set` may have changed it meanwhile.
                limit=here.open_home().max_controllers,
                replacing=replacing,
                pairing=pairing,
                expires_at=None if trust_seconds is None else now + trust_seconds,
            )
        return edit.allow_list.find(peer.device_id)

    return record


def settle_name(home: Home, device: Device) -> Device:
    """Let the person choose where a name was in use and the id had to be added to it.

    The list holds the name with the id already, so that nothing depends on an answer.
    """
    if not device.friendly_name.endswith(f" ({device.device_id})"):
        return device
    terminal.say("The name that it gave itself is another device's here.")
    while True:
        name = terminal.ask(
            "How shall it be shown here? Enter keeps", flag="", default=device.friendly_name
        )
        if name == device.friendly_name:
            return device
        now = time.time()
        try:
            with home.editing_allow_list(now) as edit:
                edit.allow_list = edit.allow_list.renamed(device, name)
        except (AmbiguousDevice, Malformed) as error:
            terminal.warn(f"{error}.")
        else:
            return edit.allow_list.find(device.device_id)
