"""Bootstrap frames, docs/protocol.md sections 4 and 6: watch, announce, answer."""

from __future__ import annotations

from amesh_core.wire import relay as wire
from amesh_relay.limits import Limits
from amesh_relay.roles import Deliver, Hangup
from tests.support.hub import JTI, House

OTHER_JTI = "bt_ffffffffffffffffffffffffffffffff"
INIT = wire.BootstrapInit(JTI, "A+Y=", "web-1", "cA==", "bQ==", "eyJ.e.s")
ACK = wire.BootstrapAck(JTI, "key", "sig")
ACKED = wire.BootstrapAcked(JTI, "key", "sig")


def reject(reason: str, jti: str = JTI) -> wire.BootstrapReject:
    return wire.BootstrapReject(jti, reason)


def test_an_announcement_reaches_its_watcher_and_the_answer_comes_back() -> None:
    house = House()
    watcher, target = house.watching(), house.open()
    assert house.say(target, INIT) == [Deliver(watcher, INIT)]
    assert house.say(watcher, ACK) == [Deliver(target, ACKED)]


def test_a_reject_comes_back_and_uses_nothing_up() -> None:
    house = House()
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    assert house.say(watcher, reject("bad_mac")) == [Deliver(target, reject("bad_mac"))]
    assert house.say(target, INIT) == [Deliver(watcher, INIT)]
    assert house.say(watcher, ACK) == [Deliver(target, ACKED)]


def test_nobody_watches() -> None:
    house = House()
    target = house.open()
    assert house.say(target, INIT) == [Deliver(target, reject("no_watcher"))]
    watcher = house.watching()
    assert house.say(target, INIT) == [Deliver(watcher, INIT)]


def test_each_watcher_hears_of_its_own() -> None:
    house = House()
    one, other, target = house.watching(), house.watching(OTHER_JTI), house.open()
    house.say(target, INIT)
    assert house.take(one) == [INIT]
    assert house.take(other) == []


def test_a_controller_watches_many_tokens_on_one_socket() -> None:
    house = House()
    watcher = house.watching()
    assert house.say(watcher, wire.BootstrapWatch(OTHER_JTI)) == [
        Deliver(watcher, wire.BootstrapWatching(OTHER_JTI))
    ]
    for jti in (JTI, OTHER_JTI):
        target = house.open()
        house.say(target, wire.BootstrapInit(jti, "A"))
        assert house.say(watcher, wire.BootstrapAck(jti, "key", "sig")) == [
            Deliver(target, wire.BootstrapAcked(jti, "key", "sig"))
        ]


def test_watching_twice_is_watching() -> None:
    house = House()
    watcher = house.watching()
    assert house.say(watcher, wire.BootstrapWatch(JTI)) == [
        Deliver(watcher, wire.BootstrapWatching(JTI))
    ]


def test_a_watcher_waits_for_hours() -> None:
    house = House()
    watcher = house.watching()
    assert house.wait(20 * 3600) == []
    assert house.say(house.open(), INIT) == [Deliver(watcher, INIT)]


def test_a_second_watcher_is_refused_until_the_first_is_gone() -> None:
    house = House()
    first, second = house.watching(), house.open()
    assert house.say(second, wire.BootstrapWatch(JTI)) == [
        Deliver(second, reject("already_watched"))
    ]
    house.leave(first)
    assert house.say(second, wire.BootstrapWatch(JTI)) == [
        Deliver(second, wire.BootstrapWatching(JTI))
    ]


def test_a_used_token_is_still_its_controllers_to_judge() -> None:
    """The same device, whose answer was lost, or a second one: the relay cannot tell."""
    house = House()
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    house.say(watcher, ACK)
    assert house.say(target, INIT) == [Deliver(watcher, INIT)]
    assert house.say(watcher, ACK) == [Deliver(target, ACKED)]
    second = house.open()
    assert house.say(second, INIT) == [Deliver(watcher, INIT)]
    used = reject("token_already_used")
    assert house.say(watcher, used) == [Deliver(second, used)]


def test_a_used_token_that_nobody_watches() -> None:
    house = House()
    watcher = house.watching()
    house.say(house.open(), INIT)
    house.say(watcher, ACK)
    house.leave(watcher)
    target = house.open()
    assert house.say(target, INIT) == [Deliver(target, reject("token_already_used"))]
    assert house.say(target, INIT) == [Deliver(target, reject("token_already_used"))]


def test_a_used_token_is_watched_again_by_one() -> None:
    house = House()
    first = house.watching()
    house.say(house.open(), INIT)
    house.say(first, ACK)
    second = house.open()
    assert house.say(second, wire.BootstrapWatch(JTI)) == [
        Deliver(second, reject("already_watched"))
    ]
    house.leave(first)
    assert house.say(second, wire.BootstrapWatch(JTI)) == [
        Deliver(second, wire.BootstrapWatching(JTI))
    ]
    target = house.open()
    assert house.say(target, INIT) == [Deliver(second, INIT)]
    assert house.say(second, ACK) == [Deliver(target, ACKED)]


def test_a_used_token_is_announced_ten_times_a_minute_too() -> None:
    house = House()
    watcher = house.watching()
    house.say(house.open(), INIT)
    house.say(watcher, ACK)
    for _ in range(9):
        assert house.say(house.open(), INIT) == [Deliver(watcher, INIT)]
    late = house.open()
    assert house.say(late, INIT) == [
        Deliver(late, reject("relay_overloaded")),
        Hangup(late, 1008),
    ]


