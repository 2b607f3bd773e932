"""amesh trust"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import TrustAction


def trust(
    action: Annotated[TrustAction, typer.Argument(help="extend.", metavar="ACTION")],
    device: Annotated[
        str,
        typer.Argument(help="Device id, an unambiguous start of it, or name.", metavar="DEVICE"),
    ],
    lasts: Annotated[
        str | None,
        typer.Option("--for", help="From now on: 90s, 30m, 24h, 90d.", metavar="DURATION"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="To the beginning of a day, UTC: 2027-01-31.", metavar="DATE"),
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Without an end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Move the end of the trust in a controller.

    amesh trust extend DEVICE takes one of --for, --until and --forever, and sets the end
    anew, later or sooner, also when it has passed.
    """
    from amesh_cli import trusting

    match action:
        case TrustAction.EXTEND:
            trusting.extend(device, lasts=lasts, until=until, forever=forever, as_json=as_json)
