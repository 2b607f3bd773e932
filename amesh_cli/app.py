"""What can be typed: the Typer app, and the one place where errors become exit statuses.

`amesh --help` must be quick, so command modules hold thin signatures and import what they
need inside their bodies.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from amesh_cli.commands.accept_rotation import accept_rotation
from amesh_cli.commands.bootstrap import bootstrap
from amesh_cli.commands.config import config
from amesh_cli.commands.demo import demo
from amesh_cli.commands.doctor import doctor
from amesh_cli.commands.explain import explain
from amesh_cli.commands.export import export
from amesh_cli.commands.fetch import fetch
from amesh_cli.commands.import_ import import_card
from amesh_cli.commands.init import init
from amesh_cli.commands.invite import invite
from amesh_cli.commands.list import list_devices
from amesh_cli.commands.listen import listen
from amesh_cli.commands.passphrase import passphrase
from amesh_cli.commands.provision import provision
from amesh_cli.commands.revoke import revoke
from amesh_cli.commands.rotate import rotate
from amesh_cli.commands.trust import trust
from amesh_core.errors import AmeshError

app = typer.Typer(
    name="amesh",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would double the time to the help text
    pretty_exceptions_enable=False,  # it prints local variables; keys are local variables
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init)
app.command()(listen)
app.command()(invite)
app.command()(provision)
app.command()(bootstrap)
app.command("list")(list_devices)
app.command()(trust)
app.command()(revoke)
app.command()(export)
app.command("import")(import_card)
app.command()(config)
app.command()(fetch)
app.command()(rotate)
app.command("accept-rotation")(accept_rotation)
app.command()(passphrase)
app.command()(doctor)
app.command()(explain)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"amesh {version('authmesh')}")
        raise typer.Exit


@app.callback()
def amesh(
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Machine-to-machine authentication without shared secrets.

    Each device holds its own key. Pair two devices once with a six-digit code; from then on
    the controller signs each HTTP request and the target verifies it.
    """


def main() -> NoReturn:
    """Run the command line; every error raised on purpose ends here, a bug keeps its traceback."""
    try:
        app()
    except AmeshError as error:
        from amesh_cli import failures, terminal

        failure = failures.failure(error)
        terminal.error(failures.sentence(error), failure.hint)
        sys.exit(failure.status)
    sys.exit(0)
