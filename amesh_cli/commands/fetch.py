"""amesh fetch"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch(
    url: Annotated[str, typer.Argument(help="An http:// or https:// URL.", metavar="URL")],
    method: Annotated[
        str | None,
        typer.Option("--request", "-X", help="Default: GET, or POST with -d.", metavar="METHOD"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--data-binary",
            "-d",
            help="The body, sent as it is: TEXT, @FILE, or @- for standard input.",
            metavar="TEXT",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", help="A header; may be repeated.", metavar="'NAME: VALUE'"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the body of a 2xx answer there.", metavar="FILE"
        ),
    ] = None,
    include: Annotated[
        bool, typer.Option("--include", "-i", help="Print status and headers before the body.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what is sent; shows no secret.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="How long to wait for each step.", metavar="SECONDS")
    ] = 30,
    no_redirects: Annotated[
        bool, typer.Option("--no-redirects", help="Do not follow redirects.")
    ] = False,
) -> None:
    """Sign a request, send it, and print the body of the answer."""
    from amesh_cli import curl

    wanted = curl.Wanted(
        url=url,
        method=method,
        data=None if data is None else curl.read_data(data),
        headers=tuple(map(curl.parse_header, header or [])),
        output=output,
        show_headers=include,
        verbose=verbose,
        timeout_seconds=timeout,
        follow_redirects=not no_redirects,
    )
    curl.fetch(wanted)
