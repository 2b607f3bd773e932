"""amesh listen"""

from __future__ import annotations

from typing import Annotated

import typer


def listen(
    relay: Annotated[str | None, typer.Option(help="The relay to meet at.", metavar="URL")] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            help="Run a relay here while waiting, for two machines on one network.",
            metavar="[HOST:]PORT",
        ),
    ] = None,
    replace: Annotated[
        str | None,
        typer.Option(help="The controller that the new one takes the place of.", metavar="DEVICE"),
    ] = None,
    digits_stdin: Annotated[
        bool,
        typer.Option(
            "--digits-stdin",
            help="Read the six digits as a line from standard input, without a terminal.",
        ),
    ] = False,
) -> None:
    """Wait for a controller and pair with it.

    Shows a code to type into `amesh invite` on the controller, then asks for the six digits
    that the controller shows. Afterwards the controller may call this device.
    """
    from amesh_cli import meeting

    meeting.listen(relay=relay, serve=serve, replace=replace, digits_stdin=digits_stdin)
