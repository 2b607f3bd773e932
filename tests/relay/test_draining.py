"""How a relay ends: pairings may finish, nobody new comes in, and somebody may be in a hurry."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from tests.support.hub import JTI
from tests.support.relay import Bystanders, RelayProcess, bystanders, hear, relay_process
from tests.support.relay_commands import LOOPS


@contextmanager
def draining(relay: RelayProcess) -> Iterator[Bystanders]:
    """A relay that was told to end while one pairing runs, and others only wait."""
    with (
        bystanders(relay) as pair,
        connect(relay.url, proxy=None) as target,
        connect(relay.url, proxy=None) as watcher,
        connect(relay.url, proxy=None) as silent,
    ):
        target.send(wire.encode(wire.Listen("123456")))
        assert hear(target) == wire.Ack()
        watcher.send(wire.encode(wire.BootstrapWatch(JTI)))
        assert hear(watcher) == wire.BootstrapWatching(JTI)
        relay.process.terminate()
        assert [ending(device) for device in (target, watcher, silent)] == [1001] * 3
        yield pair


def ending(device: ClientConnection) -> int | None:
    """The close code, before which nothing comes."""
    with pytest.raises(ConnectionClosed) as closed:
        device.recv(timeout=10)
    return closed.value.rcvd.code if closed.value.rcvd else None


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_a_pairing_that_runs_may_finish(command: Sequence[str]) -> None:
    with (
        relay_process("--drain-seconds", "60", command=command) as relay,
        draining(relay) as pair,
    ):
        pair.check()
        pair.controller.send(wire.encode(wire.Done()))
        assert hear(pair.target) == wire.Done()
        assert ending(pair.target) == ending(pair.controller) == 1000
        began = time.monotonic()
        assert relay.wait() == 0
        assert time.monotonic() - began < 10, "it does not end with the last pairing"
        assert "Traceback" not in relay.log()


def test_meanwhile_nobody_comes_in_and_everybody_is_told() -> None:
    with relay_process("--drain-seconds", "60") as relay:
        http = f"http://{relay.host}:{relay.port}"
        assert httpx2.get(f"{http}/ready").status_code == 200
        with draining(relay) as pair:
            with pytest.raises(InvalidStatus) as refused:
                connect(relay.url, proxy=None)
            response, answer = refused.value.response, httpx2.get(f"{http}/ready")
            assert (response.status_code, answer.status_code) == (503, 503)
            assert response.headers["Retry-After"] == answer.headers["Retry-After"] == "5"
            assert httpx2.get(f"{http}/health").json() == {
                "status": "ok",
                "connections": 2,
                "sessions": 1,
            }
            assert "amesh_relay_draining 1.0" in httpx2.get(f"{http}/metrics").text
            pair.check()
            pair.target.close()
            assert hear(pair.controller) == wire.RelayErrorFrame("peer_disconnected")
        assert relay.wait() == 0


def test_it_does_not_wait_for_ever() -> None:
    with relay_process("--drain-seconds", "1") as relay, bystanders(relay) as pair:
        relay.process.terminate()
        assert ending(pair.target) == ending(pair.controller) == 1001
        assert relay.wait() == 0
        assert "took too long: 1" in relay.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(second: signal.Signals) -> None:
    with relay_process("--drain-seconds", "60") as relay, draining(relay) as pair:
        pair.check()
        relay.process.send_signal(second)
        assert ending(pair.target) == ending(pair.controller) == 1001
        assert relay.wait() == 0


def test_an_interrupt_does_not_wait() -> None:
    with relay_process("--drain-seconds", "60") as relay, bystanders(relay) as pair:
        relay.process.send_signal(signal.SIGINT)
        assert ending(pair.target) == ending(pair.controller) == 1001
        assert relay.wait() == 0


def test_who_waits_for_nothing_ends_at_once() -> None:
    with relay_process("--drain-seconds", "60") as relay:
        relay.process.terminate()
        began = time.monotonic()
        assert relay.wait() == 0
        assert time.monotonic() - began < 10
        assert "took too long" not in relay.log()
