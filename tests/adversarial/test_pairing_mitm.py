"""T1: a relay in the middle that searches a million choices for digits that agree.

The attacker is a third party with two ceremonies of its own: one with the target, in the
controller's place, and one with the controller, in the target's. It finishes with the target
first, learns which digits will be accepted there, and then looks, among a million choices it
still has towards the controller, for one that makes the controller show these digits. The
two people are honest: they type what the controller shows, and confirm what the target's
screen says.

The same attack (`intercept`) runs against three protocols: version 1, version 2, and version
2 without its commitment. Only version 2 may stand; that the other two fall is what shows
that the attack is one.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Protocol

import pytest

from amesh_core import crypto, pairing
from amesh_core.ceremony import Fresh
from amesh_core.errors import CommitmentMismatch, OutOfOrder
from amesh_core.identity import Peer, Role
from amesh_core.pairing_v1 import CeremonyV1, ControllerCeremonyV1, TargetCeremonyV1
from amesh_core.wire import pairing as wire
from tests.support import pairing_v1 as v1
from tests.support import vectors
from tests.support.ceremony import (
    CODE,
    ISSUED_AT,
    Device,
    Side,
    SoftKey,
    channel_of,
    controller,
    fresh,
    people_act,
    stretch,
    target,
)
from tests.support.key_table import KeyTable, make_key_table

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
MIDDLE = Device.named("middle")

# A million choices hit one of a million digits in 63 of 100 meetings. Everything in a meeting
# follows from its number, so a run repeats exactly; these are meetings in which the search
# succeeds, and soon. That is the worst case: what stops the attacker is never its bad luck.
LUCKY_AGAINST_VERSION_1 = ("10", "11", "12")
LUCKY_AGAINST_VERSION_2 = ("7", "15")


@pytest.fixture(scope="module")
def table() -> KeyTable:
    return make_key_table()


class Meeting(Protocol):
    """One target, one controller, two honest people, and the attacker between them."""

    target_recorded: list[Peer]
    controller_recorded: list[Peer]

    def finish_with_target(self) -> str:
        """Everything up to the target's question; the digits it will accept."""

    def search(self, wanted: str) -> object | None:
        """Something to send the controller that makes it show `wanted`, if there is any."""

    def finish_with_controller(self, choice: object) -> None:
        """Send it, let the people act, and answer both sides whatever they like to hear."""


def intercept(meeting: Meeting) -> bool:
    """Attack one meeting; whether the search found something to attack with."""
    choice = meeting.search(meeting.finish_with_target())
    if choice is None:
        return False
    meeting.finish_with_controller(choice)
    return True


class MeetingOfVersion1:
    """The free choice is the attacker's permanent key: it comes last and nothing fixes it."""

    def __init__(self, seed: str, table: KeyTable, *, ours: bool) -> None:
        self.table = table
        self.target = our_v1(TargetCeremonyV1, PROD, seed) if ours else v1.V1Target(PROD, seed)
        self.controller = (
            our_v1(ControllerCeremonyV1, LAPTOP, seed) if ours else v1.V1Controller(LAPTOP, seed)
        )
        self.to_target = v1.V1Controller(MIDDLE, f"middle {seed}")
        self.to_controller = v1.V1Target(MIDDLE, f"middle {seed}")
        self.target_recorded = self.target.recorded
        self.controller_recorded = self.controller.recorded

    def finish_with_target(self) -> str:
        self.target.start()
        self.to_target.hear(self.target.outbox.popleft())
        self.target.hear(self.to_target.outbox.popleft())
        self.target.hear(self.to_target.outbox.popleft())
        self.to_target.hear(self.target.outbox.popleft())
        assert self.to_target.digits is not None
        return self.to_target.digits

    def search(self, wanted: str) -> bytes | None:
        self.controller.start()
        self.to_controller.start()
        self.controller.hear(self.to_controller.outbox.popleft())
        self.to_controller.hear(self.controller.outbox.popleft())
        self.to_controller.meet(self.controller.outbox.popleft())
        assert self.to_controller.peer is not None
        tail = self.to_controller.peer.public_key + self.to_controller.secret
        # Comparing three bytes is quicker than making digits of each hash.
        good = {source.to_bytes(3, "big") for source in range(int(wanted), 2**24, 1_000_000)}
        for x in self.table.each_x():
            for sign in (b"\x02", b"\x03"):
                if hashlib.sha256(sign + x + tail).digest()[:3] in good:
                    return sign + x
        return None

    def finish_with_controller(self, choice: object) -> None:
        assert isinstance(choice, bytes)
        key = SoftKey(self.table.private(choice))
        self.to_controller.device = Device(key, MIDDLE.identity)
        self.to_controller.send_identity()
        self.controller.hear(self.to_controller.outbox.popleft())
        people_act(self.target, self.controller)
        self.controller.hear(self.target.outbox.popleft())
        people_act(self.target, self.controller)  # ours asks; the target's screen says yes


