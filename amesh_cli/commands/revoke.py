"""amesh revoke"""

from __future__ import annotations

from typing import Annotated

import typer


def revoke(
    device: Annotated[
        str,
        typer.Argument(help="Device id, an unambiguous start of it, or name.", metavar="DEVICE"),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Stop trusting a device, from the next request on."""
    import time

    from amesh_cli import failures, terminal
    from amesh_cli.here import open_home
    from amesh_core.errors import Declined, HomeError
    from amesh_core.identity import Role
    from amesh_core.io import provisioned

    home = open_home()
    entry = home.allow_list().find(device)
    shown = f"{terminal.quoted(entry.friendly_name)} ({entry.device_id})"
    if not yes and not terminal.confirm(f"Stop trusting {shown}?", flag="--yes"):
        raise Declined
    try:
        provisioned.settle(home, time.time())
    except HomeError as error:  # which is no reason to go on trusting anybody
        terminal.warn(f"{failures.sentence(error)}; `amesh list` shows whether it comes back.")
    with home.editing_allow_list(time.time()) as edit:
        former = [device.device_id for device in edit.allow_list.former(entry)]
        edit.allow_list = edit.allow_list.revoke(entry)
    if as_json:
        terminal.json_result({"revoked": entry.device_id, "friendlyName": entry.friendly_name})
    elif entry.role is Role.TARGET:
        terminal.result(f"{shown} is no longer listed here.")
        terminal.say("It still lets this device in, until `amesh revoke` is run there.")
    else:
        terminal.result(f"{shown} is no longer trusted here, from the next request on.")
        if former:
            terminal.say(f"Nor is the key that it had before: {', '.join(former)}.")
        terminal.say("Other machines that trust it still do: revoke it there, too.")
