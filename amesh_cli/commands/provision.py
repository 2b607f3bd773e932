"""amesh provision"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def provision(
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="What to call the server here.", metavar="NAME"),
    ] = None,
    ttl: Annotated[
        str,
        typer.Option(help="How long the token is good: 90s, 30m, 1h, at most 1d.", metavar="TIME"),
    ] = "1h",
    relay: Annotated[
        str | None, typer.Option(help="The relay where servers announce themselves.", metavar="URL")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="So many tokens: NAME-1, NAME-2, ...", metavar="N"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the token into a new file.", metavar="FILE"),
    ] = None,
    for_node: Annotated[
        bool, typer.Option("--for-node", help="For a Node.js server; its key stays unproven.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for the server; see --watch.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for the servers of all tokens still good.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show what was minted.")] = False,
    cancel: Annotated[
        str | None,
        typer.Option(help="Record no server because of this token any more.", metavar="JTI"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each thing that happens.")
    ] = False,
) -> None:
    """Make a token with which a server pairs itself, and wait for it.

    For servers that nobody logs in to. The server is given the token in AMESH_BOOTSTRAP_TOKEN
    and trusts this device from then on; it announces itself here through the relay.
    """
    from amesh_cli import provisioning as body

    order = body.Order(name, ttl, relay, count, output, for_node=for_node, detach=detach)
    match body.mode(order, watch=watch, show_list=show_list, cancel=cancel):
        case "mint":
            body.mint(order, as_json=as_json)
        case "watch":
            body.watch(as_json=as_json)
        case "list":
            body.show(as_json=as_json)
        case "cancel":
            body.cancel(cancel or "", as_json=as_json)
