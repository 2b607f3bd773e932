"""The words of a pairing ceremony: its states, what it is told, what it asks for.

docs/protocol.md section 5; `amesh_core.pairing` has the tables that connect them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from amesh_core.channel import Channel
from amesh_core.crypto import PrivateKey
from amesh_core.errors import AmeshError
from amesh_core.identity import Peer
from amesh_core.wire import pairing as wire


@dataclass(frozen=True, slots=True)
class Fresh:
    """What belongs to one ceremony alone, handed in: randomness (32 bytes) and the time.

    `issued_at` is written as `encoding.instant` does.
    """

    ephemeral: PrivateKey = field(repr=False)
    nonce: bytes = field(repr=False)
    issued_at: str


# --- states: each holds what is known in it, and nothing else ---------------------------


@dataclass(frozen=True, slots=True)
class New:
    """Not started."""


@dataclass(frozen=True, slots=True)
class AwaitHello:
    """Target: committed to `reveal`, so the other side may now choose blindly."""

    reveal: wire.Reveal


@dataclass(frozen=True, slots=True)
class AwaitCommit:
    """Controller: nothing is chosen yet."""


@dataclass(frozen=True, slots=True)
class AwaitReveal:
    """Controller: our key is out; the target's is fixed, but unknown to us."""

    committed: bytes
    hello: wire.Hello


@dataclass(frozen=True, slots=True)
class Keyed:
    """There is a channel; who is at its other end is what the digits will tell."""

    channel: Channel


@dataclass(frozen=True, slots=True)
class AwaitDigits(Keyed):
    """Target: a person reads six digits on the controller and types them here."""


@dataclass(frozen=True, slots=True)
class AwaitTarget(Keyed):
    """Controller: the digits are shown, and a person types them into the target."""


@dataclass(frozen=True, slots=True)
class AwaitController(Keyed):
    """Target: the digits matched; the controller's person is asked."""


@dataclass(frozen=True, slots=True)
class AwaitConsent(Keyed):
    """Controller: our person is asked what the target's screen says."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class RecordTarget(Keyed):
    """Controller: our list is being written. Our identity is signed, so only sending is left."""

    peer: Peer
    claim: wire.Claim


@dataclass(frozen=True, slots=True)
class RecordController(Keyed):
    """Target: our list is being written."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class AwaitDone(Keyed):
    """Controller: the target is recorded here, but we may not be recorded there."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Finished:
    """Both sides have recorded each other."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing brings this ceremony back."""


State = (
    New
    | AwaitHello
    | AwaitCommit
    | AwaitReveal
    | AwaitDigits
    | AwaitTarget
    | AwaitController
    | AwaitConsent
    | RecordTarget
    | RecordController
    | AwaitDone
    | Finished
    | Failed
)

# Here a person acts, at this end or at the other: only the whole ceremony has an end.
PERSON_ACTS: Final = (AwaitDigits, AwaitTarget, AwaitController, AwaitConsent)


# --- answers: what the driver tells a ceremony -------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The relay has found the peer."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The person at the target typed this; it counts once."""

    digits: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Consent:
    """The person at the controller answered."""

    given: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """The list is on disk."""


@dataclass(frozen=True, slots=True)
class NotRecorded:
    """The list could not be written and is as it was."""

    error: AmeshError


Answer = Start | Typed | Consent | Recorded | NotRecorded
Event = wire.Frame | wire.Sealed | Answer


# --- actions: what a ceremony asks of its driver -----------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Give this payload to the relay."""

    payload: str


@dataclass(frozen=True, slots=True)
class ShowDigits:
    """Show the person at the controller what to type into the target."""

    digits: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AskDigits:
    """Ask the person at the target once, and answer with Typed."""


@dataclass(frozen=True, slots=True)
class SayMatched:
    """Say on the target's screen that the code matched, before anything more is sent."""


@dataclass(frozen=True, slots=True)
class AskConsent:
    """Ask the person at the controller, and answer with Consent."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Record:
    """Write `peer` to the list, and answer with Recorded or NotRecorded."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Fail:
    """Send the last words if they can still be sent, and raise the error either way."""

    last_words: str
    error: AmeshError


Action = Send | ShowDigits | AskDigits | SayMatched | AskConsent | Record | Fail
Step = tuple[State, Sequence[Action]]
