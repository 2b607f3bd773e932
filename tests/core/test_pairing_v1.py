"""The older pairing against Node's own sessions, and every state of it against every event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amesh_core import crypto, pairing_v1
from amesh_core.ceremony import (
    Answer,
    AskConsent,
    AskDigits,
    Consent,
    Fail,
    Failed,
    Fresh,
    NotRecorded,
    Record,
    Recorded,
    SayMatched,
    Send,
    ShowDigits,
    Start,
    Typed,
)
from amesh_core.crypto import PrivateKey
from amesh_core.errors import (
    AmeshError,
    BadBox,
    BadIdentity,
    BadMessage,
    HomeUnwritable,
    NewerPairing,
    OlderPairing,
    OneSided,
    OutOfOrder,
    OwnKey,
    PairingExpired,
    PairingFailed,
    RejectedByPeer,
    RejectedHere,
    UsageError,
    WrongDigits,
)
from amesh_core.identity import Identity, Role, device_id
from amesh_core.machine import CEREMONY_SECONDS, FRAME_SECONDS
from amesh_core.pairing_v1 import ControllerCeremonyV1, TargetCeremonyV1
from amesh_core.wire import pairing as v2
from amesh_core.wire import pairing_v1 as wire
from amesh_core.wire.encoding import b64, unb64
from tests.support import vectors
from tests.support.ceremony import CODE, Device, Pair, Side, SoftKey, controller, fresh, target

SESSIONS: Final = vectors.load("handshake.json")["sessions"]
ACCEPTABLE: Final = [s for s in SESSIONS if s["label"] in ("hs0", "hs8", "hs16", "hs20")]
LEADING_ZEROS: Final = [s for s in SESSIONS if s["label"].startswith("lz")]
SIDES: Final = ("target", "controller")
PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")


# --- Node's sessions --------------------------------------------------------------------


@dataclass(frozen=True)
class NodesKey:
    """The device key of one side of a session: it signs what that side signed."""

    private: PrivateKey
    signed: bytes
    signature: bytes

    @property
    def public(self) -> bytes:
        return self.private.public

    def sign(self, message: bytes) -> bytes:
        assert message == self.signed
        return self.signature

    def mac(self, message: bytes) -> bytes:
        raise AssertionError("a pairing seals nothing")


def as_in(session: dict[str, Any], side: str) -> Side:
    """Our machine in the place of one side of Node's session, with its keys and randomness."""
    mine = session[f"{side}_identity"]
    private = PrivateKey.from_scalar(bytes.fromhex(session[f"{side}_identity_key"]["private_hex"]))
    key = NodesKey(
        private,
        bytes.fromhex(mine["self_sig_message_hex"]),
        unb64(mine["identity"]["selfSig"]),
    )
    identity = Identity(device_id(key.public), key.public, mine["identity"]["friendlyName"])
    ephemeral = PrivateKey.from_scalar(bytes.fromhex(session[f"{side}_ephemeral"]["private_hex"]))
    nonce = unb64(mine["frame_b64"])[: wire.NONCE_BYTES] + bytes(20)
    machine = TargetCeremonyV1 if side == "target" else ControllerCeremonyV1
    return Side(
        machine(identity, key, CODE, Fresh(ephemeral, nonce, mine["identity"]["timestamp"]))
    )


@pytest.mark.parametrize("session", ACCEPTABLE + LEADING_ZEROS, ids=lambda s: s["label"])
def test_a_target_says_to_a_node_controller_what_a_node_target_said(session: Any) -> None:
    ours = as_in(session, "target")
    ours.start()
    assert ours.outbox.popleft() == session["target_ephemeral"]["public_b64"]
    ours.hear(session["controller_ephemeral"]["public_b64"])
    assert not ours.outbox
    ours.hear(session["controller_identity"]["frame_b64"])
    assert ours.outbox.popleft() == session["target_identity"]["frame_b64"]
    assert ours.asks_digits
    ours.type(session["sas"])
    assert ours.outbox.popleft() == "sas_confirmed"
    assert not ours.outbox
    (peer,) = ours.recorded
    assert peer.public_key.hex() == session["controller_identity_key"]["public_hex"]
    assert peer.friendly_name == session["controller_identity"]["identity"]["friendlyName"]
    assert peer.role is Role.CONTROLLER


