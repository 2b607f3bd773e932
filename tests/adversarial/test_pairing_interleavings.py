"""T2: a relay in the middle that forwards, swaps, drops, repeats, reorders and lies.

`World` holds an honest target and controller, two honest people, and an attacker between
them with a ceremony of its own towards each. Whatever the attacker does, neither device may
record it, and a target may record only a controller that has recorded it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amesh_core.ceremony import AwaitDone, Failed
from amesh_core.channel import Channel
from amesh_core.errors import (
    BadBox,
    BadIdentity,
    BadMessage,
    CommitmentMismatch,
    NotConfirmed,
    OutOfOrder,
    PairingExpired,
    PairingFailed,
    RejectedByPeer,
    RejectedHere,
    RelayLost,
    WrongDigits,
)
from amesh_core.identity import Peer, Role
from amesh_core.wire import pairing as wire
from amesh_core.wire.encoding import b64
from tests.support.ceremony import (
    ISSUED_AT,
    Device,
    Pair,
    Side,
    channel_of,
    controller,
    from_peer,
    other_end,
    people_act,
    target,
)

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
MIDDLE = Device.named("middle")
PROD_AS_TARGET = Peer(PROD.identity.device_id, PROD.key.public, "prod-api", Role.TARGET)
LAPTOP_AS_CONTROLLER = Peer(LAPTOP.identity.device_id, LAPTOP.key.public, "laptop", Role.CONTROLLER)


@dataclass
class World:
    """Everybody who takes part; `to_target` and `to_controller` are the attacker's."""

    target: Side = field(default_factory=lambda: target(PROD, ""))
    controller: Side = field(default_factory=lambda: controller(LAPTOP, ""))
    to_target: Side = field(default_factory=lambda: controller(MIDDLE, "middle"))
    to_controller: Side = field(default_factory=lambda: target(MIDDLE, "middle"))

    def __post_init__(self) -> None:
        for side in self.target, self.controller, self.to_target, self.to_controller:
            side.start()

    def forward(self, steps: int = 1) -> None:
        """Hand on the next message, as an honest relay would."""
        for _ in range(steps):
            if self.target.outbox:
                self.controller.hear(self.target.outbox.popleft())
            else:
                self.target.hear(self.controller.outbox.popleft())

    def talk(self, honest: Side, own: Side) -> None:
        """Let the attacker's ceremony and an honest side hear each other until both wait."""
        while honest.outbox or own.outbox:
            if honest.outbox:
                own.hear(honest.outbox.popleft())
            else:
                honest.hear(own.outbox.popleft())

    def lie_to_the_controller(self) -> None:
        """Say "the digits matched" as a target, whether anybody typed any or not."""
        if self.to_controller.asks_digits:
            self.to_controller.type(channel_of(self.to_controller).digits)
        self.talk(self.controller, self.to_controller)

    def people(self) -> None:
        """The people do all their screens ask for; the attacker agrees to everything."""
        while people_act(self.target, self.controller):
            pass
        if self.to_target.asks_about is not None:
            self.to_target.answer(yes=True)

    def hasty_people(self) -> None:
        """As `people`, but the question on the controller is answered first."""
        if self.controller.asks_about is not None:
            self.controller.answer(yes=self.target.says_matched)
        self.people()

    def nobody_is_recorded(self) -> None:
        assert self.target.recorded == []
        assert self.controller.recorded == []


def check(world: World) -> None:
    """What must hold whatever happened."""
    assert world.target.recorded in ([], [LAPTOP_AS_CONTROLLER])
    assert world.controller.recorded in ([], [PROD_AS_TARGET])
    if world.target.recorded:
        assert world.controller.recorded, "the target trusts who does not know it"


# --- substituting messages ------------------------------------------------------------------


