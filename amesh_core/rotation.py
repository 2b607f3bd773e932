"""A device moves on to a new key: what it says, and what a peer makes of it.

docs/protocol.md section 8. The statement is signed by both keys: the old one gives its place
away, the new one shows that somebody holds it, so nobody can be made to answer for a key that
is not his.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from amesh_core import crypto
from amesh_core.allow_list import AllowList
from amesh_core.device import ROTATED_TO, Device
from amesh_core.errors import (
    AlreadyRotated,
    BadSignature,
    BadStatement,
    FormerKeyUnknown,
    Malformed,
    OwnKey,
)
from amesh_core.identity import DeviceKey, Role, device_id
from amesh_core.wire.encoding import b64, instant, parse_instant
from amesh_core.wire.rotation import Statement

DEFAULT_OVERLAP_SECONDS: Final = 24 * 3600
# Longer, the old key is no former one any more but a second one.
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
# A statement lies about in mails and on disks; one that was never used ends by itself.
MAX_AGE_SECONDS: Final = 30 * 86_400
# How far the clock of the device may be ahead of ours.
MAX_AHEAD_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Swap:
    """What a statement makes of an allow list.

    `before` is the entry of the old key and `after` that of the new one, in its place;
    `overlap` is the entry under which the old key is still let in for a while, if it is.
    """

    allow_list: AllowList
    before: Device
    after: Device
    overlap: Device | None


def state(old: DeviceKey, new: DeviceKey, friendly_name: str, now: float) -> Statement:
    """The statement that `new` takes the place of `old`, signed by both."""
    unsigned = Statement(old.public, new.public, friendly_name, instant(now))
    return replace(
        unsigned,
        old_signature=old.sign(unsigned.signed_bytes("old")),
        new_signature=new.sign(unsigned.signed_bytes("new")),
    )


def read(data: bytes, now: float) -> Statement:
    """Parse a statement and check its age and both signatures.

    Raises:
        BadStatement: it is none, too old or from the future, or not signed by both keys.
    """
    try:
        statement = Statement.parse(data)
    except Malformed as error:
        raise BadStatement(f"this is no statement of a new key: {error}") from None
    check(statement, now)
    return statement


def check(statement: Statement, now: float) -> None:
    """Check the age of a statement and both signatures.

    Raises:
        BadStatement: as `read`.
    """
    age_seconds = now - parse_instant(statement.issued_at)
    if age_seconds > MAX_AGE_SECONDS:
        raise BadStatement(f"the statement is of {statement.issued_at}, which is too long ago")
    if age_seconds < -MAX_AHEAD_SECONDS:
        raise BadStatement(f"the statement is of {statement.issued_at}, which is yet to come")
    if statement.old_key == statement.new_key:
        raise BadStatement("the statement names one key twice")
    for which, key, signature in (
        ("old", statement.old_key, statement.old_signature),
        ("new", statement.new_key, statement.new_signature),
    ):
        try:
            crypto.verify(key, signature, statement.signed_bytes(which))
        except BadSignature:
            raise BadStatement(f"the statement is not signed by its {which} key") from None


def accept(
    allow_list: AllowList, statement: Statement, *, now: float, overlap_seconds: int
) -> Swap:
    """Let the new key of a statement that was checked take the old one's place on a list.

    Name, role, end of trust and everything else of the entry stay. A controller's old key is
    let in for `overlap_seconds` more, but no longer than it would have been, and counts as no
    controller.

    Raises:
        FormerKeyUnknown: the old key is not listed: it was revoked, or never paired.
        AlreadyRotated: the old key gave its place away before, or the new key has one.
        OwnKey: one of them is the key of this device.
    """
    if allow_list.owner in (statement.old_key, statement.new_key):
        raise OwnKey
    old_id, new_id = device_id(statement.old_key), device_id(statement.new_key)
    by_key = {device.public_key: device for device in allow_list.devices}
    before = by_key.get(statement.old_key)
    if before is None:
        raise FormerKeyUnknown(old_id)
    # A statement moves a key once; played again, it must not move it on, or back.
    if before.is_former:
        raise AlreadyRotated(f"{old_id} gave its place to {device_id(before.successor)} before")
    if any(new_id == device.device_id for device in allow_list.devices):
        raise AlreadyRotated(f"{new_id} is on the allow list already")
    after = replace(before, device_id=new_id, public_key=statement.new_key)
    overlap = _overlap(before, statement.new_key, now, overlap_seconds)
    devices = []
    for device in allow_list.devices:
        if device is before:
            devices.append(after)
        elif device.is_former and device.is_expired(now):
            continue
        elif device.is_former and device.successor == before.public_key:
            # A key that was moved on twice: its successor is always one that counts.
            devices.append(_former(device, statement.new_key))
        else:
            devices.append(device)
    if overlap is not None:
        devices.append(overlap)
    return Swap(replace(allow_list, devices=tuple(devices)), before, after, overlap)


def _overlap(before: Device, new_key: bytes, now: float, overlap_seconds: int) -> Device | None:
    # A target is never let in, so there is nothing to overlap.
    if before.role is not Role.CONTROLLER or not overlap_seconds or before.is_expired(now):
        return None
    end = instant(now + overlap_seconds)
    if before.expires_at is not None:
        end = min(end, before.expires_at)
    return _former(replace(before, expires_at=end), new_key)


def _former(device: Device, new_key: bytes) -> Device:
    return replace(device, extra={**device.extra, ROTATED_TO: b64(new_key)})