@pytest.mark.parametrize("session", ACCEPTABLE + LEADING_ZEROS, ids=lambda s: s["label"])
def test_a_controller_says_to_a_node_target_what_a_node_controller_said(session: Any) -> None:
    ours = as_in(session, "controller")
    ours.start()
    assert not ours.outbox
    ours.hear(session["target_ephemeral"]["public_b64"])
    assert ours.outbox.popleft() == session["controller_ephemeral"]["public_b64"]
    assert ours.outbox.popleft() == session["controller_identity"]["frame_b64"]
    ours.hear(session["target_identity"]["frame_b64"])
    assert ours.digits == session["sas"]
    ours.hear("sas_confirmed")
    assert ours.asks_about is not None
    assert ours.recorded == []  # the confirmation is plain text: our person has the last word
    ours.answer(yes=True)
    (peer,) = ours.recorded
    assert peer.public_key.hex() == session["target_identity_key"]["public_hex"]
    assert peer.role is Role.TARGET
    assert not ours.outbox


@pytest.mark.parametrize("session", SESSIONS, ids=lambda s: s["label"])
def test_the_formulas(session: Any) -> None:
    secret = bytes.fromhex(session["shared_secret_hex"])
    assert pairing_v1.session_key(secret).hex() == session["session_key_hex"]
    publics = [bytes.fromhex(session[f"{side}_identity_key"]["public_hex"]) for side in SIDES]
    assert pairing_v1.digits(publics[0], publics[1], secret) == session["sas"]


UNACCEPTABLE: Final = [
    (session, side)
    for session in SESSIONS
    for side in SIDES
    if session[f"{side}_identity"]["identity"]["friendlyName"] in ("", "a" * 300)
    or '"' in session[f"{side}_identity"]["identity"]["friendlyName"]
]


@pytest.mark.parametrize(
    ("session", "side"), UNACCEPTABLE, ids=lambda x: x if isinstance(x, str) else x["label"]
)
def test_a_node_device_whose_name_no_screen_can_show(session: Any, side: str) -> None:
    """Node takes any name; a list and a question with it in quotation marks cannot."""
    other = "controller" if side == "target" else "target"
    ephemeral = PrivateKey.from_scalar(bytes.fromhex(session[f"{other}_ephemeral"]["private_hex"]))
    machine = TargetCeremonyV1 if other == "target" else ControllerCeremonyV1
    ours = Side(machine(PROD.identity, PROD.key, CODE, Fresh(ephemeral, bytes(32), TIMESTAMP)))
    ours.start()
    ours.hear(session[f"{side}_ephemeral"]["public_b64"])
    ours.hear(session[f"{side}_identity"]["frame_b64"])
    assert isinstance(ours.ended, BadIdentity)
    assert "renamed" in str(ours.ended)
    assert ours.recorded == []
    assert not ours.asks_digits
    assert ours.digits is None


def test_there_are_unacceptable_names_among_the_vectors() -> None:
    assert len(UNACCEPTABLE) >= 10


# --- what goes wrong --------------------------------------------------------------------

TIMESTAMP = "2026-01-02T03:04:05.678Z"


def at_target(device: Device = PROD) -> Side:
    return Side(TargetCeremonyV1(device.identity, device.key, CODE, fresh("target v1")))


def at_controller(device: Device = LAPTOP) -> Side:
    return Side(ControllerCeremonyV1(device.identity, device.key, CODE, fresh("controller v1")))


def the_secret() -> bytes:
    return fresh("target v1").ephemeral.agree(fresh("controller v1").ephemeral.public)


