"""amesh config"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import ConfigAction


def config(
    action: Annotated[
        ConfigAction, typer.Argument(help="list, get, set or unset.", metavar="ACTION")
    ],
    key: Annotated[
        str | None, typer.Argument(help="name, max-controllers or relay.", metavar="KEY")
    ] = None,
    value: Annotated[str | None, typer.Argument(help="With set.", metavar="VALUE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With list and get: print JSON.")] = False,
) -> None:
    """Show or change the settings of this device.

    amesh config list shows all of them, get KEY one. set KEY VALUE changes one; unset relay
    goes back to the built-in relay.
    """
    from amesh_cli import configuring

    configuring.run(action, key, value, as_json=as_json)
