"""The sockets around the hub, in one event loop with a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from amesh_core.wire import relay as wire
from amesh_relay import patience, process
from amesh_relay.config import Config
from amesh_relay.limits import Limits
from tests.support.hub import JTI
from tests.support.relay import relay_in_process


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def say(device: ClientConnection, frame: wire.DeviceFrame) -> None:
    await device.send(wire.encode(frame))


async def hear(device: ClientConnection) -> wire.RelayFrame:
    async with asyncio.timeout(10):
        return wire.decode_from_relay(await device.recv())


async def end(device: ClientConnection) -> int | None:
    """The close code, once everything else was read."""
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionClosed) as closed:
            await device.recv()
    return closed.value.rcvd.code if closed.value.rcvd else None


def test_time_runs_out_without_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TICK_SECONDS", 0.01)

    async def story() -> None:
        clock = Clock()
        async with (
            relay_in_process(clock=clock) as url,
            connect(url, proxy=None) as silent,
            connect(url, proxy=None) as target,
            connect(url, proxy=None) as controller,
        ):
            await say(target, wire.Listen("482916"))
            assert await hear(target) == wire.Ack()
            clock.now += 59
            await say(controller, wire.Connect("482916"))
            assert await hear(target) == await hear(controller) == wire.PeerFound()
            clock.now += 1
            assert await end(silent) == 1008
            clock.now += 120
            for device in (target, controller):
                assert await hear(device) == wire.RelayErrorFrame("otc_expired")
                assert await end(device) == 1000

    asyncio.run(story())


def test_what_was_sent_before_a_hangup_arrives() -> None:
    """In order, and all of it, though the sender ends the session in the same breath."""

    async def story() -> None:
        async with (
            relay_in_process() as url,
            connect(url, proxy=None) as target,
            connect(url, proxy=None) as controller,
        ):
            await say(target, wire.Listen("482916"))
            assert await hear(target) == wire.Ack()
            await say(controller, wire.Connect("482916"))
            assert await hear(target) == await hear(controller) == wire.PeerFound()
            for number in range(60):
                await say(controller, wire.Data(f"{number}:" + "A" * 60_000))
            await say(controller, wire.Done())
            for number in range(60):
                frame = await hear(target)
                assert isinstance(frame, wire.Data)
                assert frame.payload.startswith(f"{number}:")
            assert await hear(target) == wire.Done()
            assert await end(target) == await end(controller) == 1000

    asyncio.run(story())


def test_a_payload_arrives_unchanged() -> None:
    payload = 'quotes " and \\ and / and \u0000\u001f\u007f\u2028 and é€😀 and <script>'

    async def story() -> None:
        async with (
            relay_in_process() as url,
            connect(url, proxy=None) as target,
            connect(url, proxy=None) as controller,
        ):
            await say(target, wire.Listen("482916"))
            await say(controller, wire.Listen("482917"))  # so that the first has surely arrived
            assert await hear(target) == await hear(controller) == wire.Ack()
            await say(controller, wire.Done())
            assert await end(controller) == 1000
            async with connect(url, proxy=None) as second:
                await say(second, wire.Connect("482916"))
                assert await hear(second) == await hear(target) == wire.PeerFound()
                # As another program might write it: escapes, spaces, another order of keys.
                text = json.dumps({"payload": payload, "type": "data"}, indent=1)
                await second.send(text)
                assert await hear(target) == wire.Data(payload)
                await target.send(json.dumps({"type": "data", "payload": payload}))
                assert await hear(second) == wire.Data(payload)

    asyncio.run(story())


def test_a_lost_peer_is_reported() -> None:
    async def story() -> None:
        async with relay_in_process() as url, connect(url, proxy=None) as target:
            async with connect(url, proxy=None) as controller:
                await say(target, wire.Listen("482916"))
                assert await hear(target) == wire.Ack()
                await say(controller, wire.Connect("482916"))
                assert await hear(target) == await hear(controller) == wire.PeerFound()
                controller.transport.abort()
            assert await hear(target) == wire.RelayErrorFrame("peer_disconnected")
            assert await end(target) == 1000

    asyncio.run(story())


def test_who_ends_others_by_the_clock_does_not_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session of which one side reads nothing runs out while somebody else speaks."""
    monkeypatch.setattr(process, "TICK_SECONDS", 3600.0)

    async def story() -> None:
        clock = Clock()
        async with (
            relay_in_process(clock=clock) as url,
            connect(url, proxy=None, max_queue=1) as deaf,
            connect(url, proxy=None) as sender,
        ):
            await say(deaf, wire.Listen("482916"))
            assert await hear(deaf) == wire.Ack()
            await say(sender, wire.Connect("482916"))
            assert await hear(deaf) == await hear(sender) == wire.PeerFound()
            deaf.transport.pause_reading()
            with suppress(TimeoutError):  # the flood stalls
                async with asyncio.timeout(1):
                    for _ in range(80):
                        await say(sender, wire.Data("A" * 60_000))
                    pytest.fail("nothing held the flood up")
            clock.now += 100
            async with connect(url, proxy=None) as other:
                clock.now += 30  # 130 without a frame: the frame below ends their session
                for _ in range(2):
                    await say(other, wire.BootstrapInit(JTI, "A"))
                    assert await hear(other) == wire.BootstrapReject(JTI, "no_watcher")
            deaf.transport.abort()
            sender.transport.abort()

    asyncio.run(story())