def box(plaintext: bytes, secret: bytes | None = None, nonce: bytes = bytes(12)) -> str:
    key = pairing_v1.session_key(the_secret() if secret is None else secret)
    return b64(nonce + crypto.seal_box(key, nonce, plaintext, b""))


def introduction(key: SoftKey, name: str, **changed: Any) -> bytes:
    """An identity in a box's JSON, as Node signs it, and then changed."""
    signed = f"{b64(key.public)}{name}{TIMESTAMP}".encode()
    claim = wire.Claim(key.public, name, TIMESTAMP, key.sign(signed))
    fields = {name: getattr(claim, name) for name in claim.__slots__}
    return wire.encode_claim(wire.Claim(**(fields | changed)))


def waiting_for_identity(role: Role) -> Side:
    side, other = at_target(), at_controller()
    side.start()
    other.start()
    if role is Role.CONTROLLER:
        other.hear(side.outbox.popleft())
        return other
    other.hear(side.outbox.popleft())
    side.hear(other.outbox.popleft())
    return side


STRANGER = Device.named("stranger")
OFF_CURVE: Final = b"\x02" + (1).to_bytes(32, "big")  # x = 1 has no point on P-256

REFUSED: Final[dict[str, tuple[Callable[[Side], str], type[AmeshError]]]] = {
    "its own key back": (
        lambda side: box(introduction(_key_of(side), "mirror")),
        OwnKey,
    ),
    "another's signature": (
        lambda side: box(
            introduction(STRANGER.key, "x", public_key=Device.named("other").key.public)
        ),
        BadIdentity,
    ),
    "a changed name": (
        lambda side: box(introduction(STRANGER.key, "x", friendly_name="y")),
        BadIdentity,
    ),
    "a changed time": (
        lambda side: box(introduction(STRANGER.key, "x", timestamp="2026-01-02T03:04:05.679Z")),
        BadIdentity,
    ),
    "a key off the curve": (
        lambda side: box(introduction(STRANGER.key, "x", public_key=OFF_CURVE)),
        BadIdentity,
    ),
    "a high s": (
        lambda side: box(introduction(STRANGER.key, "x", signature=high_s("x"))),
        BadIdentity,
    ),
    "an escape sequence for a name": (
        lambda side: box(introduction(STRANGER.key, "\x1b[2J")),
        BadIdentity,
    ),
    "half a character for a name": (
        lambda side: box(
            introduction(STRANGER.key, "x").replace(
                b'"friendlyName":"x"', b'"friendlyName":"\\ud800"'
            )
        ),
        BadIdentity,
    ),
    "no identity": (lambda side: box(b"{}"), BadMessage),
    "no JSON": (lambda side: box(b"\xff"), BadMessage),
    "another secret": (
        lambda side: box(introduction(STRANGER.key, "x"), secret=bytes(32)),
        BadBox,
    ),
    "a changed nonce": (
        lambda side: flipped(box(introduction(STRANGER.key, "x")), 0),
        BadBox,
    ),
    "a changed ciphertext": (
        lambda side: flipped(box(introduction(STRANGER.key, "x")), 20),
        BadBox,
    ),
}


def _key_of(side: Side) -> SoftKey:
    return PROD.key if side.ceremony.role is Role.TARGET else LAPTOP.key


def flipped(payload: str, place: int) -> str:
    data = bytearray(unb64(payload))
    data[place] ^= 1
    return b64(bytes(data))


def high_s(name: str) -> bytes:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    low = STRANGER.key.sign(f"{b64(STRANGER.key.public)}{name}{TIMESTAMP}".encode())
    return low[:32] + (order - int.from_bytes(low[32:], "big")).to_bytes(32, "big")


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("role", list(Role))
def test_identities_that_are_refused(role: Role, what: str) -> None:
    payload, error = REFUSED[what]
    side = waiting_for_identity(role)
    side.hear(payload(side))
    assert type(side.ended) is error
    assert side.ceremony.state == Failed()
    assert not side.asks_digits
    assert side.digits is None
    assert side.recorded == []


