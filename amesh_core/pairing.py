"""The pairing ceremony, version 2, as two machines without I/O (docs/protocol.md section 5).

    target (listen)                              controller (invite)
    New               start     -> commit        New           start
    AwaitHello        hello     -> reveal        AwaitCommit   commit    -> hello
    AwaitDigits       typed     -> identity      AwaitReveal   reveal    -> digits shown
    AwaitController   identity  -> record        AwaitTarget   identity  -> consent asked
    RecordController  recorded  -> done          AwaitConsent  yes       -> record
    Finished                                     RecordTarget  recorded  -> identity
                                                 AwaitDone     done
                                                 Finished

A ceremony takes payloads and answers, and gives the actions its driver has to perform, in
order. Randomness is handed in and `now` is any monotonic clock in seconds. Whatever is not
a line of the two tables below raises and leaves the ceremony dead, in the state Failed.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final, NoReturn

from amesh_core.ceremony import (
    PERSON_ACTS,
    Action,
    Answer,
    AskConsent,
    AskDigits,
    AwaitCommit,
    AwaitConsent,
    AwaitController,
    AwaitDigits,
    AwaitDone,
    AwaitHello,
    AwaitReveal,
    AwaitTarget,
    Consent,
    Event,
    Fail,
    Failed,
    Finished,
    Fresh,
    Keyed,
    New,
    NotRecorded,
    Record,
    RecordController,
    Recorded,
    RecordTarget,
    SayMatched,
    Send,
    ShowDigits,
    Start,
    State,
    Step,
    Typed,
)
from amesh_core.channel import Channel, commitment
from amesh_core.errors import (
    AmeshError,
    BadMessage,
    CommitmentMismatch,
    Malformed,
    NotConfirmed,
    OlderPairing,
    OutOfOrder,
    PairingExpired,
    PeerCouldNotRecord,
    RejectedByPeer,
    RejectedHere,
    UsageError,
    WrongDigits,
)
from amesh_core.identity import DeviceKey, Identity, Role, check_name
from amesh_core.wire import pairing as wire

FRAME_SECONDS: Final = 30.0  # for a machine to answer
CEREMONY_SECONDS: Final = 300.0  # for everything, people included

log = logging.getLogger("amesh.pairing")


class Ceremony(ABC):
    """What both sides share: deadlines, boxes, and that the first error is the last."""

    role: ClassVar[Role]

    def __init__(self, identity: Identity, key: DeviceKey, code: str, fresh: Fresh) -> None:
        """A ceremony for one meeting under `code`, six digits.

        Raises:
            UsageError: a code of another form, or a name of ours no other device accepts.
        """
        self.state: State = New()
        self._identity = identity
        self._key = key
        self._code = check_code(code)
        self._fresh = fresh
        self._frame_ends_at = self._ends_at = float("inf")
        try:
            check_name(identity.friendly_name)
        except Malformed as error:
            raise UsageError(f"this device's own name is not acceptable: {error}") from None

    @property
    def deadline(self) -> float:
        """When to stop waiting, on the caller's clock; infinite before the start."""
        return min(self._frame_ends_at, self._ends_at)

    def start(self, now: float) -> Sequence[Action]:
        """The relay has found the peer; the five minutes begin."""
        self._ends_at = now + CEREMONY_SECONDS
        return self.tell(Start(), now)

    def receive(self, payload: str, now: float) -> Sequence[Action]:
        """Take one payload from the relay.

        Raises:
            PairingFailed, OwnKey: the ceremony is over, and nothing more is recorded.
            NotConfirmed: it is over, and the target is recorded here.
        """
        return self._advance(payload, now)

    def tell(self, answer: Answer, now: float) -> Sequence[Action]:
        """Take the answer to an action.

        Raises:
            As `receive`.
        """
        return self._advance(answer, now)

    def expire(self) -> NoReturn:
        """The driver waited until the deadline.

        Raises:
            PairingExpired, NotConfirmed
        """
        self.stop(self._expired())

    def stop(self, cause: AmeshError) -> NoReturn:
        """The road to the peer has ended.

        Raises:
            `cause`, or NotConfirmed where the target is recorded already.
        """
        state, self.state = self.state, Failed()
        self._end(state, cause)

    def _advance(self, outside: str | Answer, now: float) -> Sequence[Action]:
        # Failed first: no exception, not even a bug's, leaves a state to go on from.
        state, self.state = self.state, Failed()
        try:
            # A list already written must be followed by its message, however long it took.
            if now >= self.deadline and not isinstance(outside, Recorded | NotRecorded):
                raise self._expired()
            before, event = _read(state, outside)
            after, actions = self._step(before, event)
        except Malformed as error:
            self._end(state, BadMessage(f"the other side sent {error}"))
        except AmeshError as error:
            self._end(state, error)
        self.state = after
        self._frame_ends_at = (
            self._ends_at if isinstance(after, PERSON_ACTS) else now + FRAME_SECONDS
        )
        log.debug("%s: %s in %s", self.role, type(event).__name__, type(state).__name__)
        return actions

    def _end(self, state: State, error: AmeshError) -> NoReturn:
        log.info("%s: %s ends it in %s", self.role, error.code, type(state).__name__)
        # Once the controller has written its list, only `done` could have told it the rest.
        if isinstance(state, AwaitDone):
            raise NotConfirmed(state.peer.device_id) from error
        raise error

    @abstractmethod
    def _step(self, state: State, event: Event) -> Step:
        """The table of this side."""

    def _expired(self) -> PairingExpired:
        if self._frame_ends_at < self._ends_at:
            return PairingExpired(f"the other device was silent for {FRAME_SECONDS:.0f} s")
        return PairingExpired(f"the pairing took longer than {CEREMONY_SECONDS / 60:.0f} minutes")


