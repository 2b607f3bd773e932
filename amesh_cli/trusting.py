"""Trust with an end: how it is typed, shown, and moved."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from amesh_cli import here, terminal
from amesh_core.errors import Malformed, UsageError
from amesh_core.identity import Role
from amesh_core.wire.durations import parse_duration
from amesh_core.wire.encoding import parse_instant

if TYPE_CHECKING:
    from amesh_core.allow_list import Device

# Beyond it, "forever" is what is meant; and the four digits of a year in our files suffice.
MAX_TRUST_SECONDS: Final = 100 * 366 * 86_400

# A unit is used from two of it on: "90 minutes" says more than "1 hour".
_UNITS: Final = ((86_400, "days"), (3_600, "hours"))


def parse_trust(text: str) -> int:
    """Read how long trust lasts, as seconds.

    Raises:
        UsageError: no duration, or more than a hundred years.
    """
    try:
        seconds = parse_duration(text)
    except Malformed as error:
        raise UsageError(str(error)) from None
    _check_length(seconds)
    return seconds


def _check_length(seconds: float) -> None:
    if seconds > MAX_TRUST_SECONDS:
        raise UsageError("that is more than a hundred years: leave trust without an end instead")


def extend(
    name: str, *, lasts: str | None, until: str | None, forever: bool, as_json: bool
) -> None:
    """Move the end of the trust in one controller.

    Raises:
        UsageError: not one of the three ways to say when, or no time to come.
        NoSuchDevice, AmbiguousDevice: the list does not say which.
        NotAController: a device that this one calls, or one without a role.
    """
    from amesh_cli.people import shown  # it is for ceremonies, and `list` needs none of that

    now = time.time()
    if [lasts is not None, until is not None, forever].count(True) != 1:
        raise UsageError("say when it ends with one of --for, --until and --forever")
    ends_at = None if forever else _ends_at(lasts, until, now)
    home = here.open_home()
    before = home.allow_list().find(name)
    with home.editing_allow_list(now) as edit:
        edit.allow_list = edit.allow_list.extended(before, ends_at)
    after = edit.allow_list.find(before.device_id)
    if as_json:
        terminal.json_result({"deviceId": after.device_id, "expiresAt": after.expires_at})
        return
    when = _when(after, now)
    terminal.result(f"Trust in {shown(after)} " + (f"ends {when}." if when else "has no end."))
    when = _when(before, now)
    terminal.say("Before, " + (f"the end was {when}." if when else "it had none."))


def _ends_at(lasts: str | None, until: str | None, now: float) -> float:
    if lasts is not None:
        return now + parse_trust(lasts)
    try:
        end = parse_instant(f"{until}T00:00:00.000Z")
    except Malformed:
        raise UsageError("--until takes a day, for example 2027-01-31") from None
    if end <= now:
        raise UsageError("that day has begun already; `amesh revoke` ends trust at once")
    _check_length(end - now)
    return end


def _when(device: Device, now: float) -> str | None:
    """When the trust ends or ended; None: it has no end."""
    match device.expires_at:
        case None:
            return None
        case text if (time_left := left(device, now)) is not None:
            return f"on {text[:10]} at {text[11:16]} UTC, in {time_left}"
        case _:
            return "in the past"


def left(device: Device, now: float) -> str | None:
    """How long this device may still call us; None without an end, or after it."""
    if device.role is not Role.CONTROLLER or device.expires_at is None or device.is_expired(now):
        return None
    # Whole ones: an instant is rounded to a thousandth, up or down.
    seconds = round(parse_instant(device.expires_at) - now)
    for size, unit in _UNITS:
        if round(seconds / size, 1) >= 2:
            return f"{round(seconds / size)} {unit}"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