def test_a_box_sent_back_to_its_sender_is_known() -> None:
    """It opens, as both directions have one key; what is in it is our own."""
    side = waiting_for_identity(Role.CONTROLLER)
    _, own_box = side.outbox
    side.hear(own_box)
    assert isinstance(side.ended, OwnKey)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("which", ["own", "off the curve"])
def test_ephemeral_keys_that_are_refused(role: Role, which: str) -> None:
    side = at_target() if role is Role.TARGET else at_controller()
    side.start()
    own = fresh(f"{role} v1").ephemeral.public
    side.hear(b64(own if which == "own" else OFF_CURVE))
    assert isinstance(side.ended, BadMessage)
    assert side.ceremony.state == Failed()


def test_our_own_name_must_be_acceptable_too() -> None:
    bad = Device(LAPTOP.key, Identity(LAPTOP.identity.device_id, LAPTOP.key.public, '"'))
    with pytest.raises(UsageError, match="own name"):
        at_controller(bad)


@pytest.mark.parametrize(
    "typed", ["000000", "", "48291", "sas_confirmed", "\udcff", "４８２９１６"]
)
def test_wrong_digits_are_said_in_version_1_and_record_nothing(typed: str) -> None:
    pair = Pair(at_target(), at_controller())
    pair.run_until(lambda: pair.controller.digits is not None)
    assert pair.controller.digits != typed
    pair.target.type(typed)
    assert list(pair.target.outbox) == ["sas_rejected"]
    pair.run()
    assert isinstance(pair.target.ended, WrongDigits)
    assert isinstance(pair.controller.ended, RejectedByPeer)
    assert pair.target.recorded == pair.controller.recorded == []
    assert not pair.target.says_matched


def test_two_of_ours_pair() -> None:
    pair = Pair(at_target(), at_controller())
    pair.run()
    assert [peer.public_key for peer in pair.target.recorded] == [LAPTOP.key.public]
    assert [peer.role for peer in pair.target.recorded] == [Role.CONTROLLER]
    assert [peer.public_key for peer in pair.controller.recorded] == [PROD.key.public]
    assert [peer.role for peer in pair.controller.recorded] == [Role.TARGET]


# --- order of writes --------------------------------------------------------------------


def test_the_target_confirms_only_what_is_on_its_disk() -> None:
    pair = Pair(at_target(), at_controller())
    pair.target.disk_hangs = True
    pair.run()
    assert not pair.target.says_matched
    assert pair.controller.asks_about is None
    assert pair.controller.recorded == []


def test_a_target_that_cannot_record_leaves_neither_with_an_entry() -> None:
    pair = Pair(at_target(), at_controller())
    pair.target.cannot_record = HomeUnwritable("disk full")
    pair.run()
    assert isinstance(pair.target.ended, HomeUnwritable)
    assert isinstance(pair.controller.ended, RejectedByPeer)
    assert not pair.target.says_matched
    assert pair.target.recorded == pair.controller.recorded == []


def asked() -> Pair:
    pair = Pair(at_target(), at_controller())
    pair.run_until(lambda: pair.controller.asks_about is not None)
    assert len(pair.target.recorded) == 1
    return pair


def test_after_the_confirmation_a_no_says_that_it_comes_too_late() -> None:
    pair = asked()
    pair.controller.answer(yes=False)
    assert isinstance(pair.controller.ended, OneSided)
    assert isinstance(pair.controller.ended.__cause__, RejectedHere)
    assert pair.controller.recorded == []


def test_after_the_confirmation_a_full_disk_says_so_too() -> None:
    pair = asked()
    pair.controller.cannot_record = HomeUnwritable("disk full")
    pair.controller.answer(yes=True)
    assert isinstance(pair.controller.ended, OneSided)
    assert "disk full" in str(pair.controller.ended)
    assert pair.controller.recorded == []


