"""`amesh rotate` and `amesh accept-rotation`, as people see them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_cli import here, pipes, protection, terminal
from amesh_cli.people import shown
from amesh_core import rotation
from amesh_core.card import fingerprint
from amesh_core.errors import Declined, Malformed, UsageError
from amesh_core.identity import Role, device_id
from amesh_core.io import rotating
from amesh_core.wire.durations import parse_duration
from amesh_core.wire.rotation import MAX_STATEMENT_BYTES, Pending

if TYPE_CHECKING:
    from amesh_core.allow_list import Device
    from amesh_core.io.home import Home
    from amesh_core.rotation import Swap
    from amesh_core.wire.rotation import Statement

STDIN: Final = "-"


def rotate(*, backend: str | None, finish: bool, abort: bool, force: bool, yes: bool) -> None:
    """Make a new key, or let the one that waits take over, or drop it.

    Raises:
        UsageError: options that contradict each other, or no terminal to ask at.
        Declined: the person said no.
        AmeshError: as the functions of `rotating`.
    """
    if finish and abort:
        raise UsageError("--finish and --abort exclude each other")
    if backend is not None and (finish or abort):
        raise UsageError("--backend is for the beginning, without --finish or --abort")
    if force and not finish:
        raise UsageError("--force goes with --finish")
    if finish:
        _finish(force=force, yes=yes)
    elif abort:
        dropped = _abort(here.open_home(), yes=yes)
        terminal.result(f"Dropped the new key, {device_id(dropped.new.public_key)}.")
        terminal.say("Where its statement was accepted already, revoke it and pair again.")
    else:
        _begin(backend)


def _abort(home: Home, *, yes: bool) -> Pending:
    file = rotating.find(home)
    if isinstance(file, Pending) and not yes:
        new = device_id(file.new.public_key)
        terminal.warn(
            f"the new key, {new}, will be destroyed. Who has accepted it already must pair with "
            "this device again."
        )
        if not terminal.confirm("Destroy the new key?", flag="--yes"):
            raise Declined
    return rotating.abort(home)


def _begin(backend: str | None) -> None:
    home = here.open_home()
    waiting = rotating.begin(home, backend=backend, now=time.time())
    statement = waiting.statement
    old, new = (device_id(key) for key in (statement.old_key, statement.new_key))
    terminal.result(statement.encode())
    how = "waits" if waiting.is_new else "has been waiting"
    terminal.say(f"\nThe new key {how}: {new}, in {protection.place(waiting.backend)}.")
    if waiting.passphrase_generated:
        terminal.warn("its passphrase was generated and lies beside it.")
    terminal.say(f"This device still signs as {old}. Now, on each device that is paired with it:\n")
    terminal.say("    amesh accept-rotation FILE    the line above in it, or - to paste it\n")
    terminal.say("It will show the fingerprint of the new key, which is\n")
    _show_fingerprint(statement)
    terminal.say("When all have accepted, and before their time for both keys is over:\n")
    terminal.say("    amesh rotate --finish         here: the new key takes over, the old one ends")


def _finish(*, force: bool, yes: bool) -> None:
    home = here.open_home()
    file = rotating.find(home)
    if isinstance(file, Pending) and not yes:
        old, new = (device_id(key) for key in (file.statement.old_key, file.new.public_key))
        terminal.warn(
            f"the old key, {old}, will be destroyed. Who has not accepted the new one, {new}, must "
            "pair with this device again."
        )
        if not terminal.confirm("Have all of them accepted it?", flag="--yes"):
            raise Declined
    renewed = rotating.finish(home, force=force, now=time.time())
    me = renewed.identity
    terminal.result(f"This device is now {me.device_id}. The old key is destroyed.")
    terminal.say(f"Its key is in {protection.place(renewed.backend)}; the allow list is as it was.")
    terminal.say("Services that run with this directory go on with the new key by themselves.")
    if protection.passphrase_beside_key(renewed) is not None:
        terminal.say("The passphrase lies beside the key: `amesh passphrase change` parts them.")


def accept(file: str, *, overlap: str, yes: bool, as_json: bool) -> None:
    """Let the new key of a paired device take the place of its old one.

    Raises:
        BadStatement: not signed by both keys, or too old.
        FormerKeyUnknown, AlreadyRotated, OwnKey: it moves no key of this list.
        UsageError: no such file or duration, or no terminal to ask at.
        Declined: the person said no.
    """
    overlap_seconds = _seconds(overlap)
    now = time.time()
    statement = rotation.read(_read(file), now)
    home = here.open_home()
    swap = rotation.accept(home.allow_list(), statement, now=now, overlap_seconds=overlap_seconds)
    if not yes:
        _show(swap, statement)
        if not terminal.confirm("Shall the new key take its place?", flag="--yes"):
            raise Declined
    with home.editing_allow_list(now) as edit:
        # Again, on the list as it is now: it may have been revoked while we asked.
        swap = rotation.accept(edit.allow_list, statement, now=now, overlap_seconds=overlap_seconds)
        edit.allow_list = swap.allow_list
    if as_json:
        terminal.json_result(_json(swap))
        return
    terminal.result(f"{shown(swap.after)} has taken the place of {swap.before.device_id}.")
    if (until := _until(swap.overlap)) is not None:
        terminal.say(f"The old key is let in, too, until {until}.")
    elif swap.before.role is Role.CONTROLLER:
        terminal.say("The old key is not let in any more.")


def _seconds(overlap: str) -> int:
    if overlap == "0":
        return 0
    try:
        seconds = parse_duration(overlap)
    except Malformed as error:
        raise UsageError(f"--overlap: {error}, or 0") from None
    if seconds > rotation.MAX_OVERLAP_SECONDS:
        days = rotation.MAX_OVERLAP_SECONDS // 86_400
        raise UsageError(f"--overlap: no longer than {days}d")
    return seconds


def _read(file: str) -> bytes:
    if file == STDIN and terminal.interactive():
        return terminal.ask("Paste the statement, one line:", flag="the argument FILE").encode()
    try:
        # One byte more than a statement has, so that a longer file is known for one.
        if file == STDIN:
            return pipes.stdin(MAX_STATEMENT_BYTES + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_STATEMENT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _show(swap: Swap, statement: Statement) -> None:
    before, after = swap.before, swap.after
    terminal.say(f"{shown(before)} moves on to a new key, and both keys have signed that.")
    if statement.friendly_name != before.friendly_name:
        terminal.say(f"It calls itself {terminal.quoted(statement.friendly_name)}.")
    terminal.say(f"  old  {before.device_id}")
    terminal.say(f"  new  {after.device_id}, which has this fingerprint:\n")
    _show_fingerprint(statement)
    terminal.say("`amesh rotate` on that device shows the same. If its old key may be in other")
    terminal.say("hands, look there, or call: whoever has the old key can make a statement, too.")
    if (until := _until(swap.overlap)) is not None:
        terminal.say(f"The old key would be let in until {until}.")


def _show_fingerprint(statement: Statement) -> None:
    for line in fingerprint(statement.new_key):
        terminal.say(f"    {line}", style="bold")
    terminal.say()


def _until(overlap: Device | None) -> str | None:
    if overlap is None or overlap.expires_at is None:
        return None
    return f"{overlap.expires_at[:10]} {overlap.expires_at[11:16]} UTC"


def _json(swap: Swap) -> dict[str, str | None]:
    return {
        "friendlyName": swap.after.friendly_name,
        "oldDeviceId": swap.before.device_id,
        "deviceId": swap.after.device_id,
        "role": swap.after.role,
        "oldKeyUntil": swap.overlap.expires_at if swap.overlap else None,
    }