def test_a_peer_that_is_gone_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers no ping: its machine lost power, or its network."""
    monkeypatch.setattr(patience, "PING_SECONDS", 0.2)
    monkeypatch.setattr(patience, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(process, "TICK_SECONDS", 0.05)

    async def story() -> None:
        async with (
            relay_in_process() as url,
            connect(url, proxy=None) as gone,
            connect(url, proxy=None) as other,
        ):
            await say(gone, wire.Listen("482916"))
            assert await hear(gone) == wire.Ack()
            await say(other, wire.Connect("482916"))
            assert await hear(gone) == await hear(other) == wire.PeerFound()
            gone.transport.pause_reading()
            assert await hear(other) == wire.RelayErrorFrame("peer_disconnected")
            gone.transport.abort()

    asyncio.run(story())


def test_a_handshake_may_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HANDSHAKE_SECONDS", 0.2)
    monkeypatch.setattr(process, "TICK_SECONDS", 0.05)

    async def story() -> None:
        async with relay_in_process() as url:
            port = int(url.removesuffix("/ws").rpartition(":")[2])
            for half in (b"", b"GET /ws HTTP/1.1\r\nHost: x\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(half)
                async with asyncio.timeout(10):
                    with suppress(ConnectionResetError):
                        assert await reader.read() == b""
                writer.close()

    asyncio.run(story())


def test_who_runs_out_of_time_while_leaving_leaves() -> None:
    async def story() -> None:
        clock = Clock()
        config = Config("127.0.0.1", 0, limits=Limits(max_connections_per_address=1))
        async with relay_in_process(config, clock) as url:  # a place not given back would show
            async with connect(url, proxy=None) as silent:
                clock.now += 60
                await silent.close()
            async with connect(url, proxy=None) as target:
                await say(target, wire.Listen("482916"))
                assert await hear(target) == wire.Ack()
                clock.now += 60
                await target.close()
            async with connect(url, proxy=None) as controller:
                await say(controller, wire.Connect("482916"))
                assert await hear(controller) == wire.RelayErrorFrame("otc_expired")

    asyncio.run(story())


def test_who_sends_much_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and nobody is sent away: a fleet's controller may watch many tokens."""
    monkeypatch.setattr(process, "TICK_SECONDS", 3600.0)

    async def story() -> None:
        config = Config("127.0.0.1", 0, limits=Limits(max_messages_per_second=10))
        async with relay_in_process(config) as url, connect(url, proxy=None) as device:

            async def watch(first: int, last: int) -> None:
                for number in range(first, last):
                    await say(device, wire.BootstrapWatch(f"bt_{number:032x}"))
                    await hear(device)

            await watch(0, 11)  # the one over the limit was read before it was known to be
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watch(11, 12), 0.5)
            async with connect(url, proxy=None) as other:
                await say(other, wire.BootstrapWatch(JTI))
                assert await hear(other) == wire.BootstrapWatching(JTI)
            device.transport.abort()  # no farewell is read from it, either

    asyncio.run(story())


def test_the_next_second_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TICK_SECONDS", 0.05)

    async def story() -> None:
        config = Config("127.0.0.1", 0, limits=Limits(max_messages_per_second=10))
        async with relay_in_process(config) as url, connect(url, proxy=None) as device:
            for number in range(50):
                await say(device, wire.BootstrapWatch(f"bt_{number:032x}"))
            for number in range(50):
                assert await hear(device) == wire.BootstrapWatching(f"bt_{number:032x}")

    asyncio.run(story())
