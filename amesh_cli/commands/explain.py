"""amesh explain"""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Logs of client and server, in any order; standard input if none, or for -.",
            metavar="FILE...",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say why a signature did not fit, from the logs of client and server.

    Both write requests down when AMESH_DEBUG_REQUESTS=1 is set. Shows the first byte that
    differs in what is signed, and what may have changed it.
    """
    from amesh_cli import explaining

    explaining.explain(files or [], as_json=as_json)
