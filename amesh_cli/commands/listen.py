"""amesh listen"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import Pairing


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
    trust_for: Annotated[
        str | None,
        typer.Option(
            help="How long the new controller is trusted: 90s, 30m, 24h, 90d. Forever when not "
            "given.",
            metavar="DURATION",
        ),
    ] = None,
    digits_stdin: Annotated[
        bool,
        typer.Option(
            "--digits-stdin",
            help="Read the six digits as a line from standard input, without a terminal.",
        ),
    ] = False,
    pairing: Annotated[
        Pairing,
        typer.Option(
            help="v2, or v1 for Node.js devices, over a relay of your own: whoever runs the relay "
            "can intercept v1.",
            metavar="VERSION",
        ),
    ] = Pairing.V2,
    accept_interception: Annotated[
        bool,
        typer.Option(
            "--accept-interception",
            help="With --pairing v1: do not ask whether the relay is yours. This gives up the "
            "only check there is that nobody else can intercept.",
        ),
    ] = False,
) -> None:
    """Wait for a controller and pair with it.

    Shows a code to type into `amesh invite` on the controller, then asks for the six digits
    that the controller shows. Afterwards the controller may call this device.
    """
    from amesh_cli import meeting

    meeting.listen(
        relay=relay,
        serve=serve,
        replace=replace,
        trust_for=trust_for,
        digits_stdin=digits_stdin,
        pairing=pairing,
        accept_interception=accept_interception,
    )
