"""Making this device's identity, as a person sees it."""

from __future__ import annotations

import socket
import textwrap
import time
from typing import TYPE_CHECKING

from amesh_cli import protection, terminal
from amesh_core.errors import Declined, HomeError, IdentityExists, Malformed, NoIdentity, UsageError
from amesh_core.identity import check_name
from amesh_core.io import identity_file
from amesh_core.io.home import Home
from amesh_core.wire.encoding import b64

if TYPE_CHECKING:
    from amesh_core.io.home import Created
    from amesh_core.settings import Settings


def choose_name(given: str | None, settings: Settings, *, replace: bool) -> str:
    """The name given, or asked for with this machine's name as the default.

    Raises:
        UsageError: not a good name, or none and no terminal to ask at.
        IdentityExists: there is one already, so there is no use in asking.
    """
    if given is not None:
        try:
            return check_name(given)
        except Malformed as error:
            raise UsageError(f"this name cannot be used: {error}") from None
    if not replace and (present := identity_file.read(settings.directory)) is not None:
        raise IdentityExists(present.device_id, str(settings.directory))
    while True:
        name = terminal.ask(
            "How shall other devices show this one?", flag="--name", default=socket.gethostname()
        )
        try:
            return check_name(name)
        except Malformed as error:
            terminal.warn(f"{error}.")


def agree_to_replace(settings: Settings, *, yes: bool) -> bool:
    """Ask before an identity is replaced; whether there is anything to replace.

    Raises:
        Declined: the person said no.
        UsageError: there is something to ask and no terminal.
    """
    try:
        there = Home.open(settings)
        what = f"{terminal.quoted(there.identity.friendly_name)} ({there.identity.device_id})"
    except NoIdentity:
        return False
    except HomeError:
        what = "the damaged identity"
    if not yes:
        terminal.warn(f"every device paired with {what} will have to pair again.")
        if not terminal.confirm(f"Replace {what}? A backup is kept.", flag="--yes"):
            raise Declined
    return True


def create(
    settings: Settings, *, name: str, backend: str | None, max_controllers: int, replace: bool
) -> Created:
    """Make key, list and identity."""
    return Home.create(
        settings,
        name=name,
        backend=backend,
        max_controllers=max_controllers,
        replace=replace,
        now=time.time(),
    )


def show(created: Created, *, as_json: bool) -> None:
    """Say what was made, how it is protected, and what comes next."""
    home = created.home
    me = home.identity
    if as_json:
        terminal.json_result(
            {
                "deviceId": me.device_id,
                "friendlyName": me.friendly_name,
                "publicKey": b64(me.public_key),
                "storageBackend": home.backend,
                "hardwareBound": created.hardware_bound,
                "notChosen": dict(created.reasons),
                "passphraseBesideKey": protection.passphrase_beside_key(home) is not None,
                "maxControllers": home.max_controllers,
                "directory": str(home.directory),
                "backup": str(created.backup) if created.backup else None,
            }
        )
        return
    for backend, reason in created.reasons.items():
        terminal.say(f"not {backend}: {reason}")
    terminal.result(f"This device is now {terminal.quoted(me.friendly_name)}.")
    terminal.facts(
        [
            ("device id", me.device_id),
            ("public key", b64(me.public_key)),
            ("key in", protection.place(home.backend)),
            ("directory", str(home.directory)),
            *([("backup", str(created.backup))] if created.backup else []),
        ]
    )
    say_how_protected(created)
    terminal.say("\nNext, to pair it:")
    terminal.say("  to be called:  amesh listen        here, and type its code on the other device")
    terminal.say("  to call:       amesh invite CODE   here, after `amesh listen` on the other one")


def say_how_protected(created: Created) -> None:
    """Say who could use the key, and what follows from where it is."""
    warning, advice = protection.warning_and_advice(
        created.home, generated=created.passphrase_generated
    )
    if warning is not None:
        terminal.warn(warning)
    terminal.say(textwrap.indent(advice, "  "))
