"""Both ends of a pairing in memory: devices, people, and a pair of deques for a road."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from amesh_core import crypto
from amesh_core.ceremony import (
    Action,
    AskConsent,
    AskDigits,
    Consent,
    Fail,
    Fresh,
    Keyed,
    NotRecorded,
    Record,
    Recorded,
    SayMatched,
    Send,
    ShowDigits,
    Typed,
)
from amesh_core.channel import Channel
from amesh_core.crypto import PrivateKey
from amesh_core.errors import AmeshError
from amesh_core.identity import Identity, Peer, device_id
from amesh_core.machine import Machine
from amesh_core.pairing import ControllerCeremony, TargetCeremony
from amesh_core.wire import pairing as wire

CODE = "482916"
ISSUED_AT = "2026-01-02T03:04:05.678Z"


def stretch(seed: str) -> bytes:
    """32 bytes that are the same in every run, and a valid scalar but for one case in 2^32."""
    return hashlib.sha256(seed.encode()).digest()


@dataclass(frozen=True)
class SoftKey:
    """A device key in memory, without a back end."""

    private: PrivateKey

    @property
    def public(self) -> bytes:
        return self.private.public

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    def mac(self, message: bytes) -> bytes:
        return crypto.hmac_sha256(stretch("mac"), message)


@dataclass(frozen=True)
class Device:
    """A key and the identity that goes with it."""

    key: SoftKey
    identity: Identity

    @classmethod
    def named(cls, name: str) -> Device:
        key = SoftKey(PrivateKey.from_scalar(stretch(f"device {name}")))
        return cls(key, Identity(device_id(key.public), key.public, name))


def fresh(seed: str) -> Fresh:
    return Fresh(
        PrivateKey.from_scalar(stretch(f"ephemeral {seed}")), stretch(f"nonce {seed}"), ISSUED_AT
    )


@dataclass
class Side:
    """One device in a ceremony, and what its screen shows."""

    ceremony: Machine[Any, Any]
    outbox: deque[str] = field(default_factory=deque)
    recorded: list[Peer] = field(default_factory=list)
    cannot_record: AmeshError | None = None
    disk_hangs: bool = False
    digits: str | None = None
    asks_digits: bool = False
    says_matched: bool = False
    asks_about: Peer | None = None
    ended: AmeshError | None = None
    now: float = 0.0

    def start(self) -> None:
        self._take(lambda: self.ceremony.start(self.now))

    def hear(self, payload: str) -> None:
        self._take(lambda: self.ceremony.receive(payload, self.now))

    def type(self, digits: str) -> None:
        self.asks_digits = False
        self._take(lambda: self.ceremony.tell(Typed(digits), self.now))

    def answer(self, *, yes: bool) -> None:
        self.asks_about = None
        self._take(lambda: self.ceremony.tell(Consent(yes), self.now))

    def _take(self, step: Callable[[], Sequence[Action]]) -> None:
        if self.ended is not None:
            return  # the driver has hung up; nothing reaches a ceremony after its end
        try:
            for action in step():
                self._perform(action)
        except AmeshError as error:
            self.ended = error

    def _perform(self, action: Action) -> None:
        match action:
            case Send(payload):
                self.outbox.append(payload)
            case ShowDigits(digits):
                self.digits = digits
            case AskDigits():
                self.asks_digits = True
            case SayMatched():
                self.says_matched = True
            case AskConsent(peer):
                self.asks_about = peer
            case Record() if self.disk_hangs:
                pass
            case Record() if self.cannot_record is not None:
                refusal = NotRecorded(self.cannot_record)
                self._take(lambda: self.ceremony.tell(refusal, self.now))
            case Record(peer):
                self.recorded.append(peer)
                self._take(lambda: self.ceremony.tell(Recorded(), self.now))
            case Fail(last_words, error):
                self.outbox.append(last_words)
                raise error


def target(device: Device, seed: str, code: str = CODE) -> Side:
    return Side(TargetCeremony(device.identity, device.key, code, fresh(f"target {seed}")))


def controller(device: Device, seed: str, code: str = CODE) -> Side:
    return Side(ControllerCeremony(device.identity, device.key, code, fresh(f"controller {seed}")))


class TargetScreen(Protocol):
    """What the person at a target sees and does."""

    asks_digits: bool
    says_matched: bool

    def type(self, digits: str) -> None: ...


class ControllerScreen(Protocol):
    """What the person at a controller sees and does."""

    digits: str | None
    asks_about: Peer | None

    def answer(self, *, yes: bool) -> None: ...


def people_act(at_target: TargetScreen, at_controller: ControllerScreen) -> bool:
    """Two honest people do the next thing their screens ask for; False: nothing to do.

    The digits are typed before the question about them is answered, and the answer is what
    the target's screen says.
    """
    if at_target.asks_digits and at_controller.digits is not None:
        at_target.type(at_controller.digits)
    elif at_controller.asks_about is not None:
        at_controller.answer(yes=at_target.says_matched)
    else:
        return False
    return True


class Pair:
    """A target and a controller, both started, with nothing between them."""

    def __init__(self, at_target: Side, at_controller: Side) -> None:
        self.target = at_target
        self.controller = at_controller
        at_target.start()
        at_controller.start()

    def step(self) -> bool:
        """Deliver one message or, when none is under way, let a person act; False: all done."""
        if self.target.outbox:
            self.controller.hear(self.target.outbox.popleft())
        elif self.controller.outbox:
            self.target.hear(self.controller.outbox.popleft())
        else:
            return people_act(self.target, self.controller)
        return True

    def run(self) -> None:
        """Step until nothing moves any more."""
        while self.step():
            pass

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Step until `reached`, which must come about."""
        while not reached():
            assert self.step(), "the ceremony ended before"


def channel_of(side: Side) -> Channel:
    """The channel in the side's state."""
    state = side.ceremony.state
    assert isinstance(state, Keyed), state
    return state.channel


def other_end(side: Side) -> Channel:
    """The side's channel as the holder of the other end has it."""
    ours = channel_of(side)
    return Channel(
        ours.transcript,
        ours.digits,
        ours._receive_key,
        ours._send_key,
        ours._boxes_received,
        ours._boxes_sent,
    )


def from_peer(side: Side, message: wire.Sealed) -> str:
    """The payload with which the holder of the other end would say `message` now."""
    return wire.encode(other_end(side).seal(message)[0])