@pytest.mark.parametrize("hasty", [False, True])
@pytest.mark.parametrize("swapped", [s for s in product([False, True], repeat=3) if any(s)])
def test_every_way_to_swap_keys(swapped: tuple[bool, bool, bool], hasty: bool) -> None:
    """Forward or replace each of commit, hello and reveal, then lie as far as it goes."""
    swap_commit, swap_hello, swap_reveal = swapped
    world = World()
    commit, own_commit = world.target.outbox.popleft(), world.to_controller.outbox.popleft()
    world.to_target.hear(commit)
    world.controller.hear(own_commit if swap_commit else commit)
    hello, own_hello = world.controller.outbox.popleft(), world.to_target.outbox.popleft()
    world.to_controller.hear(hello)
    world.target.hear(own_hello if swap_hello else hello)
    reveal, own_reveal = world.target.outbox.popleft(), world.to_controller.outbox.popleft()
    world.to_target.hear(reveal)
    world.controller.hear(own_reveal if swap_reveal else reveal)
    if swap_commit != swap_reveal:
        assert isinstance(world.controller.ended, CommitmentMismatch)
    if world.controller.digits is not None and world.to_controller.asks_digits:
        world.to_controller.type(channel_of(world.to_controller).digits)
        world.controller.hear(world.to_controller.outbox.popleft())
    if hasty:
        world.hasty_people()
    else:
        world.people()
    world.talk(world.target, world.to_target)
    world.people()
    world.talk(world.target, world.to_target)
    world.talk(world.controller, world.to_controller)
    world.nobody_is_recorded()


@pytest.mark.parametrize("hasty", [False, True])
def test_two_ceremonies_of_its_own(hasty: bool) -> None:
    """The plain attack: the digits differ, the target's person sees it, both sides end."""
    world = World()
    world.talk(world.target, world.to_target)
    world.talk(world.controller, world.to_controller)
    world.lie_to_the_controller()
    assert world.controller.asks_about is not None
    assert world.controller.asks_about.public_key == MIDDLE.key.public
    if hasty:
        world.hasty_people()
    else:
        world.people()
    world.talk(world.target, world.to_target)
    world.talk(world.controller, world.to_controller)
    world.nobody_is_recorded()
    assert isinstance(world.target.ended, WrongDigits)
    assert isinstance(world.controller.ended, RejectedHere)


def test_lying_before_anybody_has_typed() -> None:
    """The question appears on the controller while the target still asks for digits."""
    world = World()
    world.talk(world.controller, world.to_controller)
    world.lie_to_the_controller()
    assert world.controller.asks_about is not None
    assert not world.target.says_matched
    world.hasty_people()
    world.nobody_is_recorded()
    assert isinstance(world.controller.ended, RejectedHere)


def test_a_person_who_confirms_unseen_hurts_only_the_controller() -> None:
    """Documented limit: such a person records the attacker as a target. No target is harmed,
    and the attacker gets no controller's rights anywhere."""
    world = World()
    world.talk(world.controller, world.to_controller)
    world.lie_to_the_controller()
    world.controller.answer(yes=True)
    world.talk(world.target, world.to_target)
    world.talk(world.controller, world.to_controller)
    assert world.target.recorded == []
    (recorded,) = world.controller.recorded
    assert recorded.role is Role.TARGET


def test_joining_two_meetings() -> None:
    """The honest controller of one meeting led to the target of another, codes and all."""
    world = World(controller=controller(LAPTOP, "", code="482917"))
    world.forward(3)
    world.people()
    world.nobody_is_recorded()
    assert isinstance(world.target.ended, WrongDigits)


# --- dropping and cutting -------------------------------------------------------------------


def test_dropping_done() -> None:
    """Both recorded each other honestly; the controller only does not learn that it is over."""
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    met.run_until(lambda: bool(met.target.recorded))
    met.target.outbox.clear()
    with pytest.raises(NotConfirmed):
        met.controller.ceremony.expire()
    assert met.target.recorded == [LAPTOP_AS_CONTROLLER]
    assert met.controller.recorded == [PROD_AS_TARGET]


def test_dropping_the_controllers_identity() -> None:
    """The controller keeps a harmless entry; the target trusts nobody."""
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    met.run_until(lambda: bool(met.controller.recorded))
    met.controller.outbox.clear()
    with pytest.raises(NotConfirmed):
        met.controller.ceremony.expire()
    assert met.target.recorded == []


