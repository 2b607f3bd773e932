"""The ceremony as a machine: the good way, the other ways, and what each leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from amesh_core import crypto
from amesh_core.ceremony import (
    AwaitConsent,
    AwaitController,
    AwaitDigits,
    AwaitDone,
    AwaitHello,
    AwaitReveal,
    AwaitTarget,
    Consent,
    Failed,
    Finished,
    NotRecorded,
    Recorded,
    SayMatched,
    Send,
    State,
    Typed,
)
from amesh_core.channel import Channel, commitment
from amesh_core.crypto import PrivateKey
from amesh_core.errors import (
    AmeshError,
    BadIdentity,
    BadMessage,
    CommitmentMismatch,
    HomeUnwritable,
    KeyMissing,
    NotConfirmed,
    OlderPairing,
    OwnKey,
    PairingExpired,
    PeerCouldNotRecord,
    RejectedByPeer,
    RejectedHere,
    RelayLost,
    RoleConflict,
    UsageError,
    WrongDigits,
)
from amesh_core.identity import Peer, Role
from amesh_core.machine import CEREMONY_SECONDS, FRAME_SECONDS
from amesh_core.pairing import TargetCeremony
from amesh_core.wire import pairing as wire
from amesh_core.wire.encoding import b64
from tests.support.ceremony import (
    CODE,
    ISSUED_AT,
    Device,
    Pair,
    Side,
    SoftKey,
    channel_of,
    controller,
    fresh,
    from_peer,
    other_end,
    target,
)

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
STRANGER = Device.named("stranger")
PROD_AS_TARGET = Peer(PROD.identity.device_id, PROD.key.public, "prod-api", Role.TARGET)
LAPTOP_AS_CONTROLLER = Peer(LAPTOP.identity.device_id, LAPTOP.key.public, "laptop", Role.CONTROLLER)


def both() -> Pair:
    return Pair(target(PROD, ""), controller(LAPTOP, ""))


def target_in(state: type[State]) -> Side:
    met = both()
    met.run_until(lambda: isinstance(met.target.ceremony.state, state))
    return met.target


def controller_in(state: type[State]) -> Side:
    met = both()
    met.run_until(lambda: isinstance(met.controller.ceremony.state, state))
    return met.controller


def failed_unrecorded(side: Side, error: type[AmeshError]) -> AmeshError:
    """The side ended with `error`, is dead, and its list is as it was."""
    assert type(side.ended) is error
    assert side.ceremony.state == Failed()
    assert side.recorded == []
    return side.ended


# --- the good way -------------------------------------------------------------------------


def test_two_devices_record_each_other() -> None:
    met = both()
    met.run()
    assert met.target.ended is None
    assert met.controller.ended is None
    assert met.target.recorded == [LAPTOP_AS_CONTROLLER]
    assert met.controller.recorded == [PROD_AS_TARGET]
    assert met.target.ceremony.state == Finished(LAPTOP_AS_CONTROLLER)
    assert met.controller.ceremony.state == Finished(PROD_AS_TARGET)


def test_the_order_of_writes() -> None:
    """Consent, C's list, C's identity, T's list, `done`: T never trusts who does not know it."""
    met = both()
    met.run_until(lambda: met.controller.asks_about is not None)
    assert met.controller.recorded == []
    met.step()  # the person says yes
    assert met.controller.recorded == [PROD_AS_TARGET]
    assert len(met.controller.outbox) == 1
    assert met.target.recorded == []
    met.step()  # the controller's identity arrives
    assert met.target.recorded == [LAPTOP_AS_CONTROLLER]
    assert len(met.target.outbox) == 1
    assert isinstance(met.controller.ceremony.state, AwaitDone)


@pytest.mark.parametrize("role", Role)
def test_nothing_is_sent_before_the_list_is_written(role: Role) -> None:
    met = both()
    side = met.target if role is Role.TARGET else met.controller
    side.disk_hangs = True
    met.run()
    assert not side.outbox
    assert met.target.recorded == []
    assert len(met.controller.recorded) == (1 if role is Role.TARGET else 0)


def test_the_screen_says_matched_before_anything_is_sent() -> None:
    """The controller's person is asked about that line; the question may not come first."""
    side = target_in(AwaitDigits)
    actions = side.ceremony.tell(Typed(channel_of(side).digits), 0)
    assert [type(action) for action in actions] == [SayMatched, Send]


