"""Signed requests and the side that verifies them, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from amesh_core.allow_list import AllowList
from amesh_core.allow_list import Device as Listed
from amesh_core.identity import Role
from amesh_core.nonces import MemoryNonceStore
from amesh_core.request import canonical_string, sign
from amesh_core.verification import AuthMeshIdentity, Policy, RequestHead, check_form
from amesh_core.wire.encoding import instant
from amesh_core.wire.header import Credential
from tests.support.ceremony import Device

NOW: Final = 1_767_323_045
NONCE: Final = bytes(range(16))
CONTROLLER: Final = Device.named("laptop")
STRANGER: Final = Device.named("stranger")


def listed(
    device: Device, *, role: Role | None = Role.CONTROLLER, expires_at: str | None = None
) -> Listed:
    """The entry of a device."""
    return Listed(
        device_id=device.identity.device_id,
        public_key=device.key.public,
        friendly_name=device.identity.friendly_name,
        added_at=instant(NOW),
        added_by="handshake",
        role=role,
        expires_at=expires_at,
    )


def trusting(*entries: Listed) -> AllowList:
    """The list of some target with these entries, or with the usual controller on it."""
    owner = Device.named("target").key.public
    return AllowList(owner, entries or (listed(CONTROLLER),), instant(NOW))


@dataclass(frozen=True)
class Request:
    """A request as it arrives; changes leave the signature as it is."""

    method: str
    target: bytes
    body: bytes
    authorization: tuple[bytes, ...]

    def head(self, content_length: int | None = None) -> RequestHead:
        return RequestHead(self.method, self.target, self.authorization, content_length)

    def changed(
        self,
        *,
        method: str | None = None,
        target: bytes | None = None,
        body: bytes | None = None,
        authorization: tuple[bytes, ...] | None = None,
    ) -> Request:
        return Request(
            self.method if method is None else method,
            self.target if target is None else target,
            self.body if body is None else body,
            self.authorization if authorization is None else authorization,
        )


def signed(
    method: str = "POST",
    target: bytes = b"/api/orders?b=2&a=1",
    body: bytes = b'{"amount":100}',
    *,
    by: Device = CONTROLLER,
    now: int = NOW,
    nonce: bytes = NONCE,
) -> Request:
    """A request as the SDK of `by` sends it."""
    value = sign(method, target, body, by.key, now=now, nonce=nonce)
    return Request(method, target, body, (value.encode("ascii"),))


def forged(
    method: str, target: bytes, canonical: str, body: bytes = b"", *, by: Device = CONTROLLER
) -> Request:
    """A request to `target` with a good signature by `by` over whatever target text."""
    nonce = "forged"
    message = canonical_string(method, canonical, str(NOW), nonce, body)
    credential = Credential("1", by.key.public, str(NOW), nonce, by.key.sign(message))
    return Request(method, target, body, (credential.encode().encode("ascii"),))


class Clock:
    """Seconds that go when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class CountingStore:
    """A memory store that also notes every nonce it was asked to spend."""

    def __init__(self, clock: Clock) -> None:
        self._store = MemoryNonceStore(clock=clock)
        self.asked: list[tuple[str, str, int]] = []

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        self.asked.append((device_id, nonce, ttl_seconds))
        return self._store.spend(device_id, nonce, ttl_seconds)


@dataclass
class Service:
    """The verifying side: a list, a policy, a nonce store, and clocks that go together."""

    allow_list: AllowList = field(default_factory=trusting)
    policy: Policy = field(default_factory=Policy)
    now: int = NOW

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.nonces = CountingStore(self.clock)

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.now = NOW + int(self.clock.now - 1000)

    def authenticate(self, request: Request) -> AuthMeshIdentity:
        """All steps, as an adapter takes them."""
        claim = check_form(request.head(), self.policy)
        admitted = claim.admit(self.allow_list, self.now)
        return admitted.verify(request.body, self.now).spend(self.nonces)
