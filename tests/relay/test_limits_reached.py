"""Every limit of the table of settings, reached by devices at a real relay."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields

import pytest
from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from amesh_relay.limits import Limits
from tests.support.relay import RelayProcess, hear, relay_process

LIMIT = 3
TRUSTED = ("--trusted-proxy", "127.0.0.1")


class Devices:
    """Opens them, and closes them in the end."""

    def __init__(self, relay: RelayProcess, on: ExitStack) -> None:
        self._relay = relay
        self._on = on

    def __call__(self, address: str = "198.51.100.1") -> ClientConnection:
        """One more, of a client behind a proxy."""
        headers = {"X-Forwarded-For": address}
        opened = connect(self._relay.url, additional_headers=headers, proxy=None)
        return self._on.enter_context(opened)


def ask(device: ClientConnection, frame: wire.DeviceFrame) -> wire.RelayFrame:
    device.send(wire.encode(frame))
    return hear(device)


def too_many_connections(devices: Devices) -> None:
    for number in range(LIMIT):
        assert ask(devices(f"198.51.100.{number}"), wire.Listen(f"00000{number}")) == wire.Ack()
    assert hear(devices("198.51.100.9")) == wire.RelayErrorFrame("too_many_connections")


def too_many_of_an_address(devices: Devices) -> None:
    for number in range(LIMIT):
        assert ask(devices("2001:db8::1"), wire.Listen(f"00000{number}")) == wire.Ack()
    # All of a /64 is one client.
    assert hear(devices("2001:db8::2")) == wire.RelayErrorFrame("too_many_connections")
    assert ask(devices("2001:db8:0:1::2"), wire.Listen("000009")) == wire.Ack()


def too_many_sessions(devices: Devices) -> None:
    for number in range(LIMIT):
        assert ask(devices(f"198.51.100.{number}"), wire.Listen(f"00000{number}")) == wire.Ack()
    full = wire.RelayErrorFrame("relay_capacity")
    assert ask(devices("198.51.100.9"), wire.Listen("000009")) == full
    # Who is expected comes in all the same.
    assert ask(devices("198.51.100.9"), wire.Connect("000000")) == wire.PeerFound()


def too_many_sessions_of_an_address(devices: Devices) -> None:
    for number in range(LIMIT):
        assert ask(devices(), wire.Listen(f"00000{number}")) == wire.Ack()
    last = devices()
    assert ask(last, wire.Listen("000009")) == wire.RelayErrorFrame("relay_capacity")
    assert ask(devices("198.51.100.9"), wire.Listen("000009")) == wire.Ack()


def too_many_watches(devices: Devices) -> None:
    watcher = devices()
    for number in range(LIMIT):
        jti = f"bt_{number:032x}"
        assert ask(watcher, wire.BootstrapWatch(jti)) == wire.BootstrapWatching(jti)
    jti = f"bt_{9:032x}"
    overloaded = wire.BootstrapReject(jti, "relay_overloaded")
    assert ask(watcher, wire.BootstrapWatch(jti)) == overloaded
    assert ask(devices(), wire.BootstrapWatch(jti)) == wire.BootstrapWatching(jti)


def too_many_messages(devices: Devices) -> None:
    """They wait, and nothing is lost: at three a second, twelve take some seconds."""
    device = devices()
    began = time.monotonic()
    for number in range(4 * LIMIT):
        device.send(wire.encode(wire.BootstrapWatch(f"bt_{number:032x}")))
    for number in range(4 * LIMIT):
        assert hear(device) == wire.BootstrapWatching(f"bt_{number:032x}")
    # Whether all of the first three were within one second is not ours to say.
    assert time.monotonic() - began < 20
    for number in range(4 * LIMIT, 8 * LIMIT):
        frame = wire.BootstrapWatch(f"bt_{number:032x}")
        assert ask(device, frame) == wire.BootstrapWatching(f"bt_{number:032x}")
    assert time.monotonic() - began > 2


REACHED: dict[str, Callable[[Devices], None]] = {
    "max_connections": too_many_connections,
    "max_connections_per_address": too_many_of_an_address,
    "max_sessions": too_many_sessions,
    "max_sessions_per_address": too_many_sessions_of_an_address,
    "max_watches": too_many_watches,
    "max_messages_per_second": too_many_messages,
}


def test_every_limit_is_reached_here() -> None:
    assert set(REACHED) == {field.name for field in fields(Limits)}


@pytest.mark.parametrize("name", REACHED)
def test_a_limit_is_reached(name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    with relay_process(*TRUSTED, option, str(LIMIT)) as relay, ExitStack() as on:
        REACHED[name](Devices(relay, on))
        assert "Traceback" not in relay.log()
