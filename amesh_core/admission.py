"""Whether an announced key becomes a listed target; docs/protocol.md section 6, the controller.

    BootstrapInit
      verify          BadAnnouncement     the sender holds the token, and the key it names
    Announced
      .admit          TokenNotUsable      cancelled, expired, or its device revoked since
                      TokenUsedTwice      another key was first
                      OwnKey, AlreadyListed
    Admission         the token as used: written first; the list: written second

The order is the specification's: who does not hold the token learns nothing and changes
nothing, whatever else is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from amesh_core import crypto, identity
from amesh_core.allow_list import AllowList, Device
from amesh_core.device import BOOTSTRAP, BOOTSTRAP_UNPROVEN, BY_BOOTSTRAP
from amesh_core.errors import (
    AlreadyListed,
    BadAnnouncement,
    Malformed,
    TokenNotUsable,
    TokenUsedTwice,
)
from amesh_core.identity import Peer, Role
from amesh_core.provisioning import Announcement, check_announcement, hash_of, target_key
from amesh_core.wire import relay as wire
from amesh_core.wire import token
from amesh_core.wire.encoding import instant
from amesh_core.wire.provisioned import Minted


@dataclass(frozen=True, slots=True)
class Admission:
    """What an announcement leads to; `minted` must be on disk before `allow_list` is."""

    minted: Minted
    allow_list: AllowList
    device: Device


@dataclass(frozen=True, slots=True)
class Announced:
    """A key that was announced by who holds the token; made by `verify` alone.

    `friendly_name` is what the target calls itself, any text, to be shown and no more.
    """

    jti: str = field(repr=False)
    public_key: bytes
    friendly_name: str | None
    proven: bool

    def admit(self, minted: Minted, allow_list: AllowList, now: float) -> Admission:
        """Judge by what is on disk now, under the lock; a repetition changes nothing.

        Raises:
            TokenNotUsable, TokenUsedTwice, OwnKey, AlreadyListed: nothing is to change.
        """
        if minted.cancelled_at is not None:
            raise TokenNotUsable("the token was cancelled")
        if minted.is_expired(now):
            raise TokenNotUsable("the token has expired")
        if minted.used_by not in (None, self.public_key):
            raise TokenUsedTwice("another device has used the token")
        device_id = identity.device_id(self.public_key)
        used = replace(minted, used_by=self.public_key)
        for device in allow_list.devices:
            if device.public_key == self.public_key:
                # Only the entry that this token led to is confirmed again.
                if minted.used_by is None or device.role is not Role.TARGET:
                    raise AlreadyListed(device_id)
                return Admission(used, allow_list, device)
        # Not cut off by a crash but taken off the list: a relay that plays the announcement
        # again must not bring back a device that was revoked.
        if minted.recorded_at is not None:
            raise TokenNotUsable("the device that used the token was revoked since")
        extended = allow_list.record(  # which refuses this device's own key
            Peer(device_id, self.public_key, minted.name, Role.TARGET),
            added_by=BY_BOOTSTRAP,
            now=now,
            limit=0,  # of controllers; this is none
            pairing=BOOTSTRAP if self.proven else BOOTSTRAP_UNPROVEN,
        )
        return Admission(used, extended, extended.find(device_id))


def remember(text: str, *, for_node: bool) -> Minted:
    """What the controller keeps of a token that it has just minted."""
    parsed = token.parse(text)
    claims = parsed.claims
    return Minted(
        jti=claims.jti,
        token_hash=hash_of(text),
        name=claims.name,
        relay=claims.relay,
        minted_at=instant(claims.issued_at),
        expires_at=instant(claims.expires_at),
        for_node=for_node,
    )


def verify(frame: wire.BootstrapInit, minted: Minted) -> Announced:
    """Check who sent an announcement for `minted`, and nothing else yet.

    Raises:
        BadAnnouncement: not the token, not the key, or a form that this token does not allow.
    """
    if frame.jti != minted.jti:
        raise BadAnnouncement("the announcement is for another token")
    match frame:
        case wire.BootstrapInit(proof=None, mac=None, token=str(text)) if minted.for_node:
            return _verify_node_form(frame, text, minted)
        case _:
            announcement = Announcement.parse(frame)
            check_announcement(announcement, minted.token_hash)
            return Announced(
                announcement.jti,
                announcement.target_public_key,
                announcement.friendly_name,
                proven=True,
            )


def _verify_node_form(frame: wire.BootstrapInit, text: str, minted: Minted) -> Announced:
    if not crypto.same(hash_of(text), minted.token_hash):
        raise BadAnnouncement("the sender of the announcement does not hold the token")
    try:
        public_key = target_key(frame.target_public_key)
    except Malformed as error:
        raise BadAnnouncement(f"the announcement is malformed: {error}") from None
    return Announced(frame.jti, public_key, frame.friendly_name, proven=False)
