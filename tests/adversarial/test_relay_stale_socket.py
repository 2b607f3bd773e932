"""Threat: a socket of an earlier session speaks into a later one that has the same code.

What stops it: a session is held by its two connections and found by nobody else, and a
connection belongs to one session for its whole life (docs/protocol.md section 4). In the
original a stale socket could inject data into, and end, somebody else's ceremony.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amesh_core.wire import relay as wire
from tests.support.hub import JTI, House, error

CODE = "482916"
ALL_FRAMES: list[wire.DeviceFrame] = [
    wire.Data("forged"),
    wire.Done(),
    wire.Listen(CODE),
    wire.Connect(CODE),
    wire.BootstrapWatch(JTI),
    wire.BootstrapInit(JTI, "A"),
]


def ended_by_done(house: House) -> list[int]:
    target, controller = house.session(CODE)
    house.say(controller, wire.Done())
    return [target, controller]


def ended_by_a_loss(house: House) -> list[int]:
    target, controller = house.session(CODE)
    house.leave(controller)
    return [target]


def ended_by_time(house: House) -> list[int]:
    target, controller = house.session(CODE)
    house.wait(300)
    return [target, controller]


def ended_while_waiting(house: House) -> list[int]:
    target = house.listening(CODE)
    house.wait(60)
    return [target]


def ended_by_a_bad_frame(house: House) -> list[int]:
    target, controller = house.session(CODE)
    house.perform(house.hub.refuse(target, wire.ErrorCode.INVALID_MESSAGE, house.now))
    return [target, controller]


ENDS = [ended_by_done, ended_by_a_loss, ended_by_time, ended_while_waiting, ended_by_a_bad_frame]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("frame", ALL_FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_stale_socket_reaches_nobody(
    end: Callable[[House], list[int]], frame: wire.DeviceFrame
) -> None:
    house = House()
    stale = end(house)
    target, controller = house.session(CODE)  # others, later, the same code
    for number in stale:
        assert house.say(number, frame) == []
    assert house.take(target) == house.take(controller) == []
    assert not {target, controller} & house.closed.keys()
    # Its leaving changes nothing either.
    for number in stale:
        assert house.leave(number) == []
    house.say(target, wire.Data("mine"))
    assert house.take(controller) == [wire.Data("mine")]


@pytest.mark.parametrize("frame", ALL_FRAMES[:2], ids=lambda frame: type(frame).__name__)
def test_a_stale_socket_does_not_reach_a_waiting_target(frame: wire.DeviceFrame) -> None:
    house = House()
    stale = ended_by_done(house)
    target = house.listening(CODE)
    for number in stale:
        assert house.say(number, frame) == []
    assert house.take(target) == []
    assert house.guess(CODE) == [wire.PeerFound()]


def test_a_third_socket_cannot_join() -> None:
    """Neither by listening nor by connecting again, from its own or another connection."""
    house = House()
    target, controller = house.session(CODE)
    intruder = house.open("192.0.2.66")
    for frame in (wire.Connect(CODE), wire.Listen(CODE)):
        house.say(intruder, frame)
    assert house.take(intruder) == [error("peer_already_connected"), error("otc_in_use")]
    house.say(intruder, wire.Data("forged"))
    assert house.take(intruder) == [error("invalid_message")]
    assert house.take(target) == house.take(controller) == []
    house.say(controller, wire.Data("mine"))
    assert house.take(target) == [wire.Data("mine")]


@pytest.mark.parametrize("side", ["target", "controller"])
@pytest.mark.parametrize("frame", [wire.Listen("333333"), wire.Connect("222222")], ids=repr)
def test_no_socket_has_two_sessions(side: str, frame: wire.DeviceFrame) -> None:
    house = House()
    target, controller = house.session("111111")
    waiting = house.listening("222222")
    one = target if side == "target" else controller
    house.say(one, frame)
    assert house.take(one) == [error("invalid_message")]
    assert house.closed[one] == 1008
    assert house.take(waiting) == []
