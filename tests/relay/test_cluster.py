"""Relays that share a Redis, as devices meet them: real processes, a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from amesh_core.wire import relay as wire
from tests.support.cluster import (
    ask,
    close_code,
    device,
    say,
    session,
    sharing,
    status,
    two_relays,
    until,
)
from tests.support.hub import JTI
from tests.support.redis import RedisServer, redis_server
from tests.support.relay import RelayProcess, hear, relay_process


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def two(redis: RedisServer) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    with two_relays(redis) as both:
        yield both


@pytest.mark.parametrize(("at", "to"), [(0, 1), (1, 0), (0, 0)])
def test_two_devices_meet_wherever_they_are(
    two: tuple[RelayProcess, RelayProcess], at: int, to: int
) -> None:
    with session(two[at], two[to]) as (target, controller):
        for number in range(50):
            text = f"{number} \u20ac \u0000"
            say(target, wire.Data(text))
            assert hear(controller) == wire.Data(text)
            say(controller, wire.Data(text))
            assert hear(target) == wire.Data(text)
        say(controller, wire.Data("the last"))
        say(controller, wire.Done())
        assert [hear(target), hear(target)] == [wire.Data("the last"), wire.Done()]
        assert close_code(target) == close_code(controller) == 1000


def test_a_code_is_free_when_its_session_is_over(two: tuple[RelayProcess, RelayProcess]) -> None:
    with session(*two) as (target, controller):
        say(target, wire.Done())
        assert hear(controller) == wire.Done()
        assert close_code(controller) == close_code(target) == 1000
    with device(two[1]) as late:
        assert ask(late, wire.Connect("482916")) == wire.RelayErrorFrame("otc_expired")
    with session(two[1], two[0]):
        pass


def test_a_code_is_one_code_everywhere(two: tuple[RelayProcess, RelayProcess]) -> None:
    with device(two[0]) as target, device(two[1]) as other:
        assert ask(target, wire.Listen("482916")) == wire.Ack()
        assert ask(other, wire.Listen("482916")) == wire.RelayErrorFrame("otc_in_use")
        assert ask(other, wire.Connect("482917")) == wire.RelayErrorFrame("otc_not_found")
        assert ask(other, wire.Connect("482916")) == hear(target) == wire.PeerFound()
        with device(two[0]) as third:
            assert ask(third, wire.Connect("482916")) == wire.RelayErrorFrame(
                "peer_already_connected"
            )


def test_guesses_are_counted_together(two: tuple[RelayProcess, RelayProcess]) -> None:
    for number in range(5):
        with device(two[number % 2]) as guesser:
            assert ask(guesser, wire.Connect("000000")) == wire.RelayErrorFrame("otc_not_found")
    for relay in two:
        with device(relay) as guesser:
            assert ask(guesser, wire.Connect("000001")) == wire.RelayErrorFrame("rate_limited")
            assert close_code(guesser) == 1008


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_lost_end_is_reported_across_relays(
    two: tuple[RelayProcess, RelayProcess], leaver: int
) -> None:
    with session(*two) as ends:
        ends[leaver].socket.close()
        stayed = ends[1 - leaver]
        assert hear(stayed) == wire.RelayErrorFrame("peer_disconnected")
        assert close_code(stayed) == 1000


def test_what_is_no_frame_ends_a_guests_session(two: tuple[RelayProcess, RelayProcess]) -> None:
    for bad in ("null", '{"type":"listen","otc":"111111"}', b"\xff"):
        with session(*two) as (target, controller):
            controller.send(bad)
            answer = hear(controller)
            assert isinstance(answer, wire.RelayErrorFrame)
            assert answer.code in ("invalid_message", "unknown_type")
            assert close_code(controller) == 1008
            assert hear(target) == wire.RelayErrorFrame("peer_disconnected")


def test_a_token_is_announced_across_relays(two: tuple[RelayProcess, RelayProcess]) -> None:
    init = wire.BootstrapInit(JTI, "key", "prod", proof="p", mac="m")
    with device(two[0]) as watcher, device(two[1]) as target, device(two[1]) as second:
        assert ask(target, init) == wire.BootstrapReject(JTI, "no_watcher")
        assert ask(watcher, wire.BootstrapWatch(JTI)) == wire.BootstrapWatching(JTI)
        assert ask(second, wire.BootstrapWatch(JTI)) == wire.BootstrapReject(JTI, "already_watched")
        say(target, init)
        assert hear(watcher) == init
        say(watcher, wire.BootstrapAck(JTI, "controller", "sig"))
        assert hear(target) == wire.BootstrapAcked(JTI, "controller", "sig")
        # Used up, and its controller is asked all the same, from either relay.
        for relay in two:
            with device(relay) as late:
                say(late, init)
                assert hear(watcher) == init
                say(watcher, wire.BootstrapReject(JTI, "not_yours"))
                assert hear(late) == wire.BootstrapReject(JTI, "not_yours")
    until(lambda: used_up(two[1]))
    assert used_up(two[0])
    with device(two[1]) as watcher, device(two[0]) as target:
        assert ask(watcher, wire.BootstrapWatch(JTI)) == wire.BootstrapWatching(JTI)
        say(target, init)
        assert hear(watcher) == init


def used_up(relay: RelayProcess) -> bool:
    with device(relay) as late:
        answer = ask(late, wire.BootstrapInit(JTI, "key"))
    assert isinstance(answer, wire.BootstrapReject)
    return answer.error == "token_already_used"


def test_frames_that_come_in_one_piece_are_decided_in_their_order(
    two: tuple[RelayProcess, RelayProcess],
) -> None:
    """While all relays are asked about the first, the others wait."""
    with device(two[0]) as target, device(two[1]) as controller:
        assert ask(target, wire.Listen("482916")) == wire.Ack()
        say(controller, wire.Connect("482916"))
        for number in range(20):
            say(controller, wire.Data(str(number)))
        assert hear(controller) == hear(target) == wire.PeerFound()
        assert [hear(target) for _ in range(20)] == [wire.Data(str(n)) for n in range(20)]


def test_a_relay_that_dies_frees_its_codes_and_ends_its_sessions(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    with ExitStack() as on:
        dying = on.enter_context(dying_relay(redis))
        waiting = on.enter_context(device(dying))
        assert ask(waiting, wire.Listen("111111")) == wire.Ack()
        ends = [
            on.enter_context(session(dying, two[0], "222222"))[1],
            on.enter_context(session(two[1], dying, "333333"))[0],
        ]
        node = redis.run("get", "amesh:{relay}:code:111111").split()[0]
        dying.process.kill()
        for end in ends:
            assert hear(end) == wire.RelayErrorFrame("peer_disconnected")
        with device(two[0]) as late, device(two[1]) as again:
            # A code of the dead is found to be one at the first try, after which it is forgotten.
            until(lambda: not redis.run("keys", f"*node:{node}"))
            assert ask(late, wire.Connect("111111")) == wire.RelayErrorFrame("otc_expired")
            assert ask(again, wire.Listen("111111")) == wire.Ack()


@contextmanager
def dying_relay(redis: RedisServer) -> Iterator[RelayProcess]:
    """One that may be killed without the context minding."""
    stack = ExitStack()
    relay = stack.enter_context(sharing(redis))
    try:
        yield relay
    finally:
        with pytest.raises(AssertionError):  # it did not end by itself
            stack.close()


def test_while_redis_is_away_what_runs_in_one_relay_goes_on(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    with (
        session(two[0], two[0], "111111") as near,
        session(*two, "222222") as far,
        device(two[0]) as waiting,
        device(two[1]) as early,
    ):
        assert ask(waiting, wire.Listen("333333")) == wire.Ack()
        redis.kill()
        for end in far:
            assert hear(end) == wire.RelayErrorFrame("peer_disconnected")
        until(lambda: status(two[0], "/ready") == status(two[1], "/ready") == 503)
        assert status(two[0], "/health") == 200
        with pytest.raises(InvalidStatus) as refused:
            device(two[0])
        assert refused.value.response.status_code == 503
        assert ask(early, wire.Listen("444444")) == wire.RelayErrorFrame("relay_capacity")
        say(near[0], wire.Data("still here"))
        assert hear(near[1]) == wire.Data("still here")
        redis.start()
        until(lambda: status(two[0], "/ready") == status(two[1], "/ready") == 200)
        # It was started anew and knew nothing; the relay has told it of the code that waits.
        until(lambda: "333333" in redis.run("keys", "*"))
        assert ask(early, wire.Connect("333333")) == hear(waiting) == wire.PeerFound()


def test_a_relay_that_starts_without_its_redis_gets_there(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        redis.kill()
        with relay_process("--state", redis.url) as relay:
            assert status(relay, "/ready") == 503
            redis.start()
            until(lambda: status(relay, "/ready") == 200)
            with session(relay, relay):
                pass


def test_nothing_stays_in_redis_for_ever(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    with session(*two) as (target, controller):
        say(target, wire.Done())
        assert hear(controller) == wire.Done()
        assert close_code(controller) == 1000
    with device(two[0]) as clumsy:
        ask(clumsy, wire.Connect("000000"))
        ask(clumsy, wire.BootstrapWatch(JTI))
    with device(two[1]) as target:
        ask(target, wire.BootstrapInit(JTI, "key"))
    for key in redis.run("keys", "*").splitlines():
        assert int(redis.run("ttl", key)) > 0, key


def test_a_slow_reader_holds_up_its_sender_across_relays(
    two: tuple[RelayProcess, RelayProcess],
) -> None:
    """Its own relay says so to the other; afterwards all of it arrives."""
    with session(*two) as (target, controller):
        # Not read meanwhile: 60 frames are more than all buffers on the way hold.
        for number in range(60):
            say(controller, wire.Data(f"{number}:" + "A" * 60_000))
        for number in range(60):
            frame = hear(target)
            assert isinstance(frame, wire.Data)
            assert frame.payload.startswith(f"{number}:")