class TargetCeremony(Ceremony):
    """The side that runs `listen`: it will be called, so it is the one that types."""

    role = Role.TARGET

    def _step(self, state: State, event: Event) -> Step:
        match state, event:
            case New(), Start():
                reveal = wire.Reveal(self._fresh.ephemeral.public, self._fresh.nonce)
                return AwaitHello(reveal), [_send(wire.Commit(commitment(reveal)))]
            case AwaitHello(reveal), wire.Hello() as hello:
                # Only now, when the controller can no longer choose: what we committed to.
                channel = Channel.derive(
                    self.role, self._code, self._fresh.ephemeral, hello, reveal
                )
                return AwaitDigits(channel), [_send(reveal), AskDigits()]
            case AwaitHello(), wire.Older():
                raise OlderPairing
            case AwaitDigits(channel), Typed(digits):
                try:
                    channel.check_digits(digits)
                except WrongDigits as error:
                    return _fail(channel, wire.Rejected(), error)
                # Nothing permanent of ours leaves this device before this line, and the
                # person sees it first: the controller's person is asked about this screen.
                box, channel = channel.seal(
                    channel.claim(self._identity, self._key, self.role, self._fresh.issued_at)
                )
                return AwaitController(channel), [SayMatched(), _send(box)]
            case AwaitController(channel), wire.Claim() as claim:
                peer = channel.check(claim, ours=self._key.public, expected=Role.CONTROLLER)
                return RecordController(channel, peer), [Record(peer)]
            case AwaitController(), wire.Rejected():
                raise RejectedByPeer
            case AwaitController(), wire.Trouble(reason):
                raise _could_not_record(reason)
            case RecordController(channel, peer), Recorded():
                box, _ = channel.seal(wire.Done())
                return Finished(peer), [_send(box)]
            case RecordController(channel), NotRecorded(error):
                return _fail(channel, wire.Trouble(error.code), error)
            case _:
                raise _out_of_order(state, event)