def test_dropping_the_refusal() -> None:
    """Digits were wrong and the controller is not told: it waits, and ends by itself."""
    world = World()
    world.forward(3)
    world.target.type("000000")
    world.target.outbox.clear()
    with pytest.raises(PairingExpired):
        world.controller.ceremony.expire()
    world.nobody_is_recorded()


@pytest.mark.parametrize("step", range(9))
def test_cutting_the_line_and_waiting_for_a_retry(step: int) -> None:
    """A cut ends both ceremonies for good; the next attempt has other keys and a new code.

    So every attempt of the attacker costs two people another run, and is one in a million.
    """
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    for _ in range(step):
        met.step()
    held_back = [*met.target.outbox, *met.controller.outbox]
    for side in met.target, met.controller:
        before = list(side.recorded)
        with pytest.raises((RelayLost, NotConfirmed)):
            side.ceremony.stop(RelayLost("cut"))
        # Neither a message held back nor a new beginning brings it to life.
        for payload in held_back:
            with pytest.raises(PairingFailed):
                side.ceremony.receive(payload, 0)
        with pytest.raises(OutOfOrder):
            side.ceremony.start(0)
        assert side.recorded == before
        assert side.ceremony.state == Failed()


# --- reflecting and repeating ---------------------------------------------------------------


def test_everything_reflected_to_its_sender() -> None:
    """Each message a side sends comes straight back to it, at every point of the ceremony."""
    for steps in range(9):
        for who in "target", "controller":
            met = Pair(target(PROD, ""), controller(LAPTOP, ""))
            for _ in range(steps):
                met.step()
            side = met.target if who == "target" else met.controller
            before = list(side.recorded)
            if not side.outbox or side.ceremony.state == Failed():
                continue
            side.hear(side.outbox[0])
            assert side.ended is not None
            assert side.recorded == before


def test_the_targets_identity_is_not_a_done() -> None:
    """The same box twice: it was number 0, and number 1 is due."""
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    met.run_until(lambda: met.target.says_matched)
    identity = met.target.outbox[0]
    met.run_until(lambda: isinstance(met.controller.ceremony.state, AwaitDone))
    met.controller.hear(identity)
    assert isinstance(met.controller.ended, NotConfirmed)
    assert isinstance(met.controller.ended.__cause__, BadBox)


def old_claim() -> wire.Claim:
    """What the controller once signed when it paired with the attacker, in good faith."""
    met = Pair(target(MIDDLE, "last year"), controller(LAPTOP, "last year"))
    met.run_until(lambda: bool(met.controller.recorded))
    message, _ = channel_of(met.target).open(_box(met.controller.outbox[0]))
    assert isinstance(message, wire.Claim)
    return message


def _box(payload: str) -> wire.Box:
    frame = wire.decode(payload)
    assert isinstance(frame, wire.Box)
    return frame


def test_an_identity_recorded_in_another_session() -> None:
    """Even when the target's person has typed the attacker's digits, the one-in-a-million
    case: it can then be itself, but never the controller it once met."""
    claim = old_claim()
    world = World()
    world.talk(world.target, world.to_target)
    world.target.type(channel_of(world.to_target).digits)
    world.target.hear(from_peer(world.target, claim))
    assert isinstance(world.target.ended, BadIdentity)
    assert world.target.recorded == []


def test_boxes_of_another_session() -> None:
    met = Pair(target(PROD, "before"), controller(LAPTOP, "before"))
    met.run_until(lambda: bool(met.controller.recorded))
    old_box = met.controller.outbox[0]
    world = World()
    world.forward(3)
    world.people()
    world.target.hear(old_box)
    assert isinstance(world.target.ended, BadBox)
    assert world.target.recorded == []


# --- forging --------------------------------------------------------------------------------

CLEAR = {
    "rejected": b64(b'{"rejected":true}'),
    "done": b64(b'{"done":true}'),
    "error": b64(b'{"error":"home_busy"}'),
    "version 1 confirms": "sas_confirmed",
    "version 1 rejects": "sas_rejected",
    "nothing": "",
    "null": b64(b"null"),
}


