"""The guard's second spelling keeps the order of the first; and what both warn about."""

from __future__ import annotations

import asyncio
import time

import pytest

from amesh_core.errors import ClockSkew, TrustExpired, UnknownDevice
from amesh_core.verification import AuthMeshIdentity, Policy, RequestHead
from amesh_sdk.guard import Guard
from amesh_sdk.opened import OpenHome
from tests.sdk.clock import Clock
from tests.sdk.devices import Device


def head(value: bytes) -> RequestHead:
    return RequestHead("POST", b"/orders", (value,), None)


def test_a_held_back_body_is_not_a_way_to_replay(target: Device, controller: Device) -> None:
    clock = Clock(time.time())
    now = clock.now
    value = controller.sign("POST", "/orders", b"body", clock=lambda: now)
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)

    def late() -> bytes:
        clock.now += 100
        return b"body"

    guard.authenticate_blocking(head(value), lambda: b"body")
    with pytest.raises(ClockSkew):
        guard.authenticate_blocking(head(value), late)


def test_a_device_revoked_while_its_body_arrives_is_out(target: Device, controller: Device) -> None:
    value = controller.sign("POST", "/orders", b"body")
    guard = Guard(OpenHome(target.settings), Policy())

    def revoking() -> bytes:
        target.revoke(controller)
        return b"body"

    try:
        with pytest.raises(UnknownDevice):
            guard.authenticate_blocking(head(value), revoking)
    finally:
        target.trust(controller)


def test_a_device_whose_trust_ends_while_its_body_arrives_is_out(
    target: Device, controller: Device
) -> None:
    clock = Clock(time.time())
    target.trust_until(controller, clock.now + 5)
    value = controller.sign("POST", "/orders", b"body")
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)

    def late() -> bytes:
        clock.now += 10
        return b"body"

    try:
        with pytest.raises(TrustExpired):
            guard.authenticate_blocking(head(value), late)
    finally:
        target.revoke(controller)
        target.trust(controller)


# --- a clock that is about to be wrong --------------------------------------------------


def let_in(guard: Guard, device: Device, now: float, skew: int, *, blocking: bool) -> None:
    value = device.sign("POST", "/orders", b"", clock=lambda: now + skew)
    identity: AuthMeshIdentity
    if blocking:
        identity = guard.authenticate_blocking(head(value), lambda: b"")
    else:

        async def nothing() -> bytes:
            return b""

        identity = asyncio.run(guard.authenticate(head(value), nothing))
    assert identity.device_id == device.device_id


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "async"])
@pytest.mark.parametrize(
    ("skew", "limit", "warned"),
    [
        (0, 30, False),
        (15, 30, False),
        (16, 30, True),
        (-16, 30, True),
        (30, 30, True),
        (2, 3, False),  # whole seconds, and the way here
        (3, 3, True),
        (16, 60, False),
    ],
)
def test_a_skew_near_the_limit_is_warned_about(
    target: Device,
    controller: Device,
    caplog: pytest.LogCaptureFixture,
    skew: int,
    limit: int,
    warned: bool,
    blocking: bool,
) -> None:
    clock = Clock(float(int(time.time())))
    policy = Policy(clock_skew_seconds=limit, nonce_window_seconds=120)
    guard = Guard(OpenHome(target.settings), policy, clock=clock)
    let_in(guard, controller, clock.now, skew, blocking=blocking)
    found = [
        (vars(line)["reason"], vars(line)["device_id"], vars(line)["skew_seconds"])
        for line in caplog.records
    ]
    expected = ("clock_skew_near_limit", controller.device_id, skew)
    assert found == ([expected] if warned else [])
    if warned:
        assert f"its clock is {skew:+d} s away" in caplog.text


def test_it_is_warned_about_once_a_minute_for_each_device(
    target: Device, controller: Device, stranger: Device, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(float(int(time.time())))
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)
    for _ in range(5):
        let_in(guard, controller, clock.now, 20, blocking=True)
    assert len(caplog.records) == 1
    target.trust(stranger)
    let_in(guard, stranger, clock.now, 20, blocking=True)
    assert [vars(line)["device_id"] for line in caplog.records] == [
        controller.device_id,
        stranger.device_id,
    ]
    clock.now += 60
    let_in(guard, controller, clock.now, 20, blocking=True)
    assert len(caplog.records) == 3
    target.revoke(stranger)


def test_who_is_refused_is_not_warned_about(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(time.time())
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)
    value = controller.sign("POST", "/orders", b"", clock=lambda: clock.now + 31)
    with pytest.raises(ClockSkew):
        guard.authenticate_blocking(head(value), lambda: b"")
    assert not caplog.records
