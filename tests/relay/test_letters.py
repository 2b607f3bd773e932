"""Sessions across two relays, letter by letter: each may be lost, come twice, or come late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from amesh_core.wire import relay as wire
from amesh_relay.cluster import MAX_WAITING
from amesh_relay.limits import LIFE_SECONDS, Limits
from amesh_relay.state import Kind, Letter
from tests.support.hub import JTI, error
from tests.support.letters import Device, Fate, Place, Town

CODE = "482916"
WORDS = [wire.Data(f"word {number}") for number in range(4)]
INIT = wire.BootstrapInit(JTI, "key", "prod", proof="p", mac="m")


def drop(town: Town, node: str, letter: Letter) -> None:
    """It does not arrive."""


def twice(town: Town, node: str, letter: Letter) -> None:
    """It arrives, and again."""
    town.arrive(node, letter)
    town.arrive(node, letter)


def late(town: Town, node: str, letter: Letter) -> None:
    """What was written after it arrives before it, as far as there is something."""
    if town.mail:
        then, other = town.mail.popleft()
        town.carried.append(other)
        town.arrive(then, other)
    town.arrive(node, letter)


def nth(number: int, fate: Fate) -> Fate:
    """That happens to one letter, and nothing to the others."""

    def choose(town: Town, node: str, letter: Letter) -> None:
        if len(town.carried) - 1 == number:
            fate(town, node, letter)
        else:
            town.arrive(node, letter)

    return choose


async def pairing(town: Town) -> tuple[Device, Device]:
    """A whole ceremony: the target at the home, the controller at another relay."""
    home, other = town.place("home"), town.place("other")
    target, controller = home.open(), other.open()
    target.say(wire.Listen(CODE))
    await town.rest()
    controller.say(wire.Connect(CODE))
    await town.rest()
    for sender, word in zip((target, controller, target, controller), WORDS, strict=True):
        if sender.is_open and wire.PeerFound() in sender.heard:
            sender.say(word)
        await town.rest()
    if controller.is_open and wire.PeerFound() in controller.heard:
        controller.say(wire.Done())
    await town.rest()
    return target, controller


async def announcement(town: Town) -> tuple[Device, Device]:
    """A token: the watcher at the home, the device that has it at another relay."""
    home, other = town.place("home"), town.place("other")
    watcher, target = home.open(), other.open()
    watcher.say(wire.BootstrapWatch(JTI))
    await town.rest()
    target.say(INIT)
    await town.rest()
    if INIT in watcher.heard:
        watcher.say(wire.BootstrapAck(JTI, "controller", "sig"))
    await town.rest()
    return watcher, target


def letters_of(story: Callable[[Town], Awaitable[object]]) -> int:
    town = in_town(story)
    return len(town.carried)


def reads(device: Device) -> bool:
    """A function, as what it says changes with every call."""
    return device.is_reading


def in_town(story: Callable[[Town], Awaitable[object]], fate: Fate | None = None) -> Town:
    async def told() -> Town:
        town = Town(fate)
        await story(town)
        return town

    return asyncio.run(told())


def test_a_pairing_without_faults() -> None:
    async def story(town: Town) -> None:
        target, controller = await pairing(town)
        assert target.heard == [wire.Ack(), wire.PeerFound(), WORDS[1], WORDS[3], wire.Done()]
        assert controller.heard == [wire.PeerFound(), WORDS[0], WORDS[2]]
        assert target.close_code == controller.close_code == 1000
        assert town.is_empty()
        assert not town.codes

    in_town(story)


@pytest.mark.parametrize("fate", [drop, twice, late])
def test_whatever_happens_to_a_letter_of_a_pairing(fate: Fate) -> None:
    """Both ends come to an end with a name, nothing is heard out of turn, nothing stays."""
    for number in range(letters_of(pairing)):

        async def story(town: Town, number: int = number) -> None:
            target, controller = await pairing(town)
            await town.wait(int(LIFE_SECONDS) + 20)
            assert town.is_empty(), number
            assert not town.codes, number
            for device, words in ((target, WORDS[1::2]), (controller, WORDS[::2])):
                assert not device.is_open, (number, device.heard)
                heard = [frame for frame in device.heard if isinstance(frame, wire.Data)]
                assert heard == words[: len(heard)]
                if heard != words or device.close_code != 1000:
                    last = device.heard[-1]
                    assert isinstance(last, wire.RelayErrorFrame), (number, device.heard)
                    assert last.code in ("peer_disconnected", "otc_expired", "otc_not_found")

        in_town(story, nth(number, fate))


@pytest.mark.parametrize("fate", [drop, twice, late])
def test_whatever_happens_to_a_letter_of_an_announcement(fate: Fate) -> None:
    for number in range(letters_of(announcement)):

        async def story(town: Town, number: int = number) -> None:
            watcher, target = await announcement(town)
            await town.wait(int(LIFE_SECONDS) + 20)
            assert watcher.is_open
            assert watcher.heard in (
                [wire.BootstrapWatching(JTI)],
                [wire.BootstrapWatching(JTI), INIT],
            )
            assert not target.is_open
            assert target.heard
            watcher.leave()
            await town.rest()
            assert town.is_empty(), number
            assert not town.watches

        in_town(story, nth(number, fate))


def test_a_letter_that_comes_after_the_end_changes_nothing() -> None:
    """Not even for others that have the same code by then."""
    for number in range(letters_of(pairing)):
        in_town(partial(late_letter, number=number))


async def late_letter(town: Town, number: int) -> None:
    await pairing(town)
    letter = town.carried[number]
    home, other = town.places["home"], town.places["other"]
    target, controller = await met(town, home, other)
    town.arrive("home" if letter.sender == "other" else "other", letter)
    await town.rest()
    target.say(WORDS[0])
    controller.say(WORDS[1])
    await town.rest()
    assert controller.heard == [wire.PeerFound(), WORDS[0]], letter
    assert target.heard == [wire.Ack(), wire.PeerFound(), WORDS[1]], letter


async def met(town: Town, home: Place, other: Place) -> tuple[Device, Device]:
    target, controller = home.open(), other.open()
    target.say(wire.Listen(CODE))
    await town.rest()
    controller.say(wire.Connect(CODE))
    await town.rest()
    assert controller.heard == [wire.PeerFound()]
    return target, controller


@pytest.mark.parametrize("leaver", [0, 1])
def test_both_ends_leave_at_once(leaver: int) -> None:
    async def story(town: Town) -> None:
        ends = await met(town, town.place("home"), town.place("other"))
        ends[leaver].leave()
        ends[1 - leaver].leave()
        await town.rest()
        assert town.is_empty()
        assert not town.codes

    in_town(story)


def test_a_relay_that_counts_as_dead_ends_its_sessions_on_both_sides() -> None:
    """It is not dead and goes on: what it then writes is answered, so nobody waits."""

    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        target, controller = await met(town, home, other)
        town.mail.clear()
        home.cluster.died("other")
        town.mail.clear()  # what it is told does not reach it now
        assert target.heard[-1] == error("peer_disconnected")
        assert controller.is_open
        controller.say(WORDS[0])
        await town.rest()
        assert controller.heard[-1] == error("peer_disconnected")
        assert town.is_empty()

    in_town(story)


def test_a_relay_that_is_told_of_its_death_ends_its_guests_at_once() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        _, controller = await met(town, home, other)
        home.cluster.died("other")
        await town.rest()
        assert controller.heard[-1] == error("peer_disconnected")

    in_town(story)


def test_a_guest_that_left_unheard_is_missed_at_the_next_word() -> None:
    async def story(town: Town) -> None:
        target, controller = await met(town, town.place("home"), town.place("other"))
        controller.leave()
        town.mail.clear()
        target.say(WORDS[0])
        await town.rest()
        assert target.heard[-1] == error("peer_disconnected")
        assert town.is_empty()

    in_town(story)


def test_a_guest_that_is_held_back_when_all_is_lost_is_read_again() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        target, controller = await met(town, home, other)
        target.pause_writing()
        controller.say(WORDS[0])
        await town.rest()
        assert not reads(controller)
        other.cluster.lost()
        assert controller.heard[-1] == error("peer_disconnected")
        assert reads(controller)

    in_town(story)


def test_out_of_touch_guests_end_and_others_go_on() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        far = await met(town, home, other)
        near = home.open(), home.open()
        near[0].say(wire.Listen("111111"))
        await town.rest()
        near[1].say(wire.Connect("111111"))
        await town.rest()
        home.cluster.lost()
        other.cluster.lost()
        assert [device.heard[-1] for device in far] == [error("peer_disconnected")] * 2
        near[0].say(WORDS[0])
        assert near[1].heard == [wire.PeerFound(), WORDS[0]]

    in_town(story)


def test_what_waits_is_told_again_and_what_others_took_ends() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        kept, taken, thief = home.open(), home.open(), other.open()
        kept.say(wire.Listen("111111"))
        taken.say(wire.Listen(CODE))
        watcher, lost, late = home.open(), home.open(), other.open()
        watcher.say(wire.BootstrapWatch(JTI))
        lost.say(wire.BootstrapWatch("bt_" + "0" * 32))
        await town.rest()
        town.codes.clear()
        town.watches.clear()
        thief.say(wire.Listen(CODE))
        late.say(wire.BootstrapWatch("bt_" + "0" * 32))
        await town.rest()
        home.cluster.found()
        await town.rest()
        assert town.codes == {"111111": ("home", "waiting"), CODE: ("other", "waiting")}
        assert town.watches == {JTI: "home", "bt_" + "0" * 32: "other"}
        assert kept.heard == thief.heard == [wire.Ack()]
        assert taken.heard == [wire.Ack(), error("otc_expired")]
        assert watcher.is_open
        assert lost.close_code == 1013

    in_town(story)


def test_used_up_tokens_are_told_again() -> None:
    async def story(town: Town) -> None:
        await announcement(town)
        assert town.burned == {JTI}
        town.burned.clear()
        town.places["home"].cluster.found()
        await town.rest()
        assert town.burned == {JTI}

    in_town(story)


# --- who asked is not there any more ----------------------------------------------------


@pytest.mark.parametrize("frame", [wire.Listen(CODE), wire.BootstrapWatch(JTI)])
def test_who_leaves_while_asked_keeps_nothing(frame: wire.DeviceFrame) -> None:
    async def story(town: Town) -> None:
        device = town.place("home").open()
        town.gate.clear()
        device.say(frame)
        await town.rest()
        assert town.codes or town.watches
        device.leave()
        town.gate.set()
        await town.rest()
        assert not town.codes
        assert not town.watches
        assert town.is_empty()

    in_town(story)


def test_who_sends_on_while_asked_is_not_read_from_until_that_is_decided() -> None:
    async def story(town: Town) -> None:
        device = town.place("home").open()
        town.gate.clear()
        device.say(wire.Listen(CODE))
        assert reads(device)  # as most devices send nothing more, nothing was done
        device.say(wire.Done())
        assert not reads(device)
        await town.rest()
        assert not reads(device)
        town.gate.set()
        await town.rest()
        assert device.heard == [wire.Ack()]
        assert device.close_code == 1000
        assert reads(device)

    in_town(story)


@pytest.mark.parametrize("at", ["home", "other"])
def test_a_controller_that_leaves_while_asked_spends_the_code(at: str) -> None:
    async def story(town: Town) -> None:
        for node in ("home", "other"):
            town.place(node)
        target, controller = town.places["home"].open(), town.places[at].open()
        target.say(wire.Listen(CODE))
        await town.rest()
        town.gate.clear()
        controller.say(wire.Connect(CODE))
        await town.rest()
        controller.leave()
        town.gate.set()
        await town.rest()
        assert target.heard == [wire.Ack(), error("otc_expired")]
        assert not town.codes
        assert town.is_empty()

    in_town(story)


def test_who_leaves_before_it_is_asked() -> None:
    """In the same turn of the loop: the question begins when it is gone."""

    async def story(town: Town) -> None:
        device = town.place("home").open()
        device.say(wire.Listen(CODE))
        device.leave()
        await town.rest()
        assert not town.codes

    in_town(story)


def test_who_is_sent_away_while_asked_keeps_nothing() -> None:
    async def story(town: Town) -> None:
        home = town.place("home")
        device = home.open()
        town.gate.clear()
        device.say(wire.Listen(CODE))
        await town.rest()
        await home.relay.drain(0)
        assert device.close_code == 1001
        town.gate.set()
        await town.rest()
        assert device.heard == []
        assert not town.codes

    in_town(story)


def test_a_controller_that_is_sent_away_while_asked_is_no_guest() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        target, controller = home.open(), other.open()
        target.say(wire.Listen(CODE))
        await town.rest()
        town.gate.clear()
        controller.say(wire.Connect(CODE))
        await other.relay.drain(0)
        town.gate.set()
        await town.rest()
        assert target.heard == [wire.Ack(), error("otc_expired")]
        assert town.is_empty()

    in_town(story)


# --- a limit of our own, and claims that are not so ---------------------------------------


def test_what_our_own_limit_refuses_is_given_back() -> None:
    async def story(town: Town) -> None:
        home = town.place("home")
        home.relay.set_limits(Limits(max_sessions_per_address=1, max_sessions=1))
        first, second = home.open(), home.open()
        first.say(wire.Listen("111111"))
        second.say(wire.Listen(CODE))
        await town.rest()
        assert second.heard == [error("relay_capacity")]
        assert list(town.codes) == ["111111"]
        watcher, other = home.open(), home.open()
        watcher.say(wire.BootstrapWatch(JTI))
        other.say(wire.BootstrapWatch("bt_" + "0" * 32))
        await town.rest()
        assert other.heard == [wire.BootstrapReject("bt_" + "0" * 32, "relay_overloaded")]
        assert list(town.watches) == [JTI]

    in_town(story)


def test_a_second_watcher_at_one_relay_takes_nothing_from_the_first() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        first, second, target = home.open(), home.open(), other.open()
        first.say(wire.BootstrapWatch(JTI))
        second.say(wire.BootstrapWatch(JTI))
        await town.rest()
        assert second.heard == [wire.BootstrapReject(JTI, "already_watched")]
        target.say(INIT)
        await town.rest()
        assert first.heard == [wire.BootstrapWatching(JTI), INIT]

    in_town(story)


def test_a_code_whose_controller_our_own_limit_refuses_is_spent() -> None:
    """For the others it is in use: its target would wait for nobody."""

    async def story(town: Town) -> None:
        home = town.place("home")
        target, controller = home.open(), home.open()
        target.say(wire.Listen(CODE))
        await town.rest()
        for number in range(5):
            town.codes[f"00000{number}"] = ("home", "waiting")
            controller.say(wire.Connect(f"00000{number}"))
            await town.rest()
        controller.say(wire.Connect(CODE))
        await town.rest()
        assert controller.heard[-1] == error("rate_limited")
        assert target.heard == [wire.Ack(), error("otc_expired")]
        assert not town.codes

    in_town(story)


@pytest.mark.parametrize("at", ["home", "other"])
def test_a_code_that_is_not_where_it_was_said_to_be(at: str) -> None:
    async def story(town: Town) -> None:
        for node in ("home", "other"):
            town.place(node)
        town.codes[CODE] = ("home", "waiting")
        controller = town.places[at].open()
        controller.say(wire.Connect(CODE))
        await town.rest()
        assert controller.heard == [error("otc_not_found")]
        assert not town.codes
        # Its next try is decided by all relays again, not by the one that did not have it.
        assert controller.is_open == (at == "home")
        assert town.is_empty()

    in_town(story)


@pytest.mark.parametrize("at", ["home", "other"])
def test_a_token_that_is_not_watched_where_it_was_said_to_be(at: str) -> None:
    async def story(town: Town) -> None:
        for node in ("home", "other"):
            town.place(node)
        town.watches[JTI] = "home"
        target = town.places[at].open()
        target.say(INIT)
        await town.rest()
        assert target.heard == [wire.BootstrapReject(JTI, "no_watcher")]
        assert not town.watches
        assert town.is_empty()

    in_town(story)


# --- while it is asked --------------------------------------------------------------------


def test_what_comes_meanwhile_is_decided_in_its_order() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        target, controller = home.open(), other.open()
        target.say(wire.Listen(CODE))
        await town.rest()
        controller.say(wire.Connect("000000"), wire.Connect(CODE), *WORDS)
        assert not reads(controller)
        await town.rest()
        assert reads(controller)
        assert controller.heard == [error("otc_not_found"), wire.PeerFound()]
        assert target.heard == [wire.Ack(), wire.PeerFound(), *WORDS]

    in_town(story)


def test_what_comes_meanwhile_has_a_limit() -> None:
    async def story(town: Town) -> None:
        town.place("home")
        town.gate.clear()
        within, over = (town.places["home"].open() for _ in range(2))
        within.say(wire.Listen("111111"), *[wire.Done()] * MAX_WAITING)
        over.say(wire.Listen(CODE), *[wire.Done()] * (MAX_WAITING + 1))
        assert within.close_code is None
        assert over.close_code == 1008
        town.gate.set()
        await town.rest()
        assert not town.codes

    in_town(story)


def test_nobody_can_be_asked() -> None:
    async def story(town: Town) -> None:
        home = town.place("home")
        town.knows_nothing = True
        for frame, answer in (
            (wire.Listen(CODE), error("relay_capacity")),
            (wire.Connect(CODE), error("relay_capacity")),
            (wire.BootstrapWatch(JTI), wire.BootstrapReject(JTI, "relay_overloaded")),
            (INIT, wire.BootstrapReject(JTI, "relay_overloaded")),
        ):
            device = home.open()
            device.say(frame)
            await town.rest()
            assert device.heard == [answer]

    in_town(story)


def test_a_target_may_try_one_token_only() -> None:
    """As without other relays: a stranger cannot look for tokens on one connection."""

    async def story(town: Town) -> None:
        device = town.place("home").open()
        device.say(INIT)
        await town.rest()
        device.say(INIT)
        await town.rest()
        assert device.heard == [wire.BootstrapReject(JTI, "no_watcher")] * 2
        device.say(wire.BootstrapInit("bt_" + "0" * 32, "key"))
        await town.rest()
        assert device.heard[-1] == error("invalid_message")
        assert device.close_code == 1008

    in_town(story)


def test_a_defect_while_asked_ends_its_connection_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(town: Town) -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context["exception"])
        )
        home = town.place("home")
        unlucky, lucky = home.open(), home.open()

        async def broken(otc: str, client: bytes, *, again: bool = False) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(home.state, "listen", broken)
            unlucky.say(wire.Listen(CODE))
            await town.rest()
        assert unlucky.is_cut
        assert [type(one) for one in told] == [ZeroDivisionError]
        lucky.say(wire.Listen(CODE))
        await town.rest()
        assert lucky.heard == [wire.Ack()]

    in_town(story)


# --- who does not read --------------------------------------------------------------------


@pytest.mark.parametrize("deaf", [0, 1])
def test_a_peer_that_does_not_read_stalls_its_sender_across_relays(deaf: int) -> None:
    async def story(town: Town) -> None:
        ends = await met(town, town.place("home"), town.place("other"))
        slow, sender = ends[deaf], ends[1 - deaf]
        slow.pause_writing()
        await town.rest()
        sender.say(WORDS[0])
        await town.rest()
        assert not reads(sender)
        assert not reads(slow)  # it is answered as it sends, so it may not send on
        slow.resume_writing()
        await town.rest()
        assert reads(sender)
        assert reads(slow)

    in_town(story)


@pytest.mark.parametrize("deaf", [0, 1])
def test_who_is_held_back_is_read_again_when_it_is_over(deaf: int) -> None:
    """Otherwise its part of the closing handshake would never be read."""

    async def story(town: Town) -> None:
        ends = await met(town, town.place("home"), town.place("other"))
        slow, sender = ends[deaf], ends[1 - deaf]
        slow.pause_writing()
        await town.rest()
        sender.say(WORDS[0])
        await town.rest()
        assert not reads(sender)
        slow.connection_lost(None)
        await town.rest()
        assert sender.heard[-1] == error("peer_disconnected")
        assert reads(sender)

    in_town(story)


def test_when_too_much_waits_to_be_sent_its_writers_wait() -> None:
    async def story(town: Town) -> None:
        home, other = town.place("home"), town.place("other")
        target, controller = await met(town, home, other)
        idle = home.open()
        for place in (home, other):
            place.state.is_crowded = True
        target.say(WORDS[0])
        controller.say(WORDS[1])
        assert not reads(target)
        assert not reads(controller)
        assert reads(idle)
        for place in (home, other):
            place.state.is_crowded = False
            place.cluster.roomy()
        assert reads(target)
        assert reads(controller)

    in_town(story)


# --- what is no letter of ours ------------------------------------------------------------


@pytest.mark.parametrize(
    "letter",
    [
        Letter("other", "other/1", 1, Kind.ENTER, wire.encode(wire.Connect(CODE))),
        Letter("other", "other/1", 0, Kind.ENTER, "null"),
        Letter("other", "other/1", 0, Kind.ENTER, wire.encode(wire.Listen(CODE))),
        Letter("other", "other/1", 0, Kind.FRAME, wire.encode(wire.Connect(CODE))),
        Letter("other", "other/1", 0, Kind.GONE),
        Letter("other", "other/1", 0, Kind.STALL),
        Letter("other", "home/77", 0, Kind.TELL, wire.encode(wire.Ack())),
        Letter("other", "home/77", 0, Kind.END, code=1000),
        Letter("other", "home/", 0, Kind.HOLD),
        Letter("other", "", 0, Kind.GO),
        Letter("home", "home/1", 0, Kind.LOST),
        Letter("other", "-", 0, Kind.EXPIRE, "000000"),
    ],
)
def test_letters_about_nobody(letter: Letter) -> None:
    """They change nothing, and are answered so that nobody waits; but never without end."""

    async def story(town: Town) -> None:
        home = town.place("home")
        town.place("other")
        waiting = home.open()
        waiting.say(wire.Listen(CODE))
        await town.rest()
        town.arrive("home", letter)
        await town.rest()
        assert len(town.carried) <= 2
        assert waiting.heard == [wire.Ack()]
        assert home.relay.sessions == 1
        assert not home.cluster.correspondents()

    in_town(story)


@pytest.mark.parametrize("kind", [Kind.ENTER, Kind.FRAME, Kind.STALL, Kind.EXPIRE])
def test_a_home_that_writes_what_only_guests_do(kind: Kind) -> None:
    async def story(town: Town) -> None:
        target, controller = await met(town, town.place("home"), town.place("other"))
        town.arrive("other", Letter("home", f"other/{controller.number}", 1, kind))
        await town.rest()
        if kind is not Kind.EXPIRE:
            assert controller.heard[-1] == target.heard[-1] == error("peer_disconnected")

    in_town(story)


def test_a_close_code_that_is_none_of_ours() -> None:
    async def story(town: Town) -> None:
        _, controller = await met(town, town.place("home"), town.place("other"))
        letter = Letter("home", f"other/{controller.number}", 1, Kind.END, code=70000)
        town.arrive("other", letter)
        assert controller.close_code == 1008

    in_town(story)


def test_only_its_home_speaks_to_a_guest() -> None:
    async def story(town: Town) -> None:
        _, controller = await met(town, town.place("home"), town.place("other"))
        forged = wire.encode(wire.Data("forged"))
        town.arrive("other", Letter("third", f"other/{controller.number}", 1, Kind.TELL, forged))
        await town.rest()
        assert controller.heard == [wire.PeerFound()]
        assert controller.is_open

    in_town(story)