@pytest.mark.parametrize("clear", CLEAR.values(), ids=CLEAR.keys())
@pytest.mark.parametrize("step", range(9))
def test_nothing_outside_a_box_is_believed(step: int, clear: str) -> None:
    """In particular no "rejected by the other device": nobody there has said so."""
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    for _ in range(step):
        met.step()
    for side in met.target, met.controller:
        before = list(side.recorded)
        side.hear(clear)
        assert isinstance(side.ended, BadMessage | NotConfirmed)
        assert not isinstance(side.ended, RejectedByPeer)
        assert side.recorded == before


def test_boxes_of_somebody_who_only_listened() -> None:
    """The attacker can compute the transcript, all of it is public, but none of the keys."""
    world = World()
    world.forward(3)
    world.people()
    public = channel_of(world.target).transcript
    guess = Channel(public, "000000", _send_key=public, _receive_key=public)
    claim = guess.claim(MIDDLE.identity, MIDDLE.key, Role.CONTROLLER, ISSUED_AT)
    world.target.hear(wire.encode(guess.seal(claim)[0]))
    assert isinstance(world.target.ended, BadBox)
    assert world.target.recorded == []


def test_another_role() -> None:
    """Two targets, or two controllers, have nothing to say to each other."""
    for make in target, controller:
        one, other = make(PROD, "one"), make(LAPTOP, "other")
        one.start()
        other.start()
        while one.outbox or other.outbox:
            if one.outbox:
                other.hear(one.outbox.popleft())
            else:
                one.hear(other.outbox.popleft())
        assert one.recorded == other.recorded == []
        if make is target:
            assert isinstance(one.ended, OutOfOrder)


def test_a_target_cannot_pass_for_a_controller() -> None:
    """With the right digits typed and the attacker's true signature, but in its other role."""
    world = World()
    world.talk(world.target, world.to_target)
    world.target.type(channel_of(world.to_target).digits)
    end = other_end(world.target)
    claim = end.claim(MIDDLE.identity, MIDDLE.key, Role.TARGET, ISSUED_AT)
    for lie in claim, replace(claim, role="controller"):
        side = world.target
        before = side.ceremony.state
        side.hear(from_peer(side, lie))
        assert isinstance(side.ended, BadIdentity)
        assert side.recorded == []
        side.ceremony.state, side.ended = before, None


# --- anything else --------------------------------------------------------------------------


def deliver(world: World, said: list[str], message: int, to: int) -> None:
    """Any message anybody has ever sent, to anybody."""
    sides = world.target, world.controller, world.to_target, world.to_controller
    if said:
        sides[to].hear(said[message % len(said)])


def collect(world: World, said: list[str]) -> None:
    for side in world.target, world.controller, world.to_target, world.to_controller:
        said += side.outbox
        side.outbox.clear()


moves = st.one_of(
    st.tuples(st.just("deliver"), st.integers(-4, 30), st.integers(0, 3)),
    st.tuples(st.just("people"), st.just(0), st.just(0)),
    st.tuples(st.just("hasty people"), st.just(0), st.just(0)),
    st.tuples(st.just("lie"), st.just(0), st.just(0)),
    st.tuples(st.just("forge"), st.integers(0, len(CLEAR) - 1), st.integers(0, 1)),
)


@settings(max_examples=300, deadline=None)
@given(honest_steps=st.integers(0, 8), plan=st.lists(moves, max_size=25))
def test_any_other_interleaving(honest_steps: int, plan: list[tuple[str, int, int]]) -> None:
    """Some way into an honest pairing the attacker begins to do as it likes."""
    world = World()
    said: list[str] = [*world.to_target.outbox, *world.to_controller.outbox]
    for _ in range(honest_steps):
        said += [*world.target.outbox, *world.controller.outbox]
        if world.target.outbox or world.controller.outbox:
            world.forward()
        else:
            people_act(world.target, world.controller)
    for what, number, to in plan:
        collect(world, said)
        match what:
            case "deliver":
                deliver(world, said, number, to)
            case "people":
                world.people()
            case "hasty people":
                world.hasty_people()
            case "lie":
                if world.to_controller.asks_digits and world.to_controller.ended is None:
                    world.to_controller.type(channel_of(world.to_controller).digits)
            case _:
                (world.target, world.controller)[to].hear([*CLEAR.values()][number])
        check(world)
