"""amesh init"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_core.keystore import BACKENDS


def init(
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="How other devices will show this one.", metavar="NAME"),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help=f"Where the key lives: {', '.join(BACKENDS)}. Detected when not given.",
            metavar="BACKEND",
            autocompletion=lambda: list(BACKENDS),
        ),
    ] = None,
    max_controllers: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, help="How many controllers may call this device.", metavar="N"
        ),
    ] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the identity that is here; keeps a backup.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --force: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Give this device a key, an identity and an empty allow list."""
    from amesh_cli import here, making

    settings = here.settings()
    replace = force and making.agree_to_replace(settings, yes=yes)
    created = making.create(
        settings,
        name=making.choose_name(name, settings, replace=replace),
        backend=backend,
        max_controllers=max_controllers,
        replace=replace,
    )
    making.show(created, as_json=as_json)
