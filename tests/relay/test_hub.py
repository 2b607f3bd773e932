"""Codes and sessions, docs/protocol.md section 4: what each role may send, and when it ends."""

from __future__ import annotations

import pytest

from amesh_core.wire import relay as wire
from amesh_relay import limits
from amesh_relay.hub import Hub
from amesh_relay.limits import MAX_SESSION_BYTES, Limits
from amesh_relay.roles import Deliver, Hangup
from tests.support.hub import JTI, House, error

CODE = "482916"


class TestMeeting:
    def test_a_code_brings_two_devices_together(self) -> None:
        house = House()
        target, controller = house.open(), house.open()
        assert house.say(target, wire.Listen(CODE)) == [Deliver(target, wire.Ack())]
        assert house.say(controller, wire.Connect(CODE)) == [
            Deliver(target, wire.PeerFound()),
            Deliver(controller, wire.PeerFound()),
        ]
        assert house.say(target, wire.Data("commit")) == [Deliver(controller, wire.Data("commit"))]
        assert house.say(controller, wire.Data("hello")) == [Deliver(target, wire.Data("hello"))]
        assert house.say(controller, wire.Done()) == [
            Deliver(target, wire.Done()),
            Hangup(target, 1000),
            Hangup(controller, 1000),
        ]
        assert house.hub.sessions == 0

    def test_a_target_may_end_it_too(self) -> None:
        house = House()
        target, controller = house.session()
        house.say(target, wire.Done())
        assert house.take(controller) == [wire.Done()]
        assert house.closed == {target: 1000, controller: 1000}

    def test_a_target_may_stop_waiting(self) -> None:
        house = House()
        target = house.listening()
        assert house.say(target, wire.Done()) == [Hangup(target, 1000)]
        assert house.hub.sessions == 0
        assert house.guess(CODE) == [error("otc_expired")]

    def test_sessions_do_not_touch_each_other(self) -> None:
        house = House()
        first, second = house.session("111111"), house.session("222222")
        house.say(first[0], wire.Data("one"))
        house.say(second[1], wire.Data("two"))
        assert house.take(first[1]) == [wire.Data("one")]
        assert house.take(second[0]) == [wire.Data("two")]
        house.say(first[0], wire.Done())
        assert house.say(second[0], wire.Data("still here")) == [
            Deliver(second[1], wire.Data("still here"))
        ]


class TestCodes:
    def test_a_code_that_nobody_waits_under(self) -> None:
        assert House().guess(CODE) == [error("otc_not_found")]

    def test_a_code_in_use_is_not_given_twice_and_another_may_be_taken(self) -> None:
        house = House()
        house.listening()
        second = house.open()
        house.say(second, wire.Listen(CODE))
        assert house.take(second) == [error("otc_in_use")]
        house.say(second, wire.Listen("482917"))
        assert house.take(second) == [wire.Ack()]

    def test_a_code_of_a_running_session_is_in_use(self) -> None:
        house = House()
        target, controller = house.session()
        second = house.open()
        house.say(second, wire.Listen(CODE))
        assert house.take(second) == [error("otc_in_use")]
        assert house.guess(CODE) == [error("peer_already_connected")]
        assert house.take(target) == house.take(controller) == []

    def test_a_code_works_once(self) -> None:
        house = House()
        target, _ = house.session()
        house.say(target, wire.Done())
        assert house.guess(CODE) == [error("otc_expired")]

    def test_a_code_may_be_used_again_by_others(self) -> None:
        house = House()
        target, _ = house.session()
        house.say(target, wire.Done())
        house.session()

    def test_a_code_goes_with_the_target_that_waits_under_it(self) -> None:
        house = House()
        assert house.leave(house.listening()) == []
        assert house.guess(CODE) == [error("otc_expired")]
        house.listening()


