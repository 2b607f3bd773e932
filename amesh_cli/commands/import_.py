"""amesh import"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import As


def import_card(
    file: Annotated[str, typer.Argument(help="A card, or - for standard input.", metavar="FILE")],
    role: Annotated[
        As,
        typer.Option(
            help="What the other device is to this one: controller may call this one, target is "
            "called by it.",
            metavar="ROLE",
        ),
    ],
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="Do not ask, but record only if the key has this fingerprint. Take it from the "
            "other device itself, not from where the card came from.",
            metavar="HEX",
        ),
    ] = None,
    trust_for: Annotated[
        str | None,
        typer.Option(
            help="With --role controller: how long it is trusted: 90s, 30m, 24h, 90d. Forever "
            "when not given.",
            metavar="DURATION",
        ),
    ] = None,
) -> None:
    """Record the device that a card of `amesh export` is of.

    Shows the fingerprint of its key and asks whether the other device shows the same.
    """
    from amesh_cli import cards

    cards.import_(file, role=role, typed=fingerprint, trust_for=trust_for)
