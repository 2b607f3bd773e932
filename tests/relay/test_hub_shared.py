"""What the hub of one relay of several is asked and told: guests, and what others decided."""

from __future__ import annotations

import pytest

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay import limits
from amesh_relay.roles import Burned, Deliver, Freed, Hangup, Unwatched
from tests.support.hub import JTI, House, error

CODE = "482916"
OTHER = "bt_" + "f" * 32
INIT = wire.BootstrapInit(JTI, "key")
CLAIMS = (
    wire.Listen(CODE),
    wire.Connect(CODE),
    wire.BootstrapWatch(JTI),
    INIT,
)
OTHERS = (
    wire.Data("x"),
    wire.Done(),
    wire.BootstrapAck(JTI, "key", "sig"),
    wire.BootstrapReject(JTI, "why"),
)


def in_role(house: House, role: str) -> int:
    match role:
        case "fresh":
            return house.open()
        case "waiting":
            return house.listening("111111")
        case "paired":
            return house.session("111111")[0]
        case "watching":
            return house.watching(OTHER)
        case "announcing":
            number = house.open()
            house.say(number, INIT)
            house.take(number)
            return number
        case "elsewhere":
            number = house.open()
            house.hub.send_elsewhere(number, house.now)
            return number
        case "spent":
            number = house.listening("111111")
            house.say(number, wire.Done())
            return number
        case _:
            return 4711


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("fresh", CLAIMS),
        ("waiting", ()),
        ("paired", ()),
        ("watching", (wire.BootstrapWatch(JTI),)),
        ("announcing", (INIT,)),
        ("elsewhere", ()),
        ("spent", ()),
        ("nobody", ()),
    ],
)
def test_who_may_ask_for_what(role: str, allowed: tuple[wire.DeviceFrame, ...]) -> None:
    house = House()
    number = in_role(house, role)
    may = tuple(frame for frame in (*CLAIMS, *OTHERS) if house.hub.may_ask(number, frame))
    assert may == allowed
    assert not house.hub.may_ask(number, wire.BootstrapInit(OTHER, "key")) or role == "fresh"


@pytest.mark.parametrize(
    ("role", "shown"),
    [("fresh", 1), ("watching", 1), ("announcing", 1), ("spent", 0), ("nobody", 0)],
)
def test_what_others_refuse_is_told_and_no_more(role: str, shown: int) -> None:
    house = House()
    number = in_role(house, role)
    refused = house.hub.deny(number, ErrorCode.OTC_IN_USE, house.now)
    assert refused == [Deliver(number, error("otc_in_use"))] * shown
    watch = wire.BootstrapWatch(JTI)
    rejected = house.hub.reject(number, watch, Rejection.ALREADY_WATCHED, house.now)
    assert rejected == [Deliver(number, wire.BootstrapReject(JTI, "already_watched"))] * shown


def test_who_has_no_attempts_left_is_sent_away() -> None:
    house = House()
    number = house.open()
    assert house.perform(house.hub.deny(number, ErrorCode.RATE_LIMITED, house.now)) == [
        Deliver(number, error("rate_limited")),
        Hangup(number, 1008),
    ]
    assert house.say(number, wire.Listen(CODE)) == []


def test_an_announcement_that_others_refuse_is_one() -> None:
    """The connection may try this token again and no other, and not for ever."""
    house = House()
    number = house.open()
    house.now += limits.SILENT_SECONDS - 1
    house.perform(house.hub.reject(number, INIT, Rejection.NO_WATCHER, house.now))
    assert house.hub.may_ask(number, INIT)
    assert not house.hub.may_ask(number, wire.BootstrapInit(OTHER, "key"))
    assert house.wait(limits.SILENT_SECONDS - 1) == []
    assert house.wait(1) == [Hangup(number, 1008)]


def test_too_many_announcements_end_their_connection() -> None:
    house = House()
    number = house.open()
    assert house.perform(house.hub.reject(number, INIT, Rejection.OVERLOADED, house.now)) == [
        Deliver(number, wire.BootstrapReject(JTI, "relay_overloaded")),
        Hangup(number, 1008),
    ]


