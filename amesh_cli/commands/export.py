"""amesh export"""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    qr: Annotated[
        bool, typer.Option("--qr", help="Also show it as a QR code, in the terminal.")
    ] = False,
) -> None:
    """Print the public card of this device, to pair without any relay.

    The other device records it with `amesh import`. The card is no secret; the fingerprint
    that is shown with it tells whether it arrived as it is.
    """
    from amesh_cli import cards

    cards.export(qr=qr)
