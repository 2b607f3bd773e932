"""Who sent this request: the checks of docs/protocol.md section 3, in their order.

    head   -> check_form                                  400, 413
           -> Claim.admit(allow list, now)                401
    body   -> Admitted.verify(body, now)                  401, 413
           -> Verified.spend(nonces)                      401, 503
           -> AuthMeshIdentity

Each type gives out nothing but the next step, so no adapter can leave one out or take them
in another order: the identity comes out of `spend` alone. Whoever holds an AllowList has
checked its seal, so that step is taken before `admit` can be called.

What lives for one request only is not frozen: that would cost a microsecond for each type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from amesh_core import crypto
from amesh_core.allow_list import AllowList, Device
from amesh_core.errors import (
    ClockSkew,
    PayloadTooLarge,
    Replayed,
    UnsupportedVersion,
    UsageError,
)
from amesh_core.nonces import AsyncNonceStore, NonceStore
from amesh_core.request import VERSION, canonical_string, check_method
from amesh_core.wire import header
from amesh_core.wire import target as targets

# Timestamps are whole seconds: each of two clocks may be up to one second further than it says.
_ROUNDING_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """How far clocks may differ, how long nonces are remembered, how much body is held.

    Raises:
        UsageError: a negative value, or a window in which a request could be replayed.
    """

    clock_skew_seconds: int = 30
    nonce_window_seconds: int = 60
    max_body_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        if not (self.clock_skew_seconds >= 0 and self.max_body_bytes >= 0):
            raise UsageError("clock_skew_seconds and max_body_bytes must not be negative")
        # A request stamped `skew` ahead of us stays acceptable for 2 × skew.
        if not self.nonce_window_seconds >= 2 * self.clock_skew_seconds:
            raise UsageError("nonce_window_seconds must be at least twice clock_skew_seconds")


@dataclass(slots=True)
class RequestHead:
    """What a server knows of a request before it reads the body.

    `target` is as it came over the wire (an ASGI server's `raw_path` and query string),
    `authorization` the value of every Authorization line, `content_length` what the client
    says it will send, if it does.
    """

    method: str
    target: bytes
    authorization: Sequence[bytes]
    content_length: int | None


@dataclass(frozen=True, slots=True)
class AuthMeshIdentity:
    """The device that sent a request; `verified_at` in Unix seconds by our clock."""

    device_id: str
    friendly_name: str
    verified_at: int


def check_form(head: RequestHead, policy: Policy) -> Claim:
    """Step 1: refuse what no verifier could accept, at the cost of two regular expressions.

    Raises:
        MissingHeader, MalformedHeader, UnsupportedVersion: the Authorization header.
        MalformedRequest: the method or the target.
        PayloadTooLarge: a body longer than the policy allows is announced.
    """
    credential = header.parse(head.authorization)
    if credential.version != VERSION:
        raise UnsupportedVersion("the Authorization header is of another version")
    check_method(head.method)
    target = targets.check(head.target)
    if head.content_length is not None and head.content_length > policy.max_body_bytes:
        raise PayloadTooLarge(policy.max_body_bytes)
    return Claim(policy, credential, int(credential.timestamp), head.method, target)


@dataclass(slots=True)
class Claim:
    """A well-formed request that says who sent it."""

    _policy: Policy
    _credential: header.Credential
    _stamped_at: int
    _method: str
    _target: str

    def admit(self, allow_list: AllowList, now: int) -> Admitted:
        """Steps 2 and 3: the key is a listed controller's, and the timestamp is of today.

        The body is read only after this, so that who holds no listed key cannot make us
        hold anything. `now` is in Unix seconds.

        Raises:
            UnknownDevice, NotAController, TrustExpired: not a device that may call us.
            ClockSkew: stamped too long ago, or too far ahead.
        """
        device = allow_list.controller(self._credential.public_key, now)
        _check_clock(self._policy, self._stamped_at, now, device)
        return Admitted(self, device, self._stamped_at - now)


@dataclass(slots=True)
class Admitted:
    """A request whose body is worth reading; whether the device really sent it is open.

    `skew_seconds` is how far its timestamp was ahead of our clock (behind: negative).
    """

    _claim: Claim
    _device: Device
    skew_seconds: int

    def verify(self, body: bytes, now: int) -> Verified:
        """Step 5: the signature over method, target, timestamp, nonce and the body's bytes.

        `body` is as it came after transfer decoding and before content decoding. `now` is
        taken when the body is complete: who captured a request could otherwise send its
        head in time, hold back the body until the nonce is forgotten, and be let in.

        Raises:
            PayloadTooLarge: more than the policy allows; the adapter stops reading sooner.
            ClockSkew: the body took so long that the timestamp is out of date.
            BadSignature: the device did not sign this.
        """
        claim, device = self._claim, self._device
        policy, credential = claim._policy, claim._credential
        if len(body) > policy.max_body_bytes:
            raise PayloadTooLarge(policy.max_body_bytes)
        _check_clock(policy, claim._stamped_at, now, device)
        target = targets.canonical(claim._target)
        message = canonical_string(
            claim._method, target, credential.timestamp, credential.nonce, body
        )
        crypto.verify(device.public_key, credential.signature, message)
        identity = AuthMeshIdentity(device.device_id, device.friendly_name, now)
        # The nonce must outlive the last second in which any server that shares the store,
        # its clock within the skew of ours, would accept this timestamp.
        last_second = claim._stamped_at + 2 * policy.clock_skew_seconds + _ROUNDING_SECONDS
        ttl_seconds = max(policy.nonce_window_seconds, last_second - now)
        return Verified(identity, credential.nonce, ttl_seconds)


@dataclass(slots=True)
class Verified:
    """Signed by a device we trust, but perhaps not for the first time.

    Only here is the nonce recorded: who cannot sign can neither burn one nor fill the store.
    """

    _identity: AuthMeshIdentity
    _nonce: str
    _ttl_seconds: int

    def spend(self, nonces: NonceStore) -> AuthMeshIdentity:
        """Step 6: let the request in, once.

        Raises:
            Replayed: the device sent this nonce before.
            Unavailable: the store is full or out of reach; not refused for good.
        """
        identity = self._identity
        if not nonces.spend(identity.device_id, self._nonce, self._ttl_seconds):
            raise Replayed(identity.device_id)
        return identity

    async def aspend(self, nonces: AsyncNonceStore) -> AuthMeshIdentity:
        """As `spend`, for an event loop."""
        identity = self._identity
        if not await nonces.spend(identity.device_id, self._nonce, self._ttl_seconds):
            raise Replayed(identity.device_id)
        return identity


def _check_clock(policy: Policy, stamped_at: int, now: int, device: Device) -> None:
    # Not "if greater": a comparison that makes no sense must refuse.
    if not abs(stamped_at - now) <= policy.clock_skew_seconds:
        raise ClockSkew(stamped_at - now, device.device_id)
