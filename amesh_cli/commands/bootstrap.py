"""amesh bootstrap"""

from __future__ import annotations

from typing import Annotated

import typer


def bootstrap(
    file: Annotated[
        str | None,
        typer.Argument(
            help="A file with the token, or - for standard input; else from the environment.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            help="How long to wait until the controller knows this device.",
            metavar="SECONDS",
        ),
    ] = 30,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Make the device, and do not announce it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make this device from a bootstrap token, and tell its controller.

    What programs with the SDK do by themselves at their first start, for services in other
    languages. The token is made with `amesh provision` on the controller.
    """
    from amesh_cli import bootstrapping as body

    body.bootstrap(file, wait_seconds=None if no_wait else wait, as_json=as_json)
