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

`machine` has what is around the two tables below. Whatever is not a line of them raises and
leaves the ceremony dead, in the state Failed.
"""

from __future__ import annotations

import re
from dataclasses import replace

from amesh_core.ceremony import (
    PERSON_ACTS,
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
    CommitmentMismatch,
    NotConfirmed,
    OlderPairing,
    OutOfOrder,
    PeerCouldNotRecord,
    RejectedByPeer,
    RejectedHere,
    WrongDigits,
)
from amesh_core.identity import Role
from amesh_core.machine import Machine
from amesh_core.wire import pairing as wire


class Ceremony(Machine[State, wire.Frame | wire.Sealed]):
    """What both sides share: boxes, and what the controller's list means once it is written."""

    person_acts = PERSON_ACTS

    def _read(self, state: State, payload: str) -> tuple[State, wire.Frame | wire.Sealed]:
        frame = wire.decode(payload)
        # A box is opened where there is a channel for it.
        if isinstance(frame, wire.Box) and isinstance(state, Keyed):
            message, channel = state.channel.open(frame)
            return replace(state, channel=channel), message
        return state, frame

    def _outcome(self, state: State, error: AmeshError) -> AmeshError:
        # Once the controller has written its list, only `done` could have told it the rest.
        return NotConfirmed(state.peer.device_id) if isinstance(state, AwaitDone) else error


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