def test_nothing_permanent_leaves_a_device_before_its_person_agreed() -> None:
    """Up to then the wire holds keys and nonces of this ceremony only."""
    met = both()
    seen: list[str] = []
    while not met.target.says_matched:
        seen += [*met.target.outbox, *met.controller.outbox]
        met.step()
    assert {type(wire.decode(payload)) for payload in seen} == {
        wire.Commit,
        wire.Hello,
        wire.Reveal,
    }
    met.run_until(lambda: met.controller.asks_about is not None)
    assert not met.controller.outbox
    assert isinstance(met.target.ceremony.state, AwaitController)


# --- people who say no --------------------------------------------------------------------


def test_wrong_digits() -> None:
    met = both()
    met.run_until(lambda: met.target.asks_digits and met.controller.digits is not None)
    met.target.type("000000")
    met.run()
    failed_unrecorded(met.target, WrongDigits)
    failed_unrecorded(met.controller, RejectedByPeer)
    assert not met.target.says_matched


def test_digits_count_once() -> None:
    """A second try would double what a relay in the middle can guess."""
    side = target_in(AwaitDigits)
    right = channel_of(side).digits
    side.type("000000")
    with pytest.raises(AmeshError):
        side.ceremony.tell(Typed(right), 0)
    failed_unrecorded(side, WrongDigits)


def test_no_consent() -> None:
    met = both()
    met.run_until(lambda: met.controller.asks_about is not None)
    met.controller.answer(yes=False)
    met.run()
    failed_unrecorded(met.controller, RejectedHere)
    failed_unrecorded(met.target, RejectedByPeer)


# --- lists that cannot be written -----------------------------------------------------------


def test_the_controller_cannot_record() -> None:
    met = both()
    met.controller.cannot_record = HomeUnwritable("disk full")
    met.run()
    failed_unrecorded(met.controller, HomeUnwritable)
    error = failed_unrecorded(met.target, PeerCouldNotRecord)
    assert str(error) == "the other device could not record this one: home_unwritable"


def test_the_target_cannot_record() -> None:
    """The controller keeps its entry, which is harmless, and says that it is not confirmed."""
    met = both()
    met.target.cannot_record = RoleConflict(LAPTOP.identity.device_id, "target")
    met.run()
    failed_unrecorded(met.target, RoleConflict)
    assert isinstance(met.controller.ended, NotConfirmed)
    assert met.controller.ended.device_id == PROD.identity.device_id
    cause = met.controller.ended.__cause__
    assert isinstance(cause, PeerCouldNotRecord)
    assert "role_conflict" in str(cause)
    assert met.controller.recorded == [PROD_AS_TARGET]


@pytest.mark.parametrize("reason", ["\x1b[2Jpaired", "Paired!", "a" * 65, "", "über"])
def test_what_the_other_side_writes_reaches_no_screen(reason: str) -> None:
    side = target_in(AwaitController)
    side.hear(from_peer(side, wire.Trouble(reason)))
    error = failed_unrecorded(side, PeerCouldNotRecord)
    assert str(error) == "the other device could not record this one: no reason it can name"


# --- keys and commitments -------------------------------------------------------------------


def test_a_reveal_that_was_not_committed_to() -> None:
    for changed in (
        wire.Reveal(fresh("other").ephemeral.public, fresh("target ").nonce),
        wire.Reveal(fresh("target ").ephemeral.public, fresh("other").nonce),
    ):
        side = controller_in(AwaitReveal)
        side.hear(wire.encode(changed))
        failed_unrecorded(side, CommitmentMismatch)
        assert side.digits is None


NOT_ON_THE_CURVE = b"\x02" + bytes(31) + b"\x01"


def test_a_hello_off_the_curve() -> None:
    side = target_in(AwaitHello)
    side.outbox.clear()
    side.hear(wire.encode(wire.Hello(NOT_ON_THE_CURVE, bytes(32))))
    failed_unrecorded(side, BadMessage)
    assert not side.outbox  # our key is not shown to whoever sends such a thing


def committed_to(reveal: wire.Reveal) -> Side:
    """A controller that waits for `reveal`."""
    side = controller(LAPTOP, "")
    side.start()
    side.hear(wire.encode(wire.Commit(commitment(reveal))))
    return side


def test_a_reveal_off_the_curve() -> None:
    reveal = wire.Reveal(NOT_ON_THE_CURVE, bytes(32))
    side = committed_to(reveal)
    side.hear(wire.encode(reveal))
    failed_unrecorded(side, BadMessage)


def test_the_target_s_own_key_sent_back() -> None:
    side = target_in(AwaitHello)
    side.hear(wire.encode(wire.Hello(fresh("target ").ephemeral.public, bytes(32))))
    failed_unrecorded(side, BadMessage)


def test_the_controller_s_own_key_sent_back() -> None:
    reveal = wire.Reveal(fresh("controller ").ephemeral.public, bytes(32))
    side = committed_to(reveal)
    side.hear(wire.encode(reveal))
    failed_unrecorded(side, BadMessage)


