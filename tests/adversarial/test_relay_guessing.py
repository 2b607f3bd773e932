"""Threat: a stranger finds somebody else's code by trying.

What stops it: five failed attempts per client and minute, five per code (docs/protocol.md
section 4). In the original, 60 of 60 guesses were answered, as the client was taken from the
left end of X-Forwarded-For, and the counter per code did nothing.
"""

from __future__ import annotations

import json

from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from tests.support.hub import House, error
from tests.support.relay import relay_process

CODE = "482916"


def test_five_failures_a_minute() -> None:
    house = House()
    target = house.listening(address="198.51.100.1")
    for number in range(5):
        assert house.guess(f"{number:06d}") == [error("otc_not_found")]
    # Also the right code, and listening, learn nothing any more.
    assert house.guess(CODE) == [error("rate_limited")]
    listener = house.open()
    house.say(listener, wire.Listen(CODE))
    assert house.take(listener) == [error("rate_limited")]
    assert house.closed[listener] == 1008
    assert house.take(target) == []
    # Others are not concerned.
    assert house.guess(CODE, "192.0.2.2") == [wire.PeerFound()]


def test_the_budget_comes_back_after_a_minute() -> None:
    house = House()
    for number in range(5):
        house.guess(f"{number:06d}")
    house.wait(59)
    assert house.guess("000009") == [error("rate_limited")]
    house.wait(1)
    assert house.guess("000009") == [error("otc_not_found")]


def test_one_connection_has_no_more_than_many() -> None:
    house = House()
    guesser = house.open()
    for number in range(7):
        house.say(guesser, wire.Connect(f"{number:06d}"))
    assert house.take(guesser) == [error("otc_not_found")] * 5 + [error("rate_limited")]
    assert house.closed[guesser] == 1008


def test_a_whole_ipv6_network_is_one_guesser() -> None:
    house = House()
    for number in range(5):
        house.guess(f"{number:06d}", f"2001:db8:0:1::{number:x}")
    assert house.guess("000009", "2001:db8:0:1:ffff::1") == [error("rate_limited")]
    assert house.guess("000009", "2001:db8:0:2::1") == [error("otc_not_found")]


def test_success_does_not_count() -> None:
    house = House()
    for number in range(20):
        target, _ = house.session(f"{number:06d}")
        house.say(target, wire.Done())


def test_every_kind_of_failure_counts() -> None:
    house = House()
    house.session("111111")
    expired = house.listening("222222")
    house.leave(expired)
    assert house.guess("111111", "192.0.2.9") == [error("peer_already_connected")]
    assert house.guess("222222", "192.0.2.9") == [error("otc_expired")]
    assert house.guess("333333", "192.0.2.9") == [error("otc_not_found")]
    # Listening is a way to find codes in use, so it is counted as well.
    prober = house.open("192.0.2.9")
    for _ in range(2):
        house.say(prober, wire.Listen("111111"))
    assert house.take(prober) == [error("otc_in_use")] * 2
    assert house.guess("444444", "192.0.2.9") == [error("rate_limited")]


def test_camping_on_a_code_burns_it() -> None:
    """Whoever waits for somebody to listen with 482916 only takes it out of the draw."""
    house = House()
    for number in range(5):
        assert house.guess(CODE, f"198.51.100.{number}") == [error("otc_not_found")]
    assert house.guess(CODE, "198.51.100.9") == [error("otc_expired")]
    listener = house.open()
    house.say(listener, wire.Listen(CODE))
    assert house.take(listener) == [error("otc_in_use")]
    house.say(listener, wire.Listen("482917"))
    assert house.take(listener) == [wire.Ack()]


def test_four_failures_do_not_burn_a_code_and_success_does_not_count() -> None:
    house = House()
    for number in range(4):
        house.guess(CODE, f"198.51.100.{number}")
    for _ in range(3):
        target, _ = house.session(CODE)
        house.say(target, wire.Done())
    house.guess(CODE, "198.51.100.9")
    listener = house.open()
    house.say(listener, wire.Listen(CODE))
    assert house.take(listener) == [error("otc_in_use")]


def test_a_burned_code_comes_back_when_a_ceremony_is_surely_over() -> None:
    house = House()
    for number in range(5):
        house.guess(CODE, f"198.51.100.{number}")
    house.wait(299)
    assert house.guess(CODE, "198.51.100.20") == [error("otc_expired")]
    house.wait(300)
    house.listening(CODE)


def test_guessing_at_a_running_session_does_not_touch_it() -> None:
    house = House()
    target, controller = house.session()
    for number in range(20):
        answer = house.guess(CODE, f"198.51.100.{number}")
        assert answer == [error("peer_already_connected")]
    assert house.take(target) == house.take(controller) == []
    house.say(target, wire.Data("still here"))
    assert house.take(controller) == [wire.Data("still here")]
    # But nobody starts a new one there.
    house.say(target, wire.Done())
    listener = house.open()
    house.say(listener, wire.Listen(CODE))
    assert house.take(listener) == [error("otc_in_use")]


def guess(url: str, otc: str, forwarded: str) -> str:
    with connect(url, additional_headers={"X-Forwarded-For": forwarded}, proxy=None) as socket:
        socket.send(wire.encode(wire.Connect(otc)))
        answer = json.loads(socket.recv(timeout=10))
        return str(answer["code"])


def test_a_forged_forwarded_header_gives_no_new_identity() -> None:
    """60 guesses, each with another left-most address: 5 answered, 55 refused."""
    with relay_process("--trusted-proxy", "127.0.0.0/8") as relay:
        answers = [
            guess(relay.url, f"{number:06d}", f"198.51.100.{number}, 203.0.113.7")
            for number in range(60)
        ]
        assert answers == ["otc_not_found"] * 5 + ["rate_limited"] * 55
        # The proxy's next client has a budget of its own.
        assert guess(relay.url, "000000", "203.0.113.8") == "otc_not_found"


def test_a_forwarded_header_from_no_proxy_is_not_read() -> None:
    with relay_process() as relay:
        answers = [guess(relay.url, f"{number:06d}", f"198.51.100.{number}") for number in range(7)]
    assert answers == ["otc_not_found"] * 5 + ["rate_limited"] * 2
