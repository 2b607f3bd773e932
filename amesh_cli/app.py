"""What can be typed: the Typer app, and the one place where errors become exit statuses.

`amesh --help` must be quick, so command modules hold thin signatures and import what they
need inside their bodies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

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


class _Command(TyperCommand):
    """A command whose usage names its arguments as its help does."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # Typer sets the name of an argument that must be there in braces, which read as a choice.
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


def _add(body: Callable[..., None], name: str | None = None) -> None:
    # What Click takes from a docstring for the list of commands it cuts to a line; what it is
    # given it wraps.
    summary = (body.__doc__ or "").partition("\n")[0]
    app.command(name, cls=_Command, short_help=summary)(body)


_add(init)
_add(listen)
_add(invite)
_add(provision)
_add(bootstrap)
_add(list_devices, "list")
_add(trust)
_add(revoke)
_add(export)
_add(import_card, "import")
_add(config)
_add(fetch)
_add(rotate)
_add(accept_rotation, "accept-rotation")
_add(passphrase)
_add(doctor)
_add(explain)
_add(demo)


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
    if isinstance(sys.stdout, TextIOWrapper):  # None when it was closed
        # A name that the encoding of this terminal has not is no reason to fail: stderr does so.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except AmeshError as error:
        from amesh_cli import failures, terminal

        failure = failures.failure(error)
        terminal.error(failures.sentence(error), failure.hint)
        sys.exit(failure.status)
    sys.exit(0)
