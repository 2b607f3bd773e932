"""Relays that share a Redis, and the devices at them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from tests.support.redis import RedisServer
from tests.support.relay import RelayProcess, hear, relay_process

# Longer than a relay takes to count as dead, or to find its Redis again.
PATIENCE_SECONDS: Final = 20


@contextmanager
def two_relays(redis: RedisServer) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    """Two relays of one Redis, both ready."""
    with sharing(redis) as one, sharing(redis) as other:
        yield one, other


@contextmanager
def sharing(redis: RedisServer, *options: str) -> Iterator[RelayProcess]:
    """A relay of that Redis, ready."""
    with relay_process("--state", redis.url, *options) as relay:
        until(lambda: status(relay, "/ready") == 200)
        yield relay


def status(relay: RelayProcess, path: str) -> int:
    """What it answers to a GET."""
    return httpx2.get(f"http://{relay.host}:{relay.port}{path}").status_code


def until(holds: Callable[[], bool]) -> None:
    """Ask again until it is so; what is waited for happens in another process."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def device(relay: RelayProcess) -> ClientConnection:
    """A device that connects."""
    return connect(relay.url, proxy=None)


def say(device: ClientConnection, frame: wire.DeviceFrame) -> None:
    """It sends a frame."""
    device.send(wire.encode(frame))


def ask(device: ClientConnection, frame: wire.DeviceFrame) -> wire.RelayFrame:
    """It sends a frame; the next that it is sent."""
    say(device, frame)
    return hear(device)


def close_code(device: ClientConnection) -> int | None:
    """The code that its connection is closed with; nothing else is said before."""
    with pytest.raises(ConnectionClosed) as closed:
        device.recv(timeout=PATIENCE_SECONDS)
    return closed.value.rcvd.code if closed.value.rcvd else None


@contextmanager
def session(
    one: RelayProcess, other: RelayProcess, otc: str = "482916"
) -> Iterator[tuple[ClientConnection, ClientConnection]]:
    """A target at one relay and a controller at another that met."""
    with device(one) as target, device(other) as controller:
        assert ask(target, wire.Listen(otc)) == wire.Ack()
        assert ask(controller, wire.Connect(otc)) == hear(target) == wire.PeerFound()
        yield target, controller