def test_another_code_gives_other_digits() -> None:
    """Two meetings joined by a relay are not one meeting."""
    met = Pair(target(PROD, "", code="482916"), controller(LAPTOP, "", code="482917"))
    met.run()
    failed_unrecorded(met.target, WrongDigits)
    # Its `rejected` is in a box of other keys.
    assert met.controller.recorded == []
    assert met.controller.ceremony.state == Failed()


# --- identities -----------------------------------------------------------------------------

SIDES: dict[str, tuple[Callable[[], Side], Device, Role]] = {
    "target": (lambda: target_in(AwaitController), LAPTOP, Role.CONTROLLER),
    "controller": (lambda: controller_in(AwaitTarget), PROD, Role.TARGET),
}


def claim_for(side: Side, device: Device, role: Role) -> wire.Claim:
    """The identity that `device` would send to `side` now."""
    return other_end(side).claim(device.identity, device.key, role, ISSUED_AT)


@pytest.mark.parametrize("name", SIDES)
def test_a_true_identity_is_accepted(name: str) -> None:
    make, device, role = SIDES[name]
    side = make()
    side.hear(from_peer(side, claim_for(side, device, role)))
    assert side.ended is None


def high_s(signature: bytes) -> bytes:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(signature[32:], "big")
    return signature[:32] + s.to_bytes(32, "big")


def elsewhere(side: Side) -> Channel:
    return replace(other_end(side), transcript=bytes(32))


FALSE_IDENTITIES: dict[str, Callable[[Side, Device, Role], wire.Claim]] = {
    "signed for another ceremony": lambda side, device, role: elsewhere(side).claim(
        device.identity, device.key, role, ISSUED_AT
    ),
    "another name than signed": lambda side, device, role: replace(
        claim_for(side, device, role), friendly_name="prod-apj"
    ),
    "another time than signed": lambda side, device, role: replace(
        claim_for(side, device, role), issued_at="2026-01-02T03:04:05.679Z"
    ),
    "another key than signed": lambda side, device, role: replace(
        claim_for(side, device, role), public_key=STRANGER.key.public
    ),
    "a key off the curve": lambda side, device, role: replace(
        claim_for(side, device, role), public_key=NOT_ON_THE_CURVE
    ),
    "a signature of zeros": lambda side, device, role: replace(
        claim_for(side, device, role), signature=bytes(64)
    ),
    "a high s": lambda side, device, role: replace(
        (claim := claim_for(side, device, role)), signature=high_s(claim.signature)
    ),
    "our own role, signed": lambda side, device, role: claim_for(side, device, side.ceremony.role),
    "the other role, signed for ours": lambda side, device, role: replace(
        claim_for(side, device, side.ceremony.role), role=role.value
    ),
}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("lie", FALSE_IDENTITIES)
def test_a_false_identity(name: str, lie: str) -> None:
    make, device, role = SIDES[name]
    side = make()
    side.hear(from_peer(side, FALSE_IDENTITIES[lie](side, device, role)))
    failed_unrecorded(side, BadIdentity)
    assert side.asks_about is None


BAD_NAMES = {
    "empty": "",
    "65 code points": "x" * 65,
    "an escape": "prod\x1b[2Japi",
    "a line break": "prod\napi",
    "right to left override": "prod\u202eapi",
    "zero width": "prod\u200bapi",
    "variation selector": "prod\ufe0f",
    "not NFC": "bu\u0308ro",
    "leading space": " prod",
    "double space": "prod  api",
    "no-break space": "prod\u00a0api",
    "a quotation mark": 'prod" (am_0000000000000000)',
    "a lone surrogate": "prod\ud800",
}


@pytest.mark.parametrize("side_name", SIDES)
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_that_could_deceive(side_name: str, name: str) -> None:
    """Signed or not: the name is judged before anything is done with it."""
    make, device, role = SIDES[side_name]
    side = make()
    claim = replace(claim_for(side, device, role), friendly_name=name)
    if "\ud800" not in name:
        signer = Device(device.key, replace(device.identity, friendly_name=name))
        claim = claim_for(side, signer, role)
        side.hear(from_peer(side, claim))
    else:
        # Written by hand: no JSON library of ours puts out half a character.
        text = wire.encode_sealed(replace(claim, friendly_name="NAME"))
        side.hear(sealed_by_hand(side, text.replace(b"NAME", b"prod\\ud800")))
    error = failed_unrecorded(side, BadIdentity)
    assert str(error).isprintable()
    assert side.asks_about is None


