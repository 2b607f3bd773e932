"""What every pairing machine has: deadlines, and a first error that is the last.

docs/protocol.md section 5; `pairing` and `pairing_v1` have the tables. A machine takes
payloads and answers, and gives the actions its driver has to perform, in order. Randomness
is handed in and `now` is any monotonic clock in seconds.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Generic, NoReturn, TypeVar

from amesh_core.ceremony import (
    Action,
    Answer,
    Failed,
    Finished,
    Fresh,
    New,
    NotRecorded,
    Recorded,
    Start,
)
from amesh_core.errors import AmeshError, BadMessage, Malformed, PairingExpired, UsageError
from amesh_core.identity import DeviceKey, Identity, Role, check_name

FRAME_SECONDS: Final = 30.0  # for a machine to answer
CEREMONY_SECONDS: Final = 300.0  # for everything, people included

S = TypeVar("S")
E = TypeVar("E")

log = logging.getLogger("amesh.pairing")


class Machine(ABC, Generic[S, E]):
    """One side of one ceremony; `S` are the states of its own, `E` what it hears."""

    role: ClassVar[Role]
    # Here a person acts, at this end or at the other: only the whole ceremony has an end.
    person_acts: ClassVar[tuple[type, ...]]

    def __init__(self, identity: Identity, key: DeviceKey, code: str, fresh: Fresh) -> None:
        """A ceremony for one meeting under `code`, six digits.

        Raises:
            UsageError: a code of another form, or a name of ours no other device accepts.
        """
        self.state: S | New | Finished | Failed = New()
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

    @property
    def peer_is_done(self) -> bool:
        """Whether the peer has said its last word, so that its going away means nothing."""
        return False

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
            before, event = (
                self._read(state, outside) if isinstance(outside, str) else (state, outside)
            )
            after, actions = self._step(before, event)
        except Malformed as error:
            self._end(state, BadMessage(f"the other side sent {error}"))
        except AmeshError as error:
            self._end(state, error)
        self.state = after
        self._frame_ends_at = (
            self._ends_at if isinstance(after, self.person_acts) else now + FRAME_SECONDS
        )
        log.debug("%s: %s in %s", self.role, type(event).__name__, type(state).__name__)
        return actions

    def _end(self, state: S | New | Finished | Failed, error: AmeshError) -> NoReturn:
        log.info("%s: %s ends it in %s", self.role, error.code, type(state).__name__)
        outcome = self._outcome(state, error)
        if outcome is not error:
            raise outcome from error
        raise error

    @abstractmethod
    def _outcome(self, state: S | New | Finished | Failed, error: AmeshError) -> AmeshError:
        """What an error means that comes in this state: itself, or that one side is left alone."""

    @abstractmethod
    def _read(
        self, state: S | New | Finished | Failed, payload: str
    ) -> tuple[S | New | Finished | Failed, E]:
        """What came from the relay as one event, and the state it comes into."""

    @abstractmethod
    def _step(
        self, state: S | New | Finished | Failed, event: E | Answer
    ) -> tuple[S | New | Finished | Failed, Sequence[Action]]:
        """The table of this side."""

    def _expired(self) -> PairingExpired:
        if self._frame_ends_at < self._ends_at:
            return PairingExpired(f"the other device was silent for {FRAME_SECONDS:.0f} s")
        return PairingExpired(f"the pairing took longer than {CEREMONY_SECONDS / 60:.0f} minutes")


def check_code(text: str) -> str:
    """Return `text` if it is a code: six ASCII digits.

    Raises:
        UsageError: it is not.
    """
    if not re.fullmatch("[0-9]{6}", text):
        raise UsageError("a code is six digits")
    return text
