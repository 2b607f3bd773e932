"""The older pairing, version 1, for Node.js devices; docs/protocol.md section 5.8.

    target (listen)                              controller (invite)
    New               start     -> key           New           start
    AwaitKey          key                        AwaitKey      key       -> key, identity
    AwaitIdentity     identity  -> identity      AwaitIdentity identity  -> digits shown
    AwaitDigits       typed     -> record        AwaitVerdict  confirmed -> consent asked
    Recording         recorded  -> confirmed     AwaitConsent  yes       -> record
    Finished                                     Recording     recorded
                                                 Finished

Whoever runs the relay can intercept it (section 5.7), so it is used where a person asked for
it and nowhere else: no machine of version 2 ever turns into one of these.

Order of writes. Three things are wanted and version 1 has too few messages for all of them.
What it allows:

* The target writes its list before it confirms. A list that cannot be written becomes a
  rejection, and both sides end without an entry. If the confirmation is lost on the way, the
  target trusts a controller that does not know it; but its person typed the digits of that
  controller, and pairing again repairs it. Confirmed first, a full disk would leave a
  controller that says "paired" for good, and nobody could tell it otherwise.
* The controller writes only after the confirmation and its person's consent. The
  confirmation is plain text that a relay can make up, so the person is asked what the
  target's own screen says, as in version 2.
* After the confirmation nothing can take it back. A controller that still ends without an
  entry says so (`OneSided`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from amesh_core import crypto
from amesh_core.ceremony import (
    Action,
    Answer,
    AskConsent,
    AskDigits,
    Consent,
    Fail,
    Failed,
    Finished,
    New,
    NotRecorded,
    Record,
    Recorded,
    SayMatched,
    Send,
    ShowDigits,
    Start,
    Typed,
)
from amesh_core.errors import (
    AmeshError,
    BadIdentity,
    BadMessage,
    BadSignature,
    Malformed,
    NewerPairing,
    OneSided,
    OutOfOrder,
    OwnKey,
    RejectedByPeer,
    RejectedHere,
    WrongDigits,
)
from amesh_core.identity import Peer, Role, check_name, device_id
from amesh_core.machine import Machine
from amesh_core.wire import pairing_v1 as wire
from amesh_core.wire.encoding import b64

_DIGITS_SOURCE_BYTES: Final = 3
_NO_AAD: Final = b""


@dataclass(frozen=True, slots=True)
class AwaitKey:
    """The other side's ephemeral key is due."""