def sealed_by_hand(side: Side, plaintext: bytes) -> str:
    end = other_end(side)
    nonce = bytes(4) + end._boxes_sent.to_bytes(8, "big")
    return wire.encode(wire.Box(crypto.seal_box(end._send_key, nonce, plaintext, end.transcript)))


@pytest.mark.parametrize("name", SIDES)
def test_our_own_key_as_the_peer_s(name: str) -> None:
    make, _, role = SIDES[name]
    side = make()
    own = PROD if name == "target" else LAPTOP
    side.hear(from_peer(side, claim_for(side, own, role)))
    failed_unrecorded(side, OwnKey)


def test_freshness_of_an_identity_is_not_judged() -> None:
    """Clocks are the business of requests; a pairing must work where they are wrong."""
    side = target_in(AwaitController)
    end = other_end(side)
    claim = end.claim(LAPTOP.identity, LAPTOP.key, Role.CONTROLLER, "1970-01-01T00:00:00.000Z")
    side.hear(from_peer(side, claim))
    assert side.recorded == [LAPTOP_AS_CONTROLLER]


def test_an_unreadable_message_in_a_good_box() -> None:
    side = target_in(AwaitController)
    side.hear(sealed_by_hand(side, b'{"done":true,"done":true}'))
    failed_unrecorded(side, BadMessage)


# --- other versions -------------------------------------------------------------------------


def test_an_older_peer_is_named() -> None:
    older = b64(STRANGER.key.public)
    for side in (target_in(AwaitHello), controller(LAPTOP, "")):
        if side.ceremony.role is Role.CONTROLLER:
            side.start()
        side.hear(older)
        error = failed_unrecorded(side, OlderPairing)
        # Not the flag that would turn the protection off: a relay can cause this at will.
        assert "--" not in str(error)


# --- what a ceremony is made of -------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["", "48291", "4829166", "48291a", "４８２９１６", "482916\n", "-48291"]
)
def test_a_code_is_six_digits(code: str) -> None:
    with pytest.raises(UsageError):
        TargetCeremony(PROD.identity, PROD.key, code, fresh(""))


def test_a_name_no_peer_accepts_stops_us_before_a_code_is_shown() -> None:
    with pytest.raises(UsageError, match="own name"):
        TargetCeremony(replace(PROD.identity, friendly_name='a"b'), PROD.key, CODE, fresh(""))


class BrokenKey(SoftKey):
    def sign(self, message: bytes) -> bytes:
        raise KeyMissing("the key is gone")


@pytest.mark.parametrize("role", Role)
def test_a_key_that_cannot_sign_stops_us_before_anything_is_recorded(role: Role) -> None:
    broken = BrokenKey(PrivateKey.generate())
    device = Device(broken, replace(STRANGER.identity, public_key=broken.public))
    if role is Role.TARGET:
        met = Pair(target(device, ""), controller(LAPTOP, ""))
    else:
        met = Pair(target(PROD, ""), controller(device, ""))
    met.run()
    failed_unrecorded(met.target if role is Role.TARGET else met.controller, KeyMissing)
    assert met.target.recorded == met.controller.recorded == []


# --- time -----------------------------------------------------------------------------------

# Where only a machine is to answer: 30 s.
MACHINE_ANSWERS: dict[str, Callable[[], Side]] = {
    "AwaitHello": lambda: target_in(AwaitHello),
    "AwaitCommit": lambda: both().controller,
    "AwaitReveal": lambda: controller_in(AwaitReveal),
    "AwaitDone": lambda: controller_in(AwaitDone),
}
# Where a person acts, at this end or the other: the rest of five minutes.
A_PERSON_ACTS: dict[str, Callable[[], Side]] = {
    "AwaitDigits": lambda: target_in(AwaitDigits),
    "AwaitTarget": lambda: controller_in(AwaitTarget),
    "AwaitController": lambda: target_in(AwaitController),
    "AwaitConsent": lambda: controller_in(AwaitConsent),
}


@pytest.mark.parametrize("state", MACHINE_ANSWERS)
def test_a_machine_has_30_seconds(state: str) -> None:
    assert MACHINE_ANSWERS[state]().ceremony.deadline == FRAME_SECONDS == 30


@pytest.mark.parametrize("state", A_PERSON_ACTS)
def test_a_person_has_the_rest_of_five_minutes(state: str) -> None:
    assert A_PERSON_ACTS[state]().ceremony.deadline == CEREMONY_SECONDS == 300


def test_no_frame_deadline_outlives_the_ceremony() -> None:
    met = both()
    met.run_until(lambda: met.controller.asks_about is not None)
    met.controller.now = 290
    met.controller.answer(yes=True)
    assert isinstance(met.controller.ceremony.state, AwaitDone)
    assert met.controller.ceremony.deadline == 300


