"""`bootstrap`: a device is made from a token, and announced, as a person or a script sees it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_cli import failures, here, making, pipes, terminal
from amesh_core import disk
from amesh_core.errors import (
    AmeshError,
    IdentityExists,
    NoIdentity,
    NotAcknowledged,
    NoToken,
    UsageError,
)
from amesh_core.io import announcing
from amesh_core.io.announcing import Ending
from amesh_core.io.bootstrapping import FoundToken, as_text, create_from, find_token
from amesh_core.io.home import Home
from amesh_core.wire.encoding import b64
from amesh_core.wire.token import OLD_PREFIX

if TYPE_CHECKING:
    from amesh_core.io.home import Created
    from amesh_core.settings import Settings
    from amesh_core.wire.announce import AnnounceFile

_LOOKS_LIKE_A_TOKEN: Final = ("eyJ", OLD_PREFIX)


def bootstrap(file: str | None, *, wait_seconds: float | None, as_json: bool) -> None:
    """Make the device if there is none, and announce it for `wait_seconds`, if any.

    Raises:
        NoToken, BadToken: there is no device, and no token that can be used to make one.
        NotAcknowledged: the device is there; its controller has not said that it knows.
        HomeError, KeyStoreError: the device cannot be made or opened.
    """
    settings = here.settings()
    home, created = _open_or_create(file, settings)
    if not as_json:
        _show(home, created)
    pending = announcing.read(home.directory)
    failure: NotAcknowledged | None = None
    if pending is not None and wait_seconds is not None:
        if not as_json:
            terminal.say(f"\nAnnouncing it at {pending.relay_url}, for {wait_seconds:g} s ...")
        failure = _announce(home, pending, wait_seconds, say_why=not as_json)
        if failure is None and not as_json:
            terminal.result("The controller has recorded this device.")
        pending = announcing.read(home.directory)
    if as_json:
        _show_json(home, created, pending)
    if failure is not None:
        raise failure
    if pending is not None and not as_json:
        terminal.say(f"\nNot announced yet. `amesh bootstrap` does it, until {pending.expires_at}.")


def _open_or_create(file: str | None, settings: Settings) -> tuple[Home, Created | None]:
    try:
        home = Home.open(settings)
    except NoIdentity:
        try:
            created = create_from(_token(file, settings), settings, time.time())
        except IdentityExists:  # another process has made it in this moment
            return Home.open(settings), None
        return created.home, created
    return home, None


def _token(file: str | None, settings: Settings) -> FoundToken:
    if file is None:
        found = find_token(settings)
        if found is None:
            raise NoToken("there is no bootstrap token, and no device in this directory yet")
        return found
    if file.startswith(_LOOKS_LIKE_A_TOKEN):
        # Every user of the machine can read a command line.
        raise UsageError(
            "a token does not belong on a command line, which others can read: give it in a file, "
            "or as - on standard input"
        )
    if file == "-":
        return FoundToken(as_text(pipes.stdin()), "standard input")
    data = disk.read(Path(file))
    if data is None:
        raise NoToken(f"there is no {file}")
    return FoundToken(as_text(data), file)


def _announce(
    home: Home, file: AnnounceFile, wait_seconds: float, *, say_why: bool
) -> NotAcknowledged | None:
    """Announce for so long; what to fail with if that was not enough."""
    last = NotAcknowledged("nobody answered")

    def trouble(error: AmeshError) -> None:
        nonlocal last
        if not isinstance(error, NotAcknowledged):
            error = NotAcknowledged(failures.sentence(error))
        if say_why and str(error) != str(last):
            terminal.say(f"  not yet: {error.reason}")
        last = error

    async def announce() -> Ending | None:
        try:
            async with asyncio.timeout(wait_seconds):
                return await announcing.announce(home, trouble=trouble)
        except TimeoutError:
            return None

    match asyncio.run(announce()):
        case Ending.ACKNOWLEDGED:
            return None
        # Another process has seen the end of it, and which end it was it did not say.
        case Ending.NOTHING_LEFT if not file.is_expired(time.time()):
            return None
        case Ending.EXPIRED | Ending.NOTHING_LEFT:
            return NotAcknowledged("its token has ended")
        case None:
            return last


def _show(home: Home, created: Created | None) -> None:
    me = home.identity
    if created is None:
        terminal.say(
            f"This device is {terminal.quoted(me.friendly_name)} ({me.device_id}) already; "
            "no token is needed."
        )
        return
    for backend, reason in created.reasons.items():
        terminal.say(f"not {backend}: {reason}")
    terminal.result(f"This device is now {terminal.quoted(me.friendly_name)}.")
    controllers = ", ".join(device.device_id for device in home.allow_list().controllers())
    terminal.facts(
        [
            ("device id", me.device_id),
            ("public key", b64(me.public_key)),
            ("key in", home.backend),
            ("directory", str(home.directory)),
            ("controller", f"{controllers}, which may call this device from now on"),
        ]
    )
    making.say_how_protected(created)


def _show_json(home: Home, created: Created | None, pending: AnnounceFile | None) -> None:
    me = home.identity
    terminal.json_result(
        {
            "deviceId": me.device_id,
            "friendlyName": me.friendly_name,
            "publicKey": b64(me.public_key),
            "storageBackend": home.backend,
            "directory": str(home.directory),
            "created": created is not None,
            "controllers": [device.device_id for device in home.allow_list().controllers()],
            "announceUntil": pending.expires_at if pending else None,
        }
    )
