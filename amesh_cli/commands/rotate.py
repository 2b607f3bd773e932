"""amesh rotate"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_core.keystore import BACKENDS


def rotate(
    backend: Annotated[
        str | None,
        typer.Option(
            help=f"Where the new key lives: {', '.join(BACKENDS)}. As the old one if not given.",
            metavar="BACKEND",
            autocompletion=lambda: list(BACKENDS),
        ),
    ] = None,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Let the new key take over, and destroy the old one."),
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Destroy the new key that waits; keep the old one.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --finish: also if bootstrap tokens are outstanding."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --finish or --abort: do not ask.")
    ] = False,
) -> None:
    """Move this device on to a new key.

    Makes a key that waits, and prints a statement for the devices that are paired with this one,
    which goes on with the old key until --finish.
    """
    from amesh_cli import rotating

    rotating.rotate(backend=backend, finish=finish, abort=abort, force=force, yes=yes)