@dataclass(frozen=True, slots=True)
class AwaitIdentity:
    """`secret` is shared with whoever sent that key."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitDigits:
    """Target: a person reads six digits on the controller and types them here."""

    peer: Peer
    digits: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitVerdict:
    """Controller: the digits are shown, and a person types them into the target."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class AwaitConsent:
    """Controller: our person is asked what the target's screen says."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Recording:
    """Our list is being written."""

    peer: Peer


State = (
    New
    | AwaitKey
    | AwaitIdentity
    | AwaitDigits
    | AwaitVerdict
    | AwaitConsent
    | Recording
    | Finished
    | Failed
)
Event = wire.Frame | Answer
Step = tuple[State, Sequence[Action]]


class CeremonyV1(Machine[State, wire.Frame]):
    """What both sides share: one key for both directions, and no proof of who holds it."""

    person_acts = (AwaitDigits, AwaitVerdict, AwaitConsent)

    def _read(self, state: State, payload: str) -> tuple[State, wire.Frame]:
        return state, wire.decode(payload)

    def _outcome(self, _state: State, error: AmeshError) -> AmeshError:
        return error

    def _agree(self, theirs: wire.Key) -> bytes:
        if theirs.ephemeral == self._fresh.ephemeral.public:
            raise BadMessage("the other side sent our own key back")
        try:
            return self._fresh.ephemeral.agree(theirs.ephemeral)
        except Malformed as error:
            raise BadMessage(f"the other side's key is {error}") from None

    def _introduction(self, secret: bytes) -> Send:
        signed = _signed(self._key.public, self._identity.friendly_name, self._fresh.issued_at)
        claim = wire.Claim(
            self._key.public,
            self._identity.friendly_name,
            self._fresh.issued_at,
            self._key.sign(signed),
        )
        # One box a side and ceremony, so the two random nonces under one key will differ.
        nonce = self._fresh.nonce[: wire.NONCE_BYTES]
        sealed = crypto.seal_box(session_key(secret), nonce, wire.encode_claim(claim), _NO_AAD)
        return _send(wire.Box(nonce, sealed))

    def _meet(self, box: wire.Box, secret: bytes, role: Role) -> Peer:
        """Who the other side says it is; `role` is what it will be to us.

        Raises:
            BadBox: not sealed with the key of this ceremony.
            Malformed: no identity of version 1.
            OwnKey: our own, which a box sent back to us would hold.
            BadIdentity: a name that is not a good one, or a signature that does not hold.
        """
        plaintext = crypto.open_box(session_key(secret), box.nonce, box.sealed, _NO_AAD)
        claim = wire.decode_claim(plaintext)
        if claim.public_key == self._key.public:
            raise OwnKey
        try:
            # The name first: Node allows any, and this one will be on a list and a screen.
            name = check_name(claim.friendly_name)
            signed = _signed(claim.public_key, name, claim.timestamp)
            crypto.verify(claim.public_key, claim.signature, signed)
        except Malformed as error:
            raise BadIdentity(
                f"the other device has to be renamed before it can be paired: {error}"
            ) from None
        except BadSignature:
            raise BadIdentity("the other side's identity is not signed by its own key") from None
        return Peer(device_id(claim.public_key), claim.public_key, name, role)


class TargetCeremonyV1(CeremonyV1):
    """The side that runs `listen`: it will be called, so it is the one that types."""

    role = Role.TARGET

    def _step(self, state: State, event: Event) -> Step:
        match state, event:
            case New(), Start():
                return AwaitKey(), [_send(wire.Key(self._fresh.ephemeral.public))]
            case AwaitKey(), wire.Key() as key:
                return AwaitIdentity(self._agree(key)), []
            case AwaitKey(), wire.Newer():
                raise NewerPairing
            case AwaitIdentity(secret), wire.Box() as box:
                peer = self._meet(box, secret, Role.CONTROLLER)
                # The digits are made of both permanent keys, so ours leaves unconfirmed.
                return (
                    AwaitDigits(peer, digits(self._key.public, peer.public_key, secret)),
                    [self._introduction(secret), AskDigits()],
                )
            case AwaitDigits(peer, wanted), Typed(typed):
                # surrogatepass: a terminal can hand in bytes that are no text; just wrong.
                if not crypto.same(typed.encode("utf-8", "surrogatepass"), wanted.encode()):
                    return _reject(WrongDigits())
                return Recording(peer), [Record(peer)]
            case Recording(peer), Recorded():
                # The screen first: the controller's person is asked about it.
                return Finished(peer), [SayMatched(), _send(wire.Verdict(matched=True))]
            case Recording(), NotRecorded(error):
                return _reject(error)
            case _:
                raise _out_of_order(state, event)


class ControllerCeremonyV1(CeremonyV1):
    """The side that runs `invite`: it will call, and shows the digits."""

    role = Role.CONTROLLER

    @property
    def peer_is_done(self) -> bool:
        """Node's target hangs up once it has confirmed; our person may still be thinking."""
        return isinstance(self.state, AwaitConsent)

    def _step(self, state: State, event: Event) -> Step:
        match state, event:
            case New(), Start():
                return AwaitKey(), []
            case AwaitKey(), wire.Key() as key:
                secret = self._agree(key)
                ours = _send(wire.Key(self._fresh.ephemeral.public))
                return AwaitIdentity(secret), [ours, self._introduction(secret)]
            case AwaitKey(), wire.Newer():
                # With our key as last words, the target can say what it met.
                ours = _send(wire.Key(self._fresh.ephemeral.public))
                return Failed(), [Fail(ours.payload, NewerPairing())]
            case AwaitIdentity(secret), wire.Box() as box:
                peer = self._meet(box, secret, Role.TARGET)
                shown = digits(peer.public_key, self._key.public, secret)
                return AwaitVerdict(peer), [ShowDigits(shown)]
            case AwaitVerdict(peer), wire.Verdict(matched=True):
                return AwaitConsent(peer), [AskConsent(peer)]
            case AwaitVerdict(), wire.Verdict(matched=False):
                raise RejectedByPeer
            case AwaitConsent(), Consent(given=False):
                raise RejectedHere("not paired, as you did not confirm it")
            case AwaitConsent(peer), Consent(given=True):
                return Recording(peer), [Record(peer)]
            case Recording(peer), Recorded():
                return Finished(peer), []
            case Recording(), NotRecorded(error):
                raise error
            case _:
                raise _out_of_order(state, event)

    def _outcome(self, state: State, error: AmeshError) -> AmeshError:
        # From its confirmation on, an honest target has recorded us and does not look back.
        return OneSided(str(error)) if isinstance(state, AwaitConsent | Recording) else error


def session_key(secret: bytes) -> bytes:
    """The one key of a ceremony, 32 bytes, for both directions."""
    return crypto.hkdf(secret, salt=b"amesh-handshake-v1", info=b"session-key")


def digits(target: bytes, controller: bytes, secret: bytes) -> str:
    """Six digits of both permanent keys and the secret; nothing was committed before them."""
    source = crypto.sha256(target + controller + secret)[:_DIGITS_SOURCE_BYTES]
    return f"{int.from_bytes(source, 'big') % 1_000_000:06d}"


def _signed(public_key: bytes, friendly_name: str, timestamp: str) -> bytes:
    return f"{b64(public_key)}{friendly_name}{timestamp}".encode()


def _send(frame: wire.Key | wire.Box | wire.Verdict) -> Send:
    return Send(wire.encode(frame))


def _reject(error: AmeshError) -> Step:
    return Failed(), [Fail(wire.encode(wire.Verdict(matched=False)), error)]


def _out_of_order(state: State, event: Event) -> OutOfOrder:
    return OutOfOrder(f"{type(event).__name__} while in {type(state).__name__}")
