"""`amesh passphrase change`, as a person sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_cli import here, terminal
from amesh_core import disk
from amesh_core.errors import UsageError
from amesh_core.io import passphrase, rekeying

if TYPE_CHECKING:
    from amesh_core.io.home import Home
    from amesh_core.io.rekeying import Changed

_FILE_FLAG: Final = "--new-passphrase-file or --generate"


def change(*, file: str | None, generate: bool) -> None:
    """Ask for the new passphrase, or take it from where it is, and say what to set now.

    Raises:
        UsageError: contrary options, no terminal to ask at, two different answers.
        AmeshError: as `rekeying.change`.
    """
    if file is not None and generate:
        raise UsageError("--new-passphrase-file and --generate exclude each other")
    home = here.open_home()
    if file is not None:
        _check_elsewhere(home, Path(file))
    rekeying.check(home)  # before anybody thinks of a new one
    new = None if generate else _from_file(Path(file)) if file is not None else _asked()
    changed = rekeying.change(home, new)
    if new is None:
        terminal.result(f"The key is under a new passphrase, in {home.directory / passphrase.FILE}")
        if changed.to_change:
            terminal.warn(
                f"{changed.to_change} still has the old passphrase and comes first: take it away."
            )
    else:
        terminal.result("The key is under the new passphrase, which was written nowhere.")
        _say_where_it_belongs(home, changed, file)
    terminal.say("A service that runs keeps the key it has; it needs the new one when it starts.")
    terminal.say("Copies made of this directory before still open with the old one.")


def _check_elsewhere(home: Home, file: Path) -> None:
    beside = home.directory / passphrase.FILE
    if file.resolve() == beside.resolve():
        raise UsageError(
            f"{beside} would be deleted, and the new passphrase with it: put it into another file"
        )


def _from_file(path: Path) -> bytes:
    data = disk.read(path)
    if data is None:
        raise UsageError(f"there is no {path}")
    return passphrase.without_newline(data)


def _asked() -> bytes:
    new = terminal.ask_secret("New passphrase: ", flag=_FILE_FLAG)
    if terminal.ask_secret("The same again: ", flag=_FILE_FLAG) != new:
        raise UsageError("these were two different passphrases; nothing was changed")
    return new


def _say_where_it_belongs(home: Home, changed: Changed, file: str | None) -> None:
    if changed.to_change:
        terminal.warn(f"{changed.to_change} still has the old passphrase: put the new one there.")
    elif changed.was_beside_key:
        terminal.warn(
            "the passphrase beside the key is deleted. From now on, say where the new one is:"
        )
        name = Path(file).resolve() if file is not None else "FILE"
        terminal.say(f"  AMESH_PASSPHRASE_FILE={name}")
        terminal.say("  or AUTH_MESH_PASSPHRASE, or systemd: LoadCredential=amesh-passphrase:FILE")
    if file is not None and Path(file).resolve().is_relative_to(home.directory.resolve()):
        terminal.warn("it lies beside the key: who can copy this directory has the key.")
