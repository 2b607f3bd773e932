"""amesh list"""

from __future__ import annotations

from typing import Annotated

import typer


def list_devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Show this device and the devices it knows."""
    import time

    from amesh_cli import listing
    from amesh_cli.here import open_home

    home = open_home()
    allow_list = home.allow_list()
    if as_json:
        listing.as_json(home, allow_list, time.time())
    else:
        listing.as_table(home, allow_list, time.time())