def test_only_then_does_the_road_no_longer_matter() -> None:
    pair = Pair(at_target(), at_controller())
    reached = []
    while pair.controller.asks_about is None:
        reached.append(pair.controller.ceremony.peer_is_done)
        assert not pair.target.ceremony.peer_is_done
        assert pair.step()
    assert not any(reached)
    assert pair.controller.ceremony.peer_is_done
    pair.run()
    assert not pair.controller.ceremony.peer_is_done


# --- time -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_a_silent_machine_has_thirty_seconds(role: Role) -> None:
    side = waiting_for_identity(role)
    side.now = FRAME_SECONDS
    side.hear(box(introduction(STRANGER.key, "x")))
    assert isinstance(side.ended, PairingExpired)
    assert side.recorded == []


def test_people_have_five_minutes_in_all() -> None:
    pair = Pair(at_target(), at_controller())
    pair.run_until(lambda: pair.controller.digits is not None)
    assert pair.target.ceremony.deadline == pair.controller.ceremony.deadline == CEREMONY_SECONDS
    pair.target.now = CEREMONY_SECONDS
    assert pair.controller.digits is not None
    pair.target.type(pair.controller.digits)
    assert isinstance(pair.target.ended, PairingExpired)
    assert pair.target.recorded == []


# --- versions that meet -----------------------------------------------------------------


def test_a_v1_controller_and_a_v2_target_say_what_they_met() -> None:
    pair = Pair(target(PROD, ""), at_controller())
    pair.run()
    assert isinstance(pair.controller.ended, NewerPairing)
    assert isinstance(pair.target.ended, OlderPairing)
    assert pair.target.recorded == pair.controller.recorded == []


def test_a_v1_target_and_a_v2_controller_end() -> None:
    pair = Pair(at_target(), controller(LAPTOP, ""))
    pair.run()
    assert isinstance(pair.controller.ended, OlderPairing)
    assert not pair.controller.outbox  # not a word that could be answered
    assert pair.target.recorded == pair.controller.recorded == []


def test_a_v1_target_that_meets_version_2_says_so() -> None:
    side = at_target()
    side.start()
    side.hear(v2.encode(v2.Hello(fresh("x").ephemeral.public, bytes(32))))
    assert isinstance(side.ended, NewerPairing)


# --- state x event ----------------------------------------------------------------------

TARGET_STATES: Final = ("New", "AwaitKey", "AwaitIdentity", "AwaitDigits", "Recording", "Finished")
CONTROLLER_STATES: Final = (
    *("New", "AwaitKey", "AwaitIdentity", "AwaitVerdict", "AwaitConsent", "Recording", "Finished"),
)
ALL: Final = [
    *((Role.TARGET, state) for state in (*TARGET_STATES, "Failed")),
    *((Role.CONTROLLER, state) for state in (*CONTROLLER_STATES, "Failed")),
]
# The tables of amesh_core.pairing_v1 once more: what each event leads to and asks for.
NEXT: Final = {
    (Role.TARGET, "New", "Start"): ("AwaitKey", [Send]),
    (Role.TARGET, "AwaitKey", "Key"): ("AwaitIdentity", []),
    (Role.TARGET, "AwaitIdentity", "Box"): ("AwaitDigits", [Send, AskDigits]),
    (Role.TARGET, "AwaitDigits", "Typed right"): ("Recording", [Record]),
    (Role.TARGET, "AwaitDigits", "Typed wrong"): ("Failed", [Fail]),
    (Role.TARGET, "Recording", "Recorded"): ("Finished", [SayMatched, Send]),
    (Role.TARGET, "Recording", "NotRecorded"): ("Failed", [Fail]),
    (Role.CONTROLLER, "New", "Start"): ("AwaitKey", []),
    (Role.CONTROLLER, "AwaitKey", "Key"): ("AwaitIdentity", [Send, Send]),
    (Role.CONTROLLER, "AwaitKey", "Newer"): ("Failed", [Fail]),
    (Role.CONTROLLER, "AwaitIdentity", "Box"): ("AwaitVerdict", [ShowDigits]),
    (Role.CONTROLLER, "AwaitVerdict", "Verdict yes"): ("AwaitConsent", [AskConsent]),
    (Role.CONTROLLER, "AwaitConsent", "Consent yes"): ("Recording", [Record]),
    (Role.CONTROLLER, "Recording", "Recorded"): ("Finished", []),
}
NAMED_ENDS: Final[dict[tuple[Role, str, str], type[AmeshError]]] = {
    (Role.TARGET, "AwaitKey", "Newer"): NewerPairing,
    (Role.CONTROLLER, "AwaitVerdict", "Verdict no"): RejectedByPeer,
}
EVENTS: Final[dict[str, Callable[[Side], str | Answer]]] = {
    "Key": lambda side: b64(fresh(f"{_other(side)} v1").ephemeral.public),
    "Box": lambda side: box(introduction(STRANGER.key, "x")),
    "Verdict yes": lambda side: "sas_confirmed",
    "Verdict no": lambda side: "sas_rejected",
    "Newer": lambda side: v2.encode(v2.Box(bytes(40))),
    "Start": lambda side: Start(),
    "Typed right": lambda side: Typed(getattr(side.ceremony.state, "digits", "000000")),
    "Typed wrong": lambda side: Typed("no digits"),
    "Consent yes": lambda side: Consent(given=True),
    "Consent no": lambda side: Consent(given=False),
    "Recorded": lambda side: Recorded(),
    "NotRecorded": lambda side: NotRecorded(HomeUnwritable("disk full")),
}


