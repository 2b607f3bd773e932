"""State x event: what is no line of the two tables ends the ceremony and records nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amesh_core.ceremony import (
    Answer,
    AskConsent,
    AskDigits,
    Consent,
    Event,
    Fail,
    Failed,
    Keyed,
    NotRecorded,
    Record,
    Recorded,
    SayMatched,
    Send,
    ShowDigits,
    Start,
    State,
    Typed,
)
from amesh_core.errors import (
    AmeshError,
    HomeUnwritable,
    NotConfirmed,
    OlderPairing,
    PairingFailed,
    PeerCouldNotRecord,
    RejectedByPeer,
)
from amesh_core.identity import Role
from amesh_core.wire import pairing as wire
from amesh_core.wire.encoding import b64
from tests.support.ceremony import (
    ISSUED_AT,
    Device,
    Pair,
    Side,
    channel_of,
    controller,
    fresh,
    from_peer,
    other_end,
    target,
)

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")

TARGET_STATES: Final = (
    "New",
    "AwaitHello",
    "AwaitDigits",
    "AwaitController",
    "RecordController",
    "Finished",
    "Failed",
)
CONTROLLER_STATES: Final = (
    "New",
    "AwaitCommit",
    "AwaitReveal",
    "AwaitTarget",
    "AwaitConsent",
    "RecordTarget",
    "AwaitDone",
    "Finished",
    "Failed",
)
ALL: Final = [
    *((Role.TARGET, state) for state in TARGET_STATES),
    *((Role.CONTROLLER, state) for state in CONTROLLER_STATES),
]

# The tables of amesh_core.pairing once more: what each event leads to, and what is asked for.
NEXT: Final = {
    (Role.TARGET, "New", "Start"): ("AwaitHello", [Send]),
    (Role.TARGET, "AwaitHello", "Hello"): ("AwaitDigits", [Send, AskDigits]),
    (Role.TARGET, "AwaitDigits", "Typed right"): ("AwaitController", [SayMatched, Send]),
    (Role.TARGET, "AwaitDigits", "Typed wrong"): ("Failed", [Fail]),
    (Role.TARGET, "AwaitController", "Claim"): ("RecordController", [Record]),
    (Role.TARGET, "RecordController", "Recorded"): ("Finished", [Send]),
    (Role.TARGET, "RecordController", "NotRecorded"): ("Failed", [Fail]),
    (Role.CONTROLLER, "New", "Start"): ("AwaitCommit", []),
    (Role.CONTROLLER, "AwaitCommit", "Commit"): ("AwaitReveal", [Send]),
    (Role.CONTROLLER, "AwaitReveal", "Reveal"): ("AwaitTarget", [ShowDigits]),
    (Role.CONTROLLER, "AwaitTarget", "Claim"): ("AwaitConsent", [AskConsent]),
    (Role.CONTROLLER, "AwaitConsent", "Consent yes"): ("RecordTarget", [Record]),
    (Role.CONTROLLER, "AwaitConsent", "Consent no"): ("Failed", [Fail]),
    (Role.CONTROLLER, "RecordTarget", "Recorded"): ("AwaitDone", [Send]),
    (Role.CONTROLLER, "RecordTarget", "NotRecorded"): ("Failed", [Fail]),
    (Role.CONTROLLER, "AwaitDone", "Done"): ("Finished", []),
}
# Endings with a name of their own; all others are PairingFailed of some kind.
NAMED_ENDS: Final[dict[tuple[Role, str, str], type[AmeshError]]] = {
    (Role.TARGET, "AwaitHello", "Older"): OlderPairing,
    (Role.TARGET, "AwaitController", "Rejected"): RejectedByPeer,
    (Role.TARGET, "AwaitController", "Trouble"): PeerCouldNotRecord,
    (Role.CONTROLLER, "AwaitCommit", "Older"): OlderPairing,
    (Role.CONTROLLER, "AwaitTarget", "Rejected"): RejectedByPeer,
}


def side_in(role: Role, state: str) -> Side:
    """A side that came to `state` in an honest ceremony."""
    if state == "New":
        return target(PROD, "") if role is Role.TARGET else controller(LAPTOP, "")
    met = Pair(target(PROD, ""), controller(LAPTOP, ""))
    side = met.target if role is Role.TARGET else met.controller
    side.disk_hangs = state.startswith("Record")
    if state == "Failed":
        side.ceremony.state = Failed()
    met.run_until(lambda: type(side.ceremony.state).__name__ == state)
    return side


def reveal_for(side: Side) -> wire.Reveal:
    return wire.Reveal(fresh("target ").ephemeral.public, fresh("target ").nonce)


def claim_for(side: Side) -> wire.Claim:
    device, role = (
        (LAPTOP, Role.CONTROLLER) if side.ceremony.role is Role.TARGET else (PROD, Role.TARGET)
    )
    return other_end(side).claim(device.identity, device.key, role, ISSUED_AT)


# Every event as it is when it is as true as it can be: right key, right box, right digits.
PAYLOADS: Final[dict[str, Callable[[Side], str]]] = {
    "Commit": lambda side: target_payload("commit"),
    "Hello": lambda side: wire.encode(
        wire.Hello(fresh("controller ").ephemeral.public, fresh("controller ").nonce)
    ),
    "Reveal": lambda side: wire.encode(reveal_for(side)),
    "Box": lambda side: wire.encode(wire.Box(bytes(64))),
    "Older": lambda side: b64(PROD.key.public),
}
SEALED: Final[dict[str, Callable[[Side], wire.Sealed]]] = {
    "Claim": claim_for,
    "Rejected": lambda side: wire.Rejected(),
    "Trouble": lambda side: wire.Trouble("home_busy"),
    "Done": lambda side: wire.Done(),
}
ANSWERS: Final[dict[str, Callable[[Side], Answer]]] = {
    "Start": lambda side: Start(),
    "Typed right": lambda side: Typed(channel_of(side).digits if is_keyed(side) else "000000"),
    "Typed wrong": lambda side: Typed("314159"),
    "Consent yes": lambda side: Consent(given=True),
    "Consent no": lambda side: Consent(given=False),
    "Recorded": lambda side: Recorded(),
    "NotRecorded": lambda side: NotRecorded(HomeUnwritable("disk full")),
}
EVENTS: Final = [*PAYLOADS, *SEALED, *ANSWERS]


def target_payload(name: str) -> str:
    side = target(PROD, "")
    side.start()
    return side.outbox[0]


def is_keyed(side: Side) -> bool:
    return isinstance(side.ceremony.state, Keyed)


def give(side: Side, event: str) -> list[type]:
    """Let `event` happen to `side`; the types of the actions it asks for."""
    if event in PAYLOADS:
        actions = side.ceremony.receive(PAYLOADS[event](side), 0)
    elif event in ANSWERS:
        actions = side.ceremony.tell(ANSWERS[event](side), 0)
    else:
        # Without a channel there are no keys to seal with: any box at all.
        sealed = from_peer(side, SEALED[event](side)) if is_keyed(side) else PAYLOADS["Box"](side)
        actions = side.ceremony.receive(sealed, 0)
    return [type(action) for action in actions]


def test_every_state_and_event_is_covered() -> None:
    names = {kind.__name__ for kind in get_args(State)}
    assert names == {*TARGET_STATES, *CONTROLLER_STATES}
    told = {kind.__name__ for kind in get_args(Event)}
    assert told == {event.split()[0] for event in EVENTS}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("role", "state"), ALL)
def test_every_pair(role: Role, state: str, event: str) -> None:
    side = side_in(role, state)
    recorded_before = list(side.recorded)
    if expected := NEXT.get((role, state, event)):
        assert give(side, event) == expected[1]
        assert type(side.ceremony.state).__name__ == expected[0]
        return
    error = NotConfirmed if state == "AwaitDone" else PairingFailed
    with pytest.raises(NAMED_ENDS.get((role, state, event), error)):
        give(side, event)
    assert side.ceremony.state == Failed()
    assert side.recorded == recorded_before


@pytest.mark.parametrize(("role", "state"), ALL)
def test_after_a_failure_nothing_goes_on(role: Role, state: str) -> None:
    """The very event that would have been right comes after one that was wrong."""
    side = side_in(role, state)
    with pytest.raises(PairingFailed):
        give(side, "Older")
    for event in EVENTS:
        with pytest.raises(PairingFailed):
            give(side, event)
        assert side.ceremony.state == Failed()


@pytest.mark.parametrize("bug", [KeyError("bug"), KeyboardInterrupt()])
def test_even_a_bug_leaves_it_dead(monkeypatch: pytest.MonkeyPatch, bug: BaseException) -> None:
    side = side_in(Role.TARGET, "AwaitController")
    payload = from_peer(side, claim_for(side))

    def broken(_: bytes) -> wire.Sealed:
        raise bug

    monkeypatch.setattr(wire, "decode_sealed", broken)
    with pytest.raises(type(bug)):
        side.ceremony.receive(payload, 0)
    assert side.ceremony.state == Failed()


@settings(max_examples=200, deadline=None)
@given(
    place=st.sampled_from(ALL),
    payload=st.text() | st.binary().map(b64),
    sealed=st.none() | st.binary(),
)
def test_any_bytes_at_any_time(place: tuple[Role, str], payload: str, sealed: bytes | None) -> None:
    side = side_in(*place)
    before = list(side.recorded)
    if sealed is not None:
        payload = wire.encode(wire.Box(sealed))
    with pytest.raises(PairingFailed):
        side.ceremony.receive(payload, 0)
    assert side.ceremony.state == Failed()
    assert side.recorded == before
