"""amesh passphrase"""

from __future__ import annotations

from typing import Annotated

import typer

from amesh_cli.options import PassphraseAction


def passphrase(
    action: Annotated[PassphraseAction, typer.Argument(help="What to do.", metavar="change")],  # noqa: ARG001 there is only one
    new_passphrase_file: Annotated[
        str | None,
        typer.Option(help="Take the new passphrase from FILE; it is not copied.", metavar="FILE"),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Generate one, and keep it beside the key.")
    ] = False,
) -> None:
    """Encrypt the key file under another passphrase.

    Only for a key in an encrypted file. Without an option, asks for the new passphrase twice.
    """
    from amesh_cli import rekeying

    rekeying.change(file=new_passphrase_file, generate=generate)
