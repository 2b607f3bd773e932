"""One entry of the allow list; docs/protocol.md section 2.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from amesh_core import crypto
from amesh_core.errors import Malformed
from amesh_core.identity import Role
from amesh_core.wire.encoding import b64, canonical_json, parse_instant, unb64
from amesh_core.wire.files import check_alias

# `addedBy` and `pairing` of an entry that a bootstrap token brought about. Of the form of Node
# targets nobody signed for the key.
BY_BOOTSTRAP: Final = "bootstrap"
BOOTSTRAP: Final = "bootstrap"
BOOTSTRAP_UNPROVEN: Final = "bootstrap-unproven"

ROTATED_TO: Final = "rotatedTo"  # of a former key: the one that took its place, b64


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

    @property
    def is_former(self) -> bool:
        """Whether another key took this one's place, and it is only still let in for a while."""
        return ROTATED_TO in self.extra

    @property
    def successor(self) -> bytes:
        """The 33-byte key that took this one's place; no key at all if none can be read."""
        try:
            return unb64(str(self.extra.get(ROTATED_TO)), length=crypto.PUBLIC_KEY_BYTES)
        except Malformed:
            return b""

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
