"""The checks in their order, with a clock and a body that come when they are told to."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from amesh_core import crypto
from amesh_core.errors import (
    ClockSkew,
    TrustExpired,
    UnknownDevice,
)
from amesh_core.verification import Policy, RequestHead
from amesh_sdk.guard import Guard
from amesh_sdk.opened import OpenHome
from tests.sdk.clock import Clock
from tests.sdk.devices import Device
from tests.support.home import make_peer, record


def head(value: bytes) -> RequestHead:
    return RequestHead("POST", b"/orders", (value,), None)


def test_a_held_back_body_is_not_a_way_to_replay(target: Device, controller: Device) -> None:
    """Head in time, body when the nonce is forgotten: the timestamp is out of date by then."""
    clock = Clock(time.time())
    now = clock.now
    value = controller.sign("POST", "/orders", b"body", clock=lambda: now)
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)

    async def main() -> None:
        head_was_read, body_arrives = asyncio.Event(), asyncio.Event()

        async def later() -> bytes:
            head_was_read.set()
            await body_arrives.wait()
            return b"body"

        async def at_once() -> bytes:
            return b"body"

        slow = asyncio.create_task(guard.authenticate(head(value), later))
        await head_was_read.wait()
        await guard.authenticate(head(value), at_once)
        clock.now += 100
        body_arrives.set()
        with pytest.raises(ClockSkew):
            await slow

    asyncio.run(main())


def test_a_device_revoked_while_its_body_arrives_is_out(target: Device, controller: Device) -> None:
    value = controller.sign("POST", "/orders", b"body")
    guard = Guard(OpenHome(target.settings), Policy())

    async def revoking() -> bytes:
        target.revoke(controller)
        return b"body"

    with pytest.raises(UnknownDevice):
        asyncio.run(guard.authenticate(head(value), revoking))


def test_a_device_whose_trust_ends_while_its_body_arrives_is_out(
    target: Device, controller: Device
) -> None:
    """The list is the same one then, and the clock is still within the skew."""
    clock = Clock(time.time())
    target.trust_until(controller, clock.now + 5)
    value = controller.sign("POST", "/orders", b"body")
    guard = Guard(OpenHome(target.settings), Policy(), clock=clock)

    async def late() -> bytes:
        clock.now += 10
        return b"body"

    with pytest.raises(TrustExpired):
        asyncio.run(guard.authenticate(head(value), late))


def test_a_large_body_is_hashed_aside(
    target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"x" * (2 * 1024 * 1024)
    threads: list[threading.Thread] = []
    real = crypto.sha256

    def watched(data: bytes) -> bytes:
        if len(data) == len(large):
            threads.append(threading.current_thread())
        return real(data)

    value = controller.sign("POST", "/orders", large)
    monkeypatch.setattr(crypto, "sha256", watched)
    guard = Guard(OpenHome(target.settings), Policy(max_body_bytes=len(large)))

    async def whole() -> bytes:
        return large

    assert asyncio.run(guard.authenticate(head(value), whole)).friendly_name == "laptop"
    assert [thread is threading.main_thread() for thread in threads] == [False]


def test_a_thousand_controllers_are_told_apart(target: Device, controller: Device) -> None:
    record(target.home, *(make_peer(f"peer {n}") for n in range(1000)), now=time.time())
    value = controller.sign("POST", "/orders", b"")
    guard = Guard(OpenHome(target.settings), Policy())

    async def nothing() -> bytes:
        return b""

    identity = asyncio.run(guard.authenticate(head(value), nothing))
    assert identity.device_id == controller.device_id