class TestTime:
    def test_a_code_waits_a_minute(self) -> None:
        house = House()
        target = house.listening()
        assert house.wait(59.9) == []
        assert house.wait(0.1) == [Deliver(target, error("otc_expired")), Hangup(target, 1000)]
        assert house.guess(CODE) == [error("otc_expired")]
        assert house.hub.sessions == 0

    def test_a_code_does_not_wait_for_the_next_tick(self) -> None:
        """A controller that comes too late is told so, also when nothing ticked since."""
        house = House()
        target = house.listening()
        house.now += 60
        assert house.guess(CODE) == [error("otc_expired")]
        assert house.take(target) == [error("otc_expired")]

    def test_a_code_typed_after_50_seconds_leaves_time_for_the_digits(self) -> None:
        house = House()
        target = house.listening()
        house.wait(50)
        controller = house.open()
        house.say(controller, wire.Connect(CODE))
        house.take(controller)
        assert house.wait(119) == []
        assert house.say(controller, wire.Data("x")) == [Deliver(target, wire.Data("x"))]

    def test_a_session_may_idle_two_minutes(self) -> None:
        house = House()
        target, controller = house.session()
        for sender in (target, controller):
            assert house.wait(119.9) == []
            house.say(sender, wire.Data("still typing"))
        house.take(target), house.take(controller)
        house.wait(60.2)  # 300 in all
        assert house.take(target) == house.take(controller) == [error("otc_expired")]

        target, controller = house.session()
        assert house.wait(119.9) == []
        house.wait(0.1)
        assert house.take(target) == house.take(controller) == [error("otc_expired")]
        assert house.closed[target] == house.closed[controller] == 1000

    def test_a_session_lives_five_minutes_however_busy(self) -> None:
        house = House()
        target, controller = house.session()
        for _ in range(29):
            assert house.wait(10) == []
            house.say(target, wire.Data("x"))
        assert house.wait(9.9) == []
        house.wait(0.1)
        assert house.take(target) == [error("otc_expired")]
        assert house.take(controller)[-1] == error("otc_expired")
        assert house.hub.sessions == 0

    def test_idle_and_old_at_once_is_said_once(self) -> None:
        house = House()
        target, controller = house.session()
        house.wait(400)
        assert house.take(target) == house.take(controller) == [error("otc_expired")]

    def test_who_says_nothing_useful_is_hung_up_on(self) -> None:
        house = House()
        silent = house.open()
        house.wait(30)
        guesser = house.open()
        house.say(guesser, wire.Connect(CODE))
        assert house.wait(29.9) == []
        assert house.wait(0.1) == [Hangup(silent, 1008)]
        assert house.wait(30) == [Hangup(guesser, 1008)]

    def test_who_waits_or_talks_is_not_silent(self) -> None:
        house = House()
        house.now += 50
        target, controller = house.session()
        house.say(controller, wire.Data("x"))
        assert house.wait(100) == []
        assert house.say(target, wire.Data("y")) == [Deliver(controller, wire.Data("y"))]

    def test_an_expired_code_is_not_remembered_for_ever(self) -> None:
        house = House()
        house.listening()
        house.wait(60)
        assert house.guess(CODE) == [error("otc_expired")]
        house.wait(300)
        assert house.guess(CODE) == [error("otc_not_found")]


class TestLosses:
    def test_the_other_side_hears_of_a_lost_peer(self) -> None:
        for gone in (0, 1):
            house = House()
            pair = house.session()
            other = pair[1 - gone]
            assert house.leave(pair[gone]) == [
                Deliver(other, error("peer_disconnected")),
                Hangup(other, 1000),
            ]
            assert house.hub.sessions == 0
            assert house.leave(other) == []

    def test_who_was_told_leaves_quietly(self) -> None:
        house = House()
        target, controller = house.session()
        house.say(target, wire.Done())
        assert house.leave(target) == []
        assert house.leave(controller) == []
        assert house.hub.connections == 0


class TestLimits:
    def test_a_session_carries_5_mib(self) -> None:
        house = House()
        target, controller = house.session()
        frame = wire.Data("A" * (65536 - 28))
        for number in range(MAX_SESSION_BYTES // 65536):
            sender = (target, controller)[number % 2]
            assert len(house.say(sender, frame)) == 1
        assert len(house.take(target)) == len(house.take(controller)) == 40
        house.say(controller, wire.Data(""))
        assert house.take(target) == house.take(controller) == [error("session_data_limit")]
        assert house.closed == {target: 1000, controller: 1000}
        assert house.hub.sessions == 0

    def test_bytes_are_counted_not_characters(self) -> None:
        house = House()
        target, controller = house.session()
        frames = MAX_SESSION_BYTES // (28 + 3 * 20000)
        for _ in range(frames):
            house.say(target, wire.Data("€" * 20000))
        assert house.closed == {}
        house.say(target, wire.Data("€" * 20000))
        assert house.take(controller)[frames:] == [error("session_data_limit")]

    def test_empty_payloads_are_not_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "MAX_SESSION_BYTES", 2800)
        house = House()
        target, _ = house.session()
        for _ in range(100):
            house.say(target, wire.Data(""))
        assert house.closed == {}
        house.say(target, wire.Data(""))
        assert target in house.closed

    def test_there_are_so_many_sessions(self) -> None:
        house = House(Limits(max_sessions=2))
        house.listening("111111")
        target, _ = house.session("222222")
        third = house.open()
        house.say(third, wire.Listen("333333"))
        assert house.take(third) == [error("relay_capacity")]
        assert house.closed[third] == 1008
        house.say(target, wire.Done())
        house.listening("333333")

    def test_there_are_so_many_connections(self) -> None:
        house = House(Limits(max_connections=2))
        first, _ = house.open("192.0.2.1"), house.open("192.0.2.2")
        third = house.open("192.0.2.3")
        assert house.take(third) == [error("too_many_connections")]
        assert house.closed == {third: 1013}
        # Who was refused is nobody: what it sends, and its leaving, change nothing.
        assert house.say(third, wire.Listen(CODE)) == []
        assert house.hub.refuse(third, wire.ErrorCode.INVALID_MESSAGE, house.now) == []
        assert house.leave(third) == []
        assert house.hub.connections == 2
        house.leave(first)
        assert house.hub.connections == 1
        house.listening(address="192.0.2.3")

    def test_an_address_has_so_many_connections(self) -> None:
        house = House(Limits(max_connections_per_address=2))
        opened = [house.open("2001:db8::1"), house.open("2001:db8::2")]
        assert house.closed == {}
        third = house.open("2001:db8::3")
        assert house.closed == {third: 1013}
        house.open("2001:db8:0:1::1")
        assert house.hub.connections == 3
        house.leave(opened[0])
        house.listening(address="2001:db8::3")