def test_deadlines_count_from_the_start() -> None:
    side = target(PROD, "")
    side.now = 1000
    side.start()
    assert side.ceremony.deadline == 1030


def test_a_late_message_is_refused() -> None:
    met = both()
    met.step()
    hello = met.controller.outbox.popleft()
    met.target.now = 30
    met.target.hear(hello)
    error = failed_unrecorded(met.target, PairingExpired)
    assert "30 s" in str(error)


def test_late_digits_are_refused() -> None:
    side = target_in(AwaitDigits)
    side.now = 300
    side.type(channel_of(side).digits)
    error = failed_unrecorded(side, PairingExpired)
    assert "5 minutes" in str(error)
    assert not side.says_matched


def test_late_consent_is_refused() -> None:
    side = controller_in(AwaitConsent)
    side.now = 300
    side.answer(yes=True)
    failed_unrecorded(side, PairingExpired)


@pytest.mark.parametrize("answer", [Recorded(), NotRecorded(HomeUnwritable("disk full"))])
def test_a_slow_disk_does_not_silence_us(answer: Recorded | NotRecorded) -> None:
    """What is written, or not, is told, however late: silence would leave one side in doubt."""
    met = both()
    met.target.disk_hangs = True
    met.run()
    actions = met.target.ceremony.tell(answer, now=10_000)
    assert len(actions) == 1


def test_waiting_in_vain() -> None:
    side = target_in(AwaitHello)
    with pytest.raises(PairingExpired, match="30 s"):
        side.ceremony.expire()
    assert side.ceremony.state == Failed()


# --- the road ends --------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*MACHINE_ANSWERS, *A_PERSON_ACTS])
def test_a_lost_road_ends_the_ceremony(state: str) -> None:
    side = (MACHINE_ANSWERS | A_PERSON_ACTS)[state]()
    lost = RelayLost("gone")
    with pytest.raises(AmeshError) as raised:
        side.ceremony.stop(lost)
    assert side.ceremony.state == Failed()
    if state == "AwaitDone":
        assert isinstance(raised.value, NotConfirmed)
        assert raised.value.__cause__ is lost
        assert side.recorded == [PROD_AS_TARGET]
    else:
        assert raised.value is lost
        assert side.recorded == []


NOT_DONE: dict[str, Callable[[Side], None]] = {
    "a lost line": lambda side: side.ceremony.stop(RelayLost("gone")),
    "silence": lambda side: side.ceremony.expire(),
    "a clear done": lambda side: _receive(side, b64(b'{"done":true}')),
    "an unreadable payload": lambda side: _receive(side, "\x1b[2J"),
    "a box of somebody's": lambda side: _receive(side, wire.encode(wire.Box(bytes(40)))),
    "another message": lambda side: _receive(side, from_peer(side, wire.Rejected())),
    "an error": lambda side: _receive(side, from_peer(side, wire.Trouble("home_busy"))),
    "a late done": lambda side: _receive(side, from_peer(side, wire.Done()), now=30),
}


def _receive(side: Side, payload: str, now: float = 0) -> None:
    side.ceremony.receive(payload, now)


@pytest.mark.parametrize("end", NOT_DONE)
def test_without_done_the_controller_keeps_its_entry_and_says_so(end: str) -> None:
    side = controller_in(AwaitDone)
    with pytest.raises(NotConfirmed) as raised:
        NOT_DONE[end](side)
    assert raised.value.device_id == PROD.identity.device_id
    assert raised.value.__cause__ is not None
    assert side.ceremony.state == Failed()
    assert side.recorded == [PROD_AS_TARGET]


# --- secrets --------------------------------------------------------------------------------


def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    met = both()
    printed = ""
    digits = ""
    while met.step():
        printed += repr(met.target.ceremony.state) + repr(met.controller.ceremony.state)
        digits = met.controller.digits or digits
    wrong = target_in(AwaitDigits)
    wrong.type("314159")
    assert "AwaitDigits" in caplog.text  # it does log, and this is what
    assert "AwaitDigits" in printed
    keys = [fresh("target ").ephemeral, fresh("controller ").ephemeral]
    keys += [PROD.key.private, LAPTOP.key.private]
    secrets = [digits, "314159", CODE, *(repr(key.scalar()) for key in keys)]
    secrets += [key.scalar().hex() for key in keys]
    for text in caplog.text, printed:
        for secret in secrets:
            assert secret not in text
    assert digits not in repr(Typed(digits))
    assert digits not in repr(Consent(given=True))