def test_a_guest_takes_part_and_has_its_place_elsewhere() -> None:
    house = House()
    target = house.listening(CODE)
    house._here.add(77)
    house.hub.adopt(77, b"client")
    assert house.hub.connections == 1
    assert house.say(77, wire.Connect(CODE)) == [
        Deliver(target, wire.PeerFound()),
        Deliver(77, wire.PeerFound()),
    ]
    assert house.hub.is_paired(77)
    assert house.hub.client_of(77) == b"client"
    assert house.leave(77) == [Deliver(target, error("peer_disconnected")), Hangup(target, 1000)]
    assert house.hub.connections == 1
    assert house.told[-1] == Freed(CODE)


def test_who_is_elsewhere_is_there_for_as_long_as_a_session_may_live() -> None:
    """Its home ends it in time; if nothing is heard of that any more, we do."""
    house = House()
    number = in_role(house, "elsewhere")
    assert house.say(number, wire.Data("not for us")) == []
    assert house.wait(limits.ELSEWHERE_SECONDS - 1) == []
    assert house.wait(1) == [Deliver(number, error("otc_expired")), Hangup(number, 1000)]
    assert limits.ELSEWHERE_SECONDS > limits.LIFE_SECONDS


def test_who_left_from_elsewhere_is_forgotten() -> None:
    house = House()
    house.leave(in_role(house, "elsewhere"))
    assert house.wait(limits.ELSEWHERE_SECONDS) == []


def test_draining_leaves_sessions_here_and_elsewhere_alone() -> None:
    house = House()
    kept = [*house.session("333333"), in_role(house, "elsewhere")]
    gone = [in_role(house, role) for role in ("fresh", "watching", "announcing")]
    gone.append(house.listening("222222"))
    house.perform(house.hub.drain(house.now))
    assert house.closed == dict.fromkeys(gone, 1001)
    assert not house.closed.keys() & set(kept)
    assert Freed("222222") in house.told
    assert Unwatched(OTHER) in house.told


def test_what_is_known_here() -> None:
    house = House()
    named: list[list[wire.DeviceFrame]] = [
        [wire.Listen(CODE), wire.Connect(CODE)],
        [wire.BootstrapWatch(JTI), INIT],
    ]
    assert not any(house.hub.knows(frame) for frames in named for frame in frames)
    target = house.listening(CODE)
    assert house.hub.waiting() == [(CODE, house.hub.client_of(target))]
    assert all(map(house.hub.knows, named[0]))
    controller = house.open()
    house.say(controller, wire.Connect(CODE))
    assert house.hub.waiting() == []
    assert all(map(house.hub.knows, named[0]))
    house.leave(controller)
    assert not any(map(house.hub.knows, named[0]))
    watcher = house.watching()
    assert house.hub.watched() == [JTI]
    assert all(map(house.hub.knows, named[1]))
    house.leave(watcher)
    assert house.hub.watched() == []
    assert not any(map(house.hub.knows, (*named[1], wire.Done())))


def test_a_code_that_waits_is_ended_from_outside() -> None:
    house = House()
    target = house.listening(CODE)
    assert house.perform(house.hub.expire("111111", house.now)) == []
    assert house.perform(house.hub.expire(CODE, house.now)) == [
        Deliver(target, error("otc_expired")),
        Hangup(target, 1000),
    ]
    assert house.told == [Freed(CODE)]


def test_a_session_is_not_ended_from_outside() -> None:
    house = House()
    house.session(CODE)
    assert house.perform(house.hub.expire(CODE, house.now)) == []


def test_a_watcher_that_another_relay_has_now_asks_again() -> None:
    house = House()
    watcher = house.watching()
    assert house.hub.lose_watcher(OTHER, house.now) == []
    assert house.perform(house.hub.lose_watcher(JTI, house.now)) == [Hangup(watcher, 1013)]
    assert house.told == [Unwatched(JTI)]


def test_what_was_used_up_before() -> None:
    house = House()
    house.hub.burn(OTHER, limits.BURNED_JTI_SECONDS - 10, house.now)
    house.hub.burn(JTI, 0, house.now)
    assert house.hub.burned() == [OTHER, JTI]
    target = house.open()
    house.say(target, INIT)
    assert house.take(target) == [wire.BootstrapReject(JTI, "token_already_used")]
    house.wait(10)
    assert house.hub.burned() == [JTI]


def test_what_is_used_up_is_told() -> None:
    house = House()
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    house.say(watcher, wire.BootstrapAck(JTI, "key", "sig"))
    assert house.told == [Burned(JTI)]
    assert house.hub.burned() == [JTI]
