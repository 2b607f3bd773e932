"""What `amesh list` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amesh_cli import terminal
from amesh_core.wire.encoding import b64

if TYPE_CHECKING:
    from amesh_core.allow_list import AllowList, Device
    from amesh_core.io.home import Home


def as_table(home: Home, allow_list: AllowList, now: float) -> None:
    """Print this device and a line for each one it knows."""
    me = home.identity
    terminal.result(f"{terminal.quoted(me.friendly_name)} ({me.device_id}), key in {home.backend}")
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
    )


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
    if device.pairing == "v1":
        standing += ", older pairing"
    return standing, device.added_at[:10]


def as_json(home: Home, allow_list: AllowList, now: float) -> None:
    """Print the same as one JSON document."""
    me = home.identity
    terminal.json_result(
        {
            "deviceId": me.device_id,
            "friendlyName": me.friendly_name,
            "publicKey": b64(me.public_key),
            "storageBackend": home.backend,
            "maxControllers": home.max_controllers,
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
        "pairing": device.pairing or "v2",
    }
