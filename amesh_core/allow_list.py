"""Who may call us and whom we may call: the allow list and its seal; docs/protocol.md section 2."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from amesh_core import crypto, identity
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
from amesh_core.wire.encoding import b64, canonical_json, instant, parse_instant, unb64
from amesh_core.wire.files import AllowListFile, check_alias

_OURS: Final = ("role", "expiresAt", "pairing")  # keys that a refreshed entry sets anew
_ONE_MILLISECOND: Final = 0.001  # seconds; the resolution of every time in our files


@dataclass(frozen=True, slots=True)
class Device:
    """One entry of the list.

    `role` is None when it is missing or unknown: such a device may not authenticate, and
    is to be paired again. `expires_at` is the text of the entry, not necessarily a time.
    `pairing` is "v1" for a device paired over the older ceremony. `extra` holds what the
    entry says beyond that, as JSON; it is kept, and is under the seal.
    """

    device_id: str
    public_key: bytes
    friendly_name: str
    added_at: str
    added_by: str
    role: Role | None
    expires_at: str | None = None
    pairing: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Device:
        """Read one entry of allow_list.json.

        Raises:
            Malformed: an id, key, name, time or origin missing or of another form.
        """
        match entry:
            case {
                "deviceId": str(device_id),
                "publicKey": str(public_key),
                "friendlyName": str(friendly_name),
                "addedAt": str(added_at),
                "addedBy": str(added_by),
                **extra,
            }:
                pass
            case _:
                raise Malformed("an entry without id, key, name, time or origin")
        role = next((role for role in Role if role == extra.get("role")), None)
        if role is not None:
            del extra["role"]
        # Of another type than text it cannot be a time, so it counts as expired; its JSON
        # stands for it here, and the value itself stays in `extra`.
        expires_at = extra.get("expiresAt")
        if isinstance(expires_at, str):
            del extra["expiresAt"]
        elif "expiresAt" in extra:
            expires_at = canonical_json(expires_at).decode("utf-8")
        pairing = extra.get("pairing")
        if isinstance(pairing, str):
            del extra["pairing"]
        return cls(
            device_id=check_alias(device_id),
            public_key=unb64(public_key, length=crypto.PUBLIC_KEY_BYTES),
            friendly_name=friendly_name,
            added_at=added_at,
            added_by=added_by,
            role=role,
            expires_at=expires_at,
            pairing=pairing if isinstance(pairing, str) else None,
            extra=extra,
        )

    def entry(self) -> dict[str, Any]:
        """The entry as allow_list.json has it."""
        optional = {"role": self.role, "expiresAt": self.expires_at, "pairing": self.pairing}
        return {
            "deviceId": self.device_id,
            "publicKey": b64(self.public_key),
            "friendlyName": self.friendly_name,
            "addedAt": self.added_at,
            "addedBy": self.added_by,
            **{key: str(value) for key, value in optional.items() if value is not None},
            **self.extra,
        }

    def is_expired(self, now: float) -> bool:
        """Whether the trust has ended by `now` (Unix seconds); an unreadable end has passed."""
        if self.expires_at is None:
            return False
        try:
            return now >= parse_instant(self.expires_at)
        except Malformed:
            return True


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
        return tuple(device for device in self.devices if device.role is Role.CONTROLLER)

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
            if device.friendly_name == name
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
    ) -> AllowList:
        """The list with `peer` on it, in the role it has to this device.

        A key that is listed in that role, or in none, is refreshed where it stands, its
        expiry gone. `limit` is how many controllers there may be; `replacing` are ids
        that leave in the same step.

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
        rest = [
            device
            for device in self.devices
            if device is not listed and device.device_id not in replacing
        ]
        # A refreshed controller is not one more, even if the limit was lowered since.
        is_new = listed is None or listed.role is None
        if peer.role is Role.CONTROLLER and is_new:
            others = sum(device.role is Role.CONTROLLER for device in rest)
            if others >= limit:
                raise TooManyControllers(limit)
        if any(device.device_id == peer.device_id for device in rest):
            raise AmbiguousDevice(f"{peer.device_id} is already the id of another key")
        # What could not be read is settled now; what we do not know stays.
        extra = {k: v for k, v in listed.extra.items() if k not in _OURS} if listed else {}
        entry = Device(
            device_id=peer.device_id,
            public_key=peer.public_key,
            friendly_name=_unique_name(peer, rest),
            added_at=instant(now),
            added_by=added_by,
            role=peer.role,
            pairing=pairing,
            extra=extra,
        )
        if listed is None:
            return replace(self, devices=(*rest, entry))
        rest.insert(self.devices.index(listed), entry)
        return replace(self, devices=tuple(rest))

    def revoke(self, device: Device) -> AllowList:
        """The list without `device`, found by its key.

        Raises:
            NoSuchDevice: it is not listed (any more).
        """
        if device.public_key not in self._by_key:
            raise NoSuchDevice(f"{device.device_id} is not listed")
        rest = tuple(d for d in self.devices if d.public_key != device.public_key)
        return replace(self, devices=rest)


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
