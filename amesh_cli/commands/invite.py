"""amesh invite"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import Pairing


def invite(
    code: Annotated[
        str | None, typer.Argument(help="The six digits that `amesh listen` shows.", metavar="CODE")
    ] = None,
    relay: Annotated[str | None, typer.Option(help="The relay to meet at.", metavar="URL")] = None,
    assume_match: Annotated[
        bool,
        typer.Option(
            "--assume-match",
            help="Record the target without asking whether it said that the digits matched. "
            "This gives up the check that no relay answered in the target's place.",
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
    """Pair with the target that shows CODE.

    Shows six digits to type into `amesh listen` on the target, and asks whether they matched
    there. Afterwards this device may call the target.
    """
    from amesh_cli import meeting

    meeting.invite(
        code,
        relay=relay,
        assume_match=assume_match,
        pairing=pairing,
        accept_interception=accept_interception,
    )
