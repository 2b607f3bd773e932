"""What `amesh list` shows."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from amesh_cli import terminal, unacknowledged
from amesh_cli.protection import place
from amesh_cli.trusting import left
from amesh_core.device import BOOTSTRAP_UNPROVEN
from amesh_core.errors import Malformed
from amesh_core.identity import device_id
from amesh_core.keystore import HARDWARE_BOUND
from amesh_core.wire.encoding import b64

if TYPE_CHECKING:
    from amesh_core.allow_list import AllowList, Device
    from amesh_core.io.home import Home
    from amesh_core.wire.announce import AnnounceFile


def as_table(home: Home, allow_list: AllowList, now: float) -> None:
    """Print this device and a line for each one it knows."""
    me = home.identity
    terminal.result(
        f"{terminal.quoted(me.friendly_name)} ({me.device_id}), key in {place(home.backend)}"
    )
    if (file := _announcement(home)) is not None:
        terminal.warn(f"{unacknowledged.sentence(file, now)}.")
    if not allow_list.devices:
        terminal.say("No devices yet. Pair one: `amesh listen` here and `amesh invite` there.")
        return
    terminal.result("")
    terminal.table(
        ("device", "name", "trust", "since"),
        [
            (device.device_id, terminal.quoted(device.friendly_name), *_standing(device, now))
            for device in allow_list.devices
        ],
        folded=("name", "trust"),  # an id or a date that is cut is worth nothing
    )


def _announcement(home: Home) -> AnnounceFile | None:
    with suppress(Malformed):  # which `amesh doctor` shows; the list is as good as it was
        return unacknowledged.announcement(home)
    return None


def _standing(device: Device, now: float) -> tuple[str, str]:
    match device.role:
        case None:
            standing = "has no role: pair it again"
        case "controller":
            standing = "may call this device"
        case _:
            standing = "this device may call it"
    if device.is_expired(now):
        standing = "expired"
    if device.is_former:
        standing += f", former key of {device_id(device.successor)}"
    if (time_left := left(device, now)) is not None:
        standing += f", {time_left} left"
    if device.pairing == "v1":
        standing += ", older pairing"
    if device.pairing == BOOTSTRAP_UNPROVEN:
        standing += ", key unproven"
    return standing, device.added_at[:10]


def as_json(home: Home, allow_list: AllowList, now: float) -> None:
    """Print the same as one JSON document."""
    me = home.identity
    file = _announcement(home)
    terminal.json_result(
        {
            "deviceId": me.device_id,
            "friendlyName": me.friendly_name,
            "publicKey": b64(me.public_key),
            "storageBackend": home.backend,
            "hardwareBound": home.backend in HARDWARE_BOUND,
            "maxControllers": home.max_controllers,
            "announceUntil": file.expires_at if file else None,
            "devices": [_entry(device, now) for device in allow_list.devices],
        }
    )


def _entry(device: Device, now: float) -> dict[str, Any]:
    return {
        "deviceId": device.device_id,
        "friendlyName": device.friendly_name,
        "publicKey": b64(device.public_key),
        "role": device.role,
        "addedAt": device.added_at,
        "expiresAt": device.expires_at,
        "expired": device.is_expired(now),
        "rotatedTo": device_id(device.successor) if device.is_former else None,
        "addedBy": device.added_by,
        "pairing": device.pairing or ("v2" if device.added_by == "handshake" else None),
    }