# What a role may send; every other pair of role and frame ends its own connection.
FRAMES: list[wire.DeviceFrame] = [
    wire.Listen("111111"),
    wire.Connect("222222"),
    wire.Data("x"),
    wire.Done(),
    wire.BootstrapWatch(JTI),
    wire.BootstrapInit(JTI, "A"),
    wire.BootstrapAck(JTI, "A", "s"),
    wire.BootstrapReject(JTI, "no"),
]
LEGAL: dict[str, set[type]] = {
    "fresh": {wire.Listen, wire.Connect, wire.BootstrapWatch, wire.BootstrapInit},
    "waiting": {wire.Done},
    "paired": {wire.Data, wire.Done},
    "watching": {wire.BootstrapWatch, wire.BootstrapAck, wire.BootstrapReject},
    "announcing": {wire.BootstrapInit},
    "spent": set(map(type, FRAMES)),  # dropped
}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
@pytest.mark.parametrize("role", LEGAL)
def test_every_role_and_frame(role: str, frame: wire.DeviceFrame) -> None:
    house = House()
    match role:
        case "fresh":
            number = house.open()
        case "waiting":
            number = house.listening()
        case "paired":
            number, _ = house.session()
        case "watching":
            number = house.watching()
        case "announcing":
            number = house.open()
            house.say(number, wire.BootstrapInit(JTI, "A"))
            house.take(number)
        case _:
            number = house.open()
            house.perform(house.hub.refuse(number, wire.ErrorCode.UNKNOWN_TYPE, house.now))
            house.take(number)
    effects = house.say(number, frame)
    if role == "spent":
        assert effects == []
    elif type(frame) in LEGAL[role]:
        assert error("invalid_message") not in house.take(number)
        assert house.closed.get(number) != 1008
    else:
        assert effects[:2] == [Deliver(number, error("invalid_message")), Hangup(number, 1008)]


def test_what_is_no_frame_ends_its_connection() -> None:
    house = House()
    target, controller = house.session()
    house.perform(house.hub.refuse(target, wire.ErrorCode.UNKNOWN_TYPE, house.now))
    assert house.take(target) == [error("unknown_type")]
    assert house.take(controller) == [error("peer_disconnected")]
    assert house.closed == {target: 1008, controller: 1000}
    assert house.hub.sessions == 0


def test_a_number_that_was_never_connected_is_nobody() -> None:
    hub = Hub(Limits())
    assert hub.receive(7, wire.Listen(CODE), 0) == []
    assert hub.disconnect(7, 0) == []
    assert hub.connections == 0
    assert hub.sessions == 0


def test_one_client_waits_under_so_many_codes() -> None:
    house = House(Limits(max_sessions_per_address=2))
    one, two = house.open(), house.open()
    assert house.say(one, wire.Listen("000001")) == [Deliver(one, wire.Ack())]
    assert house.say(two, wire.Listen("000002")) == [Deliver(two, wire.Ack())]
    third = house.open()
    full = wire.RelayErrorFrame("relay_capacity")
    assert house.say(third, wire.Listen("000003")) == [Deliver(third, full)]
    stranger = house.open("192.0.2.9")
    assert house.say(stranger, wire.Listen("000003")) == [Deliver(stranger, wire.Ack())]
    # In use, the code still counts; when its session is over, it does not.
    controller = house.open("192.0.2.10")
    house.say(controller, wire.Connect("000001"))
    assert house.say(third, wire.Listen("000004")) == [Deliver(third, full)]
    house.say(controller, wire.Done())
    assert house.say(third, wire.Listen("000004")) == [Deliver(third, wire.Ack())]


def test_other_limits_while_it_runs() -> None:
    """Nobody who is inside has to go."""
    house = House(Limits(max_connections=1, max_sessions=1))
    first = house.open()
    house.say(first, wire.Listen("000001"))
    house.hub.set_limits(Limits(max_connections=2, max_sessions=2))
    second = house.open()
    assert house.say(second, wire.Listen("000002")) == [Deliver(second, wire.Ack())]
    house.hub.set_limits(Limits(max_connections=1, max_sessions=1))
    third = house.open()
    assert house.take(third) == [error("too_many_connections")]
    assert house.closed == {third: 1013}
