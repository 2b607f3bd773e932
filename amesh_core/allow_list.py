"""Who may call us and whom we may call: the allow list and its seal; docs/protocol.md section 2."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from amesh_core import crypto, identity
from amesh_core.device import ROTATED_TO
from amesh_core.device import Device as Device  # what a list is of is had from here, too
from amesh_core.errors import (
    AllowListTampered,
    AmbiguousDevice,
    Malformed,
    NoSuchDevice,
    NotAController,
    OwnKey,
    RoleConflict,
    TooManyControllers,
    TrustExpired,
    UnknownDevice,
)
from amesh_core.identity import MAX_NAME_CODE_POINTS, DeviceKey, Peer, Role, check_name
from amesh_core.wire.encoding import instant, parse_instant
from amesh_core.wire.files import AllowListFile

# Keys that a refreshed entry sets anew.
_OURS: Final = ("role", "expiresAt", "pairing", ROTATED_TO)
_ONE_MILLISECOND: Final = 0.001  # seconds; the resolution of every time in our files


@dataclass(frozen=True, slots=True)
class AllowList:
    """The devices that one device trusts; immutable, every change makes a new one.

    `owner` is that device's own 33-byte public key. `updated_at` moves only in `stamped`.
    """

    owner: bytes
    devices: tuple[Device, ...]
    updated_at: str
    _by_key: Mapping[bytes, Device] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_key = {device.public_key: device for device in self.devices}
        ids = {device.device_id for device in self.devices}
        # One key with two entries could be both roles; one id twice, revoked only once.
        if not len(by_key) == len(ids) == len(self.devices):
            raise Malformed("one device twice on the allow list")
        object.__setattr__(self, "_by_key", by_key)

    @classmethod
    def empty(cls, owner: bytes, now: float) -> AllowList:
        """The list of a new device."""
        return cls(owner, (), instant(now))

    @classmethod
    def parse(cls, data: bytes, key: DeviceKey) -> AllowList:
        """Read allow_list.json and check its seal with the device's own key.

        Raises:
            AllowListTampered: not an allow list, or not as this device sealed it.
        """
        try:
            file = AllowListFile.parse(data)
            _check_seal(file, key)
            return cls(key.public, tuple(map(Device.parse, file.devices)), file.updated_at)
        except Malformed as error:
            raise AllowListTampered(f"the allow list is not valid: {error}") from None

    def encode(self, key: DeviceKey) -> bytes:
        """Seal the list with the device's own key and write allow_list.json.

        Raises:
            Malformed: a value the seal cannot cover.
        """
        entries = tuple(device.entry() for device in self.devices)
        unsealed = AllowListFile(entries, self.updated_at, seal=b"", order=())
        return replace(unsealed, seal=key.mac(unsealed.sealed_bytes())).encode()

    def stamped(self, now: float) -> AllowList:
        """The list as it is written at `now`; its time grows even if the clock does not."""
        later = max(now, parse_instant(self.updated_at) + _ONE_MILLISECOND)
        return replace(self, updated_at=instant(later))

    def controller(self, public: bytes, now: float) -> Device:
        """The controller with this 33-byte key, in one look-up.

        Raises:
            UnknownDevice: the key is not listed.
            NotAController: it is listed as a target, or without a role we know.
            TrustExpired: its trust has ended by `now` (Unix seconds).
        """
        device = self._admitted(public, now)
        # No longer than the key that took its place, however the trust in that one ends.
        if device.is_former and self._admitted(device.successor, now).is_former:
            raise UnknownDevice("the key that took this one's place is a former one, too")
        return device

    def _admitted(self, public: bytes, now: float) -> Device:
        device = self._by_key.get(public)
        if device is None:
            raise UnknownDevice("the key is not on the allow list")
        if device.role is not Role.CONTROLLER:
            raise NotAController(device.device_id)
        if device.is_expired(now):
            raise TrustExpired(device.device_id)
        return device

    def controllers(self) -> tuple[Device, ...]:
        """The entries that count against the limit of controllers, expired ones too."""
        return tuple(
            device
            for device in self.devices
            if device.role is Role.CONTROLLER and not device.is_former
        )

    def former(self, device: Device) -> tuple[Device, ...]:
        """The entries of the keys that `device` had before, as far as they are still listed."""
        return tuple(d for d in self.devices if d.is_former and d.successor == device.public_key)

    def find(self, text: str) -> Device:
        """The one device a person means: by id, by the beginning of its id, or by name.

        Raises:
            NoSuchDevice: nothing answers to it.
            AmbiguousDevice: several do; the message has their ids.
        """
        # An id is exact. Everything else must leave no choice: a peer picks its own name,
        # and may pick one that looks like the beginning of another's id.
        for device in self.devices:
            if device.device_id == text:
                return device
        name = unicodedata.normalize("NFC", text)
        found = [
            device
            for device in self.devices
            # A former key has the name of the present one, which is who is meant.
            if (device.friendly_name == name and not device.is_former)
            or (len(text) > len("am_") and device.device_id.startswith(text))
        ]
        if not found:
            raise NoSuchDevice(f"no device answers to {text!r}")
        if len(found) > 1:
            ids = ", ".join(device.device_id for device in found)
            raise AmbiguousDevice(f"{text!r} could be any of {ids}")
        return found[0]

    def record(
        self,
        peer: Peer,
        *,
        added_by: str,
        now: float,
        limit: int,
        replacing: Collection[str] = (),
        pairing: str | None = None,
        expires_at: float | None = None,
    ) -> AllowList:
        """The list with `peer` on it, in the role it has to this device.

        A key that is listed in that role, or in none, is refreshed where it stands, its old
        expiry gone; trust ends at `expires_at` (Unix seconds), if ever. `limit` is how many
        controllers there may be; `replacing` are ids that leave in the same step.

        Raises:
            OwnKey: it is this device's own key.
            RoleConflict: the key is listed in the other role.
            TooManyControllers: it would be one more than `limit`.
            AmbiguousDevice: its id is that of another key.
            Malformed: its name is no good name, its id not that of its key.
        """
        if peer.public_key == self.owner:
            raise OwnKey
        if peer.device_id != identity.device_id(peer.public_key):
            raise Malformed("the id is not that of the key")
        check_name(peer.friendly_name)
        listed = self._by_key.get(peer.public_key)
        if listed is not None and listed.role not in (peer.role, None):
            raise RoleConflict(listed.device_id, str(listed.role))
        leaving = [device for device in self.devices if device.device_id in replacing]
        leaving += [former for device in leaving for former in self.former(device)]
        rest = [d for d in self.devices if d is not listed and d not in leaving]
        # A refreshed controller is not one more, even if the limit was lowered since.
        is_new = listed is None or listed.role is None or listed.is_former
        if peer.role is Role.CONTROLLER and is_new:
            others = sum(d.role is Role.CONTROLLER and not d.is_former for d in rest)
            if others >= limit:
                raise TooManyControllers(limit)
        if any(device.device_id == peer.device_id for device in rest):
            raise AmbiguousDevice(f"{peer.device_id} is already the id of another key")
        # What could not be read is settled now; what we do not know stays.
        extra = {k: v for k, v in listed.extra.items() if k not in _OURS} if listed else {}
        entry = Device(
            device_id=peer.device_id,
            public_key=peer.public_key,
            friendly_name=_unique_name(peer, [d for d in rest if not d.is_former]),
            added_at=instant(now),
            added_by=added_by,
            role=peer.role,
            expires_at=None if expires_at is None else instant(expires_at),
            pairing=pairing,
            extra=extra,
        )
        if listed is None:
            return replace(self, devices=(*rest, entry))
        rest.insert(self.devices.index(listed), entry)
        return replace(self, devices=tuple(rest))

    def revoke(self, device: Device) -> AllowList:
        """The list without `device`, found by its key, and without the keys it had before.

        Raises:
            NoSuchDevice: it is not listed (any more).
        """
        entry = self._listed(device)
        leaving = (entry, *self.former(entry))
        return replace(self, devices=tuple(d for d in self.devices if d not in leaving))

    def extended(self, device: Device, expires_at: float | None) -> AllowList:
        """The list on which trust in `device` ends at `expires_at` (Unix seconds), or never.

        Raises:
            NoSuchDevice: it is not listed (any more).
            NotAController: it may not call us, so there is no trust that could end.
        """
        entry = self._listed(device)
        if entry.role is not Role.CONTROLLER or entry.is_former:
            raise NotAController(entry.device_id)
        end = None if expires_at is None else instant(expires_at)
        # An end that was no text is among what we do not know, and must not stay there.
        extra = {key: value for key, value in entry.extra.items() if key != "expiresAt"}
        return self._with(entry, replace(entry, expires_at=end, extra=extra))

    def renamed(self, device: Device, name: str) -> AllowList:
        """The list on which `device` is called `name`.

        Raises:
            NoSuchDevice: it is not listed (any more).
            AmbiguousDevice: another device has this name.
            Malformed: no good name.
        """
        entry = self._listed(device)
        check_name(name)
        others = [d for d in self.devices if d is not entry and not d.is_former]
        if any(other.friendly_name == name for other in others):
            raise AmbiguousDevice(f"another device is called {name!r} here")
        return self._with(entry, replace(entry, friendly_name=name))

    def _listed(self, device: Device) -> Device:
        try:
            return self._by_key[device.public_key]
        except KeyError:
            raise NoSuchDevice(f"{device.device_id} is not listed") from None

    def _with(self, old: Device, new: Device) -> AllowList:
        return replace(self, devices=tuple(new if d is old else d for d in self.devices))


def _check_seal(file: AllowListFile, key: DeviceKey) -> None:
    if crypto.same(key.mac(file.sealed_bytes()), file.seal):
        return
    # Written by an early Node release; the next write seals it our way.
    if crypto.same(key.mac(file.legacy_sealed_bytes()), file.seal):
        return
    raise AllowListTampered("the seal of the allow list does not fit its contents")


def _unique_name(peer: Peer, others: list[Device]) -> str:
    if all(device.friendly_name != peer.friendly_name for device in others):
        return peer.friendly_name
    suffix = f" ({peer.device_id})"
    # Still a good name: cut to fit, and without a space before the one of the suffix.
    return peer.friendly_name[: MAX_NAME_CODE_POINTS - len(suffix)].rstrip(" ") + suffix
