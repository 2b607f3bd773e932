"""amesh doctor"""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    against: Annotated[
        str | None,
        typer.Option(
            help="Probe the service at URL and say what changes requests on their way to it.",
            metavar="URL",
        ),
    ] = None,
    relay: Annotated[
        str | None, typer.Option(help="The relay that must be reachable.", metavar="URL")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="First mend what can be mended, after asking.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --repair: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Look for what is wrong with this device, or on the way to a service.

    Checks directory, key, allow list, relay, clock and extras. With --against, signed requests
    to a service that verifies find out whether they arrive as they were sent. With --repair,
    takes on an allow list that was put back, and closes files to other users.
    """
    from amesh_cli import doctoring, here

    if repair:
        from amesh_cli import repairing

        repairing.repair(here.settings(), yes=yes)
    doctoring.examine(against=against, relay=relay, as_json=as_json)