def test_answers_go_to_the_targets_in_their_order() -> None:
    """One token on two machines: the first is recorded, the second is told."""
    house = House()
    watcher, first, second = house.watching(), house.open(), house.open()
    house.say(first, INIT)
    house.say(second, INIT)
    assert house.say(watcher, ACK) == [Deliver(first, ACKED)]
    assert house.say(watcher, reject("token_already_used")) == [
        Deliver(second, reject("token_already_used"))
    ]


def test_the_answer_for_a_target_that_left_goes_to_nobody_else() -> None:
    house = House()
    watcher, first, second = house.watching(), house.open(), house.open()
    house.say(first, INIT)
    house.say(second, INIT)
    house.leave(first)
    assert house.say(watcher, reject("bad_mac")) == []
    assert house.say(watcher, ACK) == [Deliver(second, ACKED)]


def test_an_answer_to_nothing_does_nothing() -> None:
    house = House()
    watcher = house.watching()
    assert house.say(watcher, ACK) == []
    assert house.say(house.open(), INIT) == [Deliver(watcher, INIT)]  # not used up


def test_an_answer_after_a_minute_is_none() -> None:
    house = House()
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    assert house.wait(60) == [Hangup(target, 1008)]
    assert house.say(watcher, ACK) == []


def test_a_watcher_that_never_answers_is_not_owed_for_ever() -> None:
    """Who waited over a minute is out of the row, so the row never outgrows ten."""
    house = House()
    watcher, patient = house.watching(), house.open()
    house.say(patient, INIT)
    house.wait(40)
    house.say(patient, INIT)  # so that it stays
    house.wait(30)
    target = house.open()
    house.say(target, INIT)
    assert house.say(watcher, reject("one")) == [Deliver(patient, reject("one"))]
    assert house.say(watcher, reject("two")) == [Deliver(target, reject("two"))]
    assert house.say(watcher, reject("three")) == []


def test_who_waits_for_an_answer_hears_that_the_watcher_left() -> None:
    house = House()
    watcher, target, gone = house.watching(), house.open(), house.open()
    house.say(gone, INIT)
    house.say(target, INIT)
    house.leave(gone)
    assert house.leave(watcher) == [Deliver(target, reject("no_watcher"))]


def test_ten_announcements_a_minute() -> None:
    house = House()
    watcher = house.watching()
    for _ in range(10):
        assert house.say(house.open(), INIT) == [Deliver(watcher, INIT)]
    late = house.open()
    assert house.say(late, INIT) == [
        Deliver(late, reject("relay_overloaded")),
        Hangup(late, 1008),
    ]
    other = house.open()
    assert house.say(other, wire.BootstrapInit(OTHER_JTI, "A")) == [
        Deliver(other, reject("no_watcher", OTHER_JTI))
    ]
    house.wait(60)
    assert house.say(house.open(), INIT) == [Deliver(watcher, INIT)]


def test_announcements_count_without_a_watcher_too() -> None:
    house = House()
    for _ in range(10):
        target = house.open()
        assert house.say(target, INIT) == [Deliver(target, reject("no_watcher"))]
    target = house.open()
    assert house.say(target, INIT)[0] == Deliver(target, reject("relay_overloaded"))


def test_a_target_announces_itself_under_one_token() -> None:
    house = House()
    target = house.open()
    house.say(target, INIT)
    house.say(target, wire.BootstrapInit(OTHER_JTI, "A"))
    assert house.closed == {target: 1008}


def test_an_announcer_stays_a_minute_from_its_last_attempt() -> None:
    house = House()
    house.watching()
    target = house.open()
    house.wait(50)
    house.say(target, INIT)
    house.wait(59)
    house.say(target, INIT)
    assert house.wait(59) == []
    assert house.wait(1) == [Hangup(target, 1008)]


def test_a_jti_is_used_up_for_25_hours() -> None:
    house = House()
    watcher = house.watching()
    house.say(house.open(), INIT)
    house.say(watcher, ACK)
    house.leave(watcher)
    house.wait(25 * 3600 - 1)
    target = house.open()
    assert house.say(target, INIT) == [Deliver(target, reject("token_already_used"))]
    house.wait(1)
    assert house.say(target, INIT) == [Deliver(target, reject("no_watcher"))]


def test_a_socket_watches_so_many_tokens() -> None:
    house = House(Limits(max_watches=5))
    watcher = watching_many(house, 5)
    assert house.say(watcher, wire.BootstrapWatch(JTI)) == [
        Deliver(watcher, reject("relay_overloaded"))
    ]
    house.watching()


def test_a_relay_watches_so_many_tokens() -> None:
    house = House(Limits(max_sessions=3))
    watcher = watching_many(house, 3)
    for number in (watcher, house.open()):
        assert house.say(number, wire.BootstrapWatch(JTI)) == [
            Deliver(number, reject("relay_overloaded"))
        ]
    house.leave(watcher)
    house.watching()


def watching_many(house: House, tokens: int) -> int:
    watcher = house.watching("bt_" + "0" * 32)
    for number in range(1, tokens):
        jti = f"bt_{number:032x}"
        assert house.say(watcher, wire.BootstrapWatch(jti)) == [
            Deliver(watcher, wire.BootstrapWatching(jti))
        ]
    return watcher