class ControllerCeremony(Ceremony):
    """The side that runs `invite`: it will call, and shows the digits."""

    role = Role.CONTROLLER

    def _step(self, state: State, event: Event) -> Step:
        match state, event:
            case New(), Start():
                return AwaitCommit(), []
            case AwaitCommit(), wire.Commit(committed):
                hello = wire.Hello(self._fresh.ephemeral.public, self._fresh.nonce)
                return AwaitReveal(committed, hello), [_send(hello)]
            case AwaitCommit(), wire.Older():
                raise OlderPairing
            case AwaitReveal(committed, hello), wire.Reveal() as reveal:
                # Before anything is derived: else a relay in the middle could answer our
                # hello with the one of a million keys whose digits are the ones it needs.
                if commitment(reveal) != committed:
                    raise CommitmentMismatch
                channel = Channel.derive(
                    self.role, self._code, self._fresh.ephemeral, hello, reveal
                )
                return AwaitTarget(channel), [ShowDigits(channel.digits)]
            case AwaitTarget(channel), wire.Claim() as claim:
                # It proves nothing yet: a relay in the middle can send one at any time. Only
                # the person knows whether the target's screen says that the code matched.
                peer = channel.check(claim, ours=self._key.public, expected=Role.TARGET)
                return AwaitConsent(channel, peer), [AskConsent(peer)]
            case AwaitTarget(), wire.Rejected():
                raise RejectedByPeer
            case AwaitConsent(channel), Consent(given=False):
                error = RejectedHere("not paired, as you did not confirm it")
                return _fail(channel, wire.Rejected(), error)
            case AwaitConsent(channel, peer), Consent(given=True):
                # Signed now, so that a key that cannot sign stops us before we write.
                claim = channel.claim(self._identity, self._key, self.role, self._fresh.issued_at)
                return RecordTarget(channel, peer, claim), [Record(peer)]
            case RecordTarget(channel, peer, claim), Recorded():
                # Our list is on disk first: the target never trusts who does not know it.
                box, channel = channel.seal(claim)
                return AwaitDone(channel, peer), [_send(box)]
            case RecordTarget(channel), NotRecorded(failure):
                return _fail(channel, wire.Trouble(failure.code), failure)
            case AwaitDone(_, peer), wire.Done():
                return Finished(peer), []
            case AwaitDone(), wire.Trouble(reason):
                raise _could_not_record(reason)
            case _:
                raise _out_of_order(state, event)


def check_code(text: str) -> str:
    """Return `text` if it is a code: six ASCII digits.

    Raises:
        UsageError: it is not.
    """
    if not re.fullmatch("[0-9]{6}", text):
        raise UsageError("a code is six digits")
    return text


def _read(state: State, outside: str | Answer) -> tuple[State, Event]:
    """What came from outside as one event; a box is opened where there is a channel for it."""
    if not isinstance(outside, str):
        return state, outside
    frame = wire.decode(outside)
    if isinstance(frame, wire.Box) and isinstance(state, Keyed):
        message, channel = state.channel.open(frame)
        return replace(state, channel=channel), message
    return state, frame


def _send(frame: wire.Commit | wire.Hello | wire.Reveal | wire.Box) -> Send:
    return Send(wire.encode(frame))


def _fail(channel: Channel, message: wire.Sealed, error: AmeshError) -> Step:
    box, _ = channel.seal(message)
    return Failed(), [Fail(wire.encode(box), error)]


def _could_not_record(reason: str) -> PeerCouldNotRecord:
    # The text is the other side's: only what looks like one of our own codes is repeated.
    known = reason if re.fullmatch("[a-z_]{1,64}", reason) else "no reason it can name"
    return PeerCouldNotRecord(f"the other device could not record this one: {known}")


def _out_of_order(state: State, event: Event) -> OutOfOrder:
    return OutOfOrder(f"{type(event).__name__} while in {type(state).__name__}")
