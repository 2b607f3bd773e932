"""amesh accept-rotation"""

from __future__ import annotations

from typing import Annotated

import typer


def accept_rotation(
    file: Annotated[
        str, typer.Argument(help="The statement; - for standard input.", metavar="FILE")
    ],
    overlap: Annotated[
        str,
        typer.Option(
            help="How long the old key is let in, too: 90m, 24h, 7d; 0 for not at all.",
            metavar="TIME",
        ),
    ] = "24h",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let a paired device go on under the new key that its `amesh rotate` made.

    Its entry keeps its name, role and end of trust.
    """
    from amesh_cli import rotating

    rotating.accept(file, overlap=overlap, yes=yes, as_json=as_json)