def _other(side: Side) -> Role:
    return Role.CONTROLLER if side.ceremony.role is Role.TARGET else Role.TARGET


def side_in(role: Role, state: str) -> Side:
    """A side that came to `state` in an honest ceremony."""
    if state == "New":
        return at_target() if role is Role.TARGET else at_controller()
    met = Pair(at_target(), at_controller())
    side = met.target if role is Role.TARGET else met.controller
    side.disk_hangs = state == "Recording"
    if state == "Failed":
        side.ceremony.state = Failed()
    met.run_until(lambda: type(side.ceremony.state).__name__ == state)
    return side


def give(side: Side, event: str) -> list[type]:
    outside = EVENTS[event](side)
    if isinstance(outside, str):
        return [type(action) for action in side.ceremony.receive(outside, 0)]
    return [type(action) for action in side.ceremony.tell(outside, 0)]


def test_every_state_and_event_is_covered() -> None:
    assert {kind.__name__ for kind in get_args(pairing_v1.State)} == {
        *TARGET_STATES,
        *CONTROLLER_STATES,
        "Failed",
    }
    told = {kind.__name__ for kind in get_args(pairing_v1.Event)}
    assert told == {event.split()[0] for event in EVENTS}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("role", "state"), ALL)
def test_every_pair(role: Role, state: str, event: str) -> None:
    side = side_in(role, state)
    before = list(side.recorded)
    if expected := NEXT.get((role, state, event)):
        assert give(side, event) == expected[1]
        assert type(side.ceremony.state).__name__ == expected[0]
        return
    one_sided = role is Role.CONTROLLER and state in ("AwaitConsent", "Recording")
    error = NAMED_ENDS.get((role, state, event), OneSided if one_sided else OutOfOrder)
    with pytest.raises(error):
        give(side, event)
    assert side.ceremony.state == Failed()
    assert side.recorded == before


@settings(max_examples=100, deadline=None)
@given(place=st.sampled_from(ALL), payload=st.text() | st.binary().map(b64))
def test_any_bytes_at_any_time(place: tuple[Role, str], payload: str) -> None:
    side = side_in(*place)
    before = list(side.recorded)
    with pytest.raises(PairingFailed):
        side.ceremony.receive(payload, 0)
    assert side.ceremony.state == Failed()
    assert side.recorded == before


def test_no_secret_is_in_what_a_state_prints() -> None:
    for role, state in ALL:
        side = side_in(role, state)
        assert repr(the_secret()) not in repr(side.ceremony.state)
        assert "digits=" not in repr(side.ceremony.state)