def our_v1(machine: type[CeremonyV1], device: Device, seed: str) -> Side:
    """Our machine with the ephemeral key of a `V1Side`, so that the same meetings are lucky."""
    theirs = Role.CONTROLLER if machine is TargetCeremonyV1 else Role.TARGET
    ephemeral = crypto.PrivateKey.from_scalar(stretch(f"v1 {theirs} {seed}"))
    random = Fresh(ephemeral, stretch(f"nonce {seed}"), ISSUED_AT)
    return Side(machine(device.identity, device.key, CODE, random))


class MeetingOfVersion2:
    """The free choice is the nonce in the reveal, which is the attacker's last input."""

    def __init__(self, seed: str, table: KeyTable) -> None:
        self.table = table
        self.seed = seed
        self.target = target(PROD, seed)
        self.controller = controller(LAPTOP, seed)
        self.to_target = controller(MIDDLE, f"middle {seed}")
        self.to_controller = target(MIDDLE, f"middle {seed}")
        self.target_recorded = self.target.recorded
        self.controller_recorded = self.controller.recorded

    def finish_with_target(self) -> str:
        self.target.start()
        self.to_target.start()
        (commit,) = self.target.outbox  # all that is to be had before the choice is made
        assert isinstance(wire.decode(commit), wire.Commit)
        self.to_target.hear(self.target.outbox.popleft())
        self.target.hear(self.to_target.outbox.popleft())
        self.to_target.hear(self.target.outbox.popleft())
        assert self.target.asks_digits
        return channel_of(self.to_target).digits

    def search(self, wanted: str) -> Side | None:
        self.controller.start()
        self.to_controller.start()
        self.controller.hear(self.to_controller.outbox.popleft())
        self.hello = self.controller.outbox.popleft()
        reveal = search_reveals(self.hello, wanted, self._ephemeral(), self.table)
        if reveal is None:
            return None
        # The attacker's own ceremony, as if it had committed to this from the beginning.
        ephemeral = self._ephemeral().ephemeral
        if ephemeral.public != reveal.ephemeral:
            ephemeral = negative(ephemeral)
        side = Side(
            pairing.TargetCeremony(
                MIDDLE.identity, MIDDLE.key, CODE, Fresh(ephemeral, reveal.nonce, ISSUED_AT)
            )
        )
        side.start()
        side.outbox.clear()  # its commitment: the controller has the other one already
        side.hear(self.hello)
        assert channel_of(side).digits == wanted
        return side

    def _ephemeral(self) -> Fresh:
        return fresh(f"target middle {self.seed}")

    def finish_with_controller(self, choice: object) -> None:
        assert isinstance(choice, Side)
        self.controller.hear(choice.outbox.popleft())
        choice.type(channel_of(choice).digits)
        people_act(self.target, self.controller)  # the digits, as the controller shows them
        while self.target.outbox:
            self.to_target.hear(self.target.outbox.popleft())
        if self.to_target.asks_about:
            self.to_target.answer(yes=True)
            self.target.hear(self.to_target.outbox.popleft())
        while choice.outbox:
            self.controller.hear(choice.outbox.popleft())
        people_act(self.target, self.controller)  # the question, by the target's screen


