"""Threat: who sends much, reads nothing or opens many sockets takes the relay from others.

What stops it: limits per address and in all, on sockets as well as on connections; a peer
that does not read stalls who sends to it and nobody else, is not read from, and is cut when
that lasts (docs/protocol.md section 4, amesh_relay.connection). In the original there was no
cap on connections per address.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from contextlib import ExitStack
from typing import Final

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from amesh_relay import patience
from amesh_relay.config import Config
from amesh_relay.limits import Limits
from amesh_relay.server import Relay
from tests.relay.test_connection import HANDSHAKE, Transport, feed
from tests.support.relay import (
    PING,
    PONG,
    TEXT,
    RelayProcess,
    bystanders,
    frame,
    hear,
    raw_connection,
    raw_websocket,
    read_to_end,
    relay_in_process,
    relay_process,
)

# More than all buffers of a connection and its peer hold, ours and the kernel's.
BUFFERS_BYTES: Final = 2 * 1024 * 1024
ENDLESS_BYTES: Final = 8 * BUFFERS_BYTES


def refusal(relay: RelayProcess) -> tuple[wire.RelayFrame, int]:
    """What a connection too many is told, and the code it is closed with."""
    with connect(relay.url, proxy=None) as device:
        said = hear(device)
        with pytest.raises(ConnectionClosed) as closed:
            device.recv(timeout=10)
        assert closed.value.rcvd is not None
        return said, closed.value.rcvd.code


@pytest.mark.parametrize("option", ["--max-connections", "--max-connections-per-address"])
def test_one_connection_too_many(option: str) -> None:
    with relay_process(option, "3") as relay, bystanders(relay) as others:
        with connect(relay.url, proxy=None):
            assert refusal(relay) == (wire.RelayErrorFrame("too_many_connections"), 1013)
            others.check()
        # A place that is given back is free. The relay may notice a moment later.
        with connect(relay.url, proxy=None) as device:
            device.send(wire.encode(wire.Listen("123456")))
            assert hear(device) == wire.Ack()


def test_sockets_that_never_shake_hands_are_counted() -> None:
    """One address cannot fill the house with sockets that say nothing, or half a request."""
    with relay_process("--max-connections-per-address", "3") as relay, ExitStack() as opened:
        silent = [opened.enter_context(raw_connection(relay)) for _ in range(6)]
        silent[0].sendall(b"GET /ws HTTP/1.1\r\nHo")
        with raw_connection(relay) as too_many:
            too_many.settimeout(5)  # at once, not when its handshake has taken 10 s
            assert read_to_end(too_many) == b""
        for gone in silent[:2]:
            gone.shutdown(socket.SHUT_WR)
            read_to_end(gone)
        with bystanders(relay) as others:
            others.check()


def test_a_proxy_is_not_one_client() -> None:
    with (
        relay_process(
            "--max-connections-per-address", "1", "--trusted-proxy", "127.0.0.1"
        ) as relay,
        ExitStack() as opened,
    ):
        for number in range(5):
            headers = {"X-Forwarded-For": f"198.51.100.{number}"}
            device = opened.enter_context(
                connect(relay.url, additional_headers=headers, proxy=None)
            )
            device.send(wire.encode(wire.Listen(f"{number:06d}")))
            assert hear(device) == wire.Ack()
        again = {"X-Forwarded-For": "198.51.100.0"}
        device = opened.enter_context(connect(relay.url, additional_headers=again, proxy=None))
        assert hear(device) == wire.RelayErrorFrame("too_many_connections")


def flood(raw: socket.socket, data: bytes) -> int:
    """Send `data` again and again until nothing is taken for two seconds; the bytes taken."""
    raw.setblocking(False)
    sent = 0
    while sent < ENDLESS_BYTES and select.select([], [raw], [], 2)[1]:
        sent += raw.send(data[sent % len(data) :])
    return sent


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_pings_are_no_way_around_the_limit_of_messages(opcode: int) -> None:
    """One socket that pinged as fast as it could made everybody wait for seconds."""
    relay = Relay(Config(limits=Limits(max_messages_per_second=3)), lambda: 0.0)
    connection, transport = relay.connection(), Transport()
    connection.connection_made(transport)
    feed(connection, HANDSHAKE + frame(opcode, b"") * 3)
    was_reading = [transport.is_reading_]
    for _ in range(2):
        feed(connection, frame(opcode, b""))
        was_reading.append(transport.is_reading_)
        relay.tick()
        was_reading.append(transport.is_reading_)
        feed(connection, frame(opcode, b"") * 3)
    assert was_reading == [True, False, True, False, True]
    connection.connection_lost(None)


def test_a_flood_of_pings_stops_nobody() -> None:
    """Of as many connections as one client may have, each without a pause."""
    with relay_process() as relay, bystanders(relay) as others, ExitStack() as opened:
        flooders = [opened.enter_context(raw_websocket(relay)) for _ in range(90)]
        for raw in flooders:
            raw.setblocking(False)
        began = time.monotonic()
        for _ in range(10):
            for raw in select.select([], flooders, [], 0)[1]:
                raw.send(frame(PING, b"") * 2000)
            others.check()
        # Each of these took a second and more, while all pings were answered at once.
        assert time.monotonic() - began < 5


def test_pings_that_nobody_reads_the_pongs_of() -> None:
    with (
        relay_process("--max-messages-per-second", "1000000") as relay,
        bystanders(relay) as others,
        raw_websocket(relay, buffer_bytes=4096) as deaf,
    ):
        taken = flood(deaf, frame(PING, b"x" * 125) * 500)
        assert taken < BUFFERS_BYTES, "it goes on reading while nobody reads its pongs"
        others.check()


def test_who_reads_again_is_read_again() -> None:
    ping = frame(PING, b"x" * 125)
    fast = ("--max-messages-per-second", "1000000")
    with relay_process(*fast) as relay, raw_websocket(relay, buffer_bytes=4096) as raw:
        taken = flood(raw, ping * 500)
        unsent = ping[taken % len(ping) :] + frame(TEXT, b'{"type":"listen","otc":"123456"}')
        heard = b""
        while b"session_open" not in heard:
            readable, writable, _ = select.select([raw], [raw] if unsent else [], [], 5)
            assert readable or writable, "it does not go on reading"
            if readable:
                heard = heard[-100:] + raw.recv(65536)
            if writable:
                unsent = unsent[raw.send(unsent) :]


def test_a_peer_that_does_not_read_stalls_its_sender_only() -> None:
    with (
        relay_process() as relay,
        bystanders(relay) as others,
        raw_websocket(relay, buffer_bytes=4096) as sender,
        raw_websocket(relay, buffer_bytes=4096) as deaf,
    ):
        deaf.sendall(frame(TEXT, b'{"type":"listen","otc":"123456"}'))
        assert b"session_open" in deaf.recv(4096)
        sender.sendall(frame(TEXT, b'{"type":"connect","otc":"123456"}'))
        assert b"peer_found" in sender.recv(4096)
        data = frame(TEXT, b'{"type":"data","payload":"%b"}' % (b"A" * 60_000))
        # Far below the limit of a session, so it is the deaf peer that stops the sender.
        assert flood(sender, data) < BUFFERS_BYTES
        others.check()


def test_a_peer_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its sender is told, instead of waiting for the end of the session."""
    monkeypatch.setattr(patience, "SLOW_PEER_SECONDS", 0.2)

    async def ceremony() -> None:
        async with (
            relay_in_process() as url,
            connect_async(url, proxy=None, max_queue=1) as deaf,
            connect_async(url, proxy=None) as sender,
        ):
            await deaf.send(wire.encode(wire.Listen("123456")))
            assert "session_open" in str(await deaf.recv())
            await sender.send(wire.encode(wire.Connect("123456")))
            assert "peer_found" in str(await sender.recv())
            deaf.transport.pause_reading()

            async def send() -> None:
                while True:
                    await sender.send(wire.encode(wire.Data("A" * 60_000)))

            flooding = asyncio.create_task(send())
            async with asyncio.timeout(20):
                assert json.loads(await sender.recv())["code"] == "peer_disconnected"
                with pytest.raises(ConnectionClosed):
                    await flooding
            deaf.transport.abort()

    asyncio.run(ceremony())


def test_a_peer_that_reads_again_in_time_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SLOW_PEER_SECONDS", 2)

    async def ceremony() -> None:
        async with (
            relay_in_process() as url,
            connect_async(url, proxy=None, max_queue=1) as slow,
            connect_async(url, proxy=None) as sender,
        ):
            await slow.send(wire.encode(wire.Listen("123456")))
            assert "session_open" in str(await slow.recv())
            await sender.send(wire.encode(wire.Connect("123456")))
            assert "peer_found" in str(await slow.recv())
            assert "peer_found" in str(await sender.recv())

            async def send_all() -> None:
                while True:
                    await sender.send(wire.encode(wire.Data("A" * 60_000)))

            async def read_all() -> None:
                while True:
                    assert "AAAA" in str(await slow.recv())

            slow.transport.pause_reading()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send_all(), 0.5)
            slow.transport.resume_reading()
            # It reads all there is, for longer than it might have stalled, and no end comes.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read_all(), 3)
            await slow.send(wire.encode(wire.Data("still here")))
            assert "still here" in str(await sender.recv())

    asyncio.run(ceremony())