def negative(key: crypto.PrivateKey) -> crypto.PrivateKey:
    """The key of the point's negative: another key, and the same secret with everybody."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    scalar = order - int.from_bytes(key.scalar(), "big")
    return crypto.PrivateKey.from_scalar(scalar.to_bytes(32, "big"))


def search_reveals(hello: str, wanted: str, ours: Fresh, table: KeyTable) -> wire.Reveal | None:
    """Among a million reveals, one that makes the sender of `hello` show `wanted`.

    A nonce costs the attacker four hashes to try where another ephemeral key would cost an
    ECDH as well, so it varies the nonces (the table's, as good as any) and the sign.
    """
    theirs = wire.decode(hello)
    assert isinstance(theirs, wire.Hello)
    secret = ours.ephemeral.agree(theirs.ephemeral)
    head = b"amesh-pair/2 transcript\0" + CODE.encode()
    ours_public = (b"\x02" + ours.ephemeral.public[1:], b"\x03" + ours.ephemeral.public[1:])
    number = int(wanted)
    for nonce in table.each_x():
        for public in ours_public:
            end = public + nonce
            k = hashlib.sha256(b"amesh-pair/2 commit\0" + end).digest()
            th = hashlib.sha256(head + k + theirs.ephemeral + theirs.nonce + end).digest()
            prk = hmac.digest(th, secret, "sha256")
            sas = hmac.digest(prk, b"amesh-pair/2 sas\x01", "sha256")
            if int.from_bytes(sas[:8], "big") % 1_000_000 == number:
                return wire.Reveal(public, nonce)
    return None


@pytest.mark.parametrize("ours", [False, True], ids=["Node's", "ours"])
@pytest.mark.parametrize("seed", LUCKY_AGAINST_VERSION_1)
def test_version_1_falls(seed: str, ours: bool, table: KeyTable) -> None:
    """Both people saw the same digits, and both devices trust the attacker's keys."""
    meeting = MeetingOfVersion1(seed, table, ours=ours)
    assert intercept(meeting)
    (controller_of_target,) = meeting.target_recorded
    (target_of_controller,) = meeting.controller_recorded
    assert controller_of_target.public_key == MIDDLE.key.public
    key = table.private(target_of_controller.public_key)
    assert key.public == meeting.to_controller.device.key.public


@pytest.mark.parametrize("seed", LUCKY_AGAINST_VERSION_2)
def test_version_2_stands(seed: str, table: KeyTable) -> None:
    """Digits that agree were found, and were of no use: they came after the commitment."""
    meeting = MeetingOfVersion2(seed, table)
    assert intercept(meeting)
    assert meeting.target_recorded == []
    assert meeting.controller_recorded == []
    assert isinstance(meeting.controller.ended, CommitmentMismatch)
    assert meeting.controller.digits is None
    assert not meeting.target.says_matched


@pytest.mark.parametrize("seed", LUCKY_AGAINST_VERSION_2)
def test_version_2_without_its_commitment_falls(
    seed: str, table: KeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "commitment", lambda _: bytes(32))
    meeting = MeetingOfVersion2(seed, table)
    assert intercept(meeting)
    assert [peer.public_key for peer in meeting.target_recorded] == [MIDDLE.key.public]
    assert [peer.public_key for peer in meeting.controller_recorded] == [MIDDLE.key.public]


def test_the_controller_side_is_blind_as_well(table: KeyTable) -> None:
    """The other way round: finish with the controller first, then choose towards the target.

    The target shows nothing of what it committed to before it has the attacker's key and
    nonce, so there is nothing to search; and a second, better choice is a message too many.
    """
    meeting = MeetingOfVersion2("blind", table)
    meeting.controller.start()
    meeting.to_controller.start()
    meeting.controller.hear(meeting.to_controller.outbox.popleft())
    meeting.to_controller.hear(meeting.controller.outbox.popleft())
    meeting.controller.hear(meeting.to_controller.outbox.popleft())
    assert meeting.controller.digits is not None  # what the person will type

    meeting.finish_with_target()
    better = wire.Hello(fresh("better").ephemeral.public, stretch("better"))
    meeting.target.hear(wire.encode(better))
    assert isinstance(meeting.target.ended, OutOfOrder)
    people_act(meeting.target, meeting.controller)
    assert meeting.target_recorded == meeting.controller_recorded == []


# --- the version 1 that is attacked is the real one ----------------------------------------

SESSIONS = vectors.load("handshake.json")["sessions"]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session["label"])
def test_the_attacked_version_1_is_nodes(session: dict[str, Any]) -> None:
    secret = bytes.fromhex(session["shared_secret_hex"])
    ephemeral = crypto.PrivateKey.from_scalar(
        bytes.fromhex(session["target_ephemeral"]["private_hex"])
    )
    assert ephemeral.agree(bytes.fromhex(session["controller_ephemeral"]["public_hex"])) == secret
    key = v1.session_key(secret)
    assert key.hex() == session["session_key_hex"]
    publics = []
    for side in "target", "controller":
        public, name = v1.read_introduction(session[f"{side}_identity"]["frame_b64"], key)
        assert public.hex() == session[f"{side}_identity_key"]["public_hex"]
        assert name == session[f"{side}_identity"]["identity"]["friendlyName"]
        publics.append(public)
    assert v1.digits_of(v1.digits_source(publics[0], publics[1], secret)) == session["sas"]


def test_honest_devices_pair_with_the_attacked_version_1() -> None:
    at_target, at_controller = v1.V1Target(PROD, ""), v1.V1Controller(LAPTOP, "")
    at_target.start()
    while True:
        if at_target.outbox:
            at_controller.hear(at_target.outbox.popleft())
        elif at_controller.outbox:
            at_target.hear(at_controller.outbox.popleft())
        elif not people_act(at_target, at_controller):
            break
    assert [peer.public_key for peer in at_target.recorded] == [LAPTOP.key.public]
    assert [peer.public_key for peer in at_controller.recorded] == [PROD.key.public]
