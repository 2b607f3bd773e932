"""Carry one pairing ceremony over one connection to a relay (docs/protocol.md section 5).

The machine of `amesh_core.pairing`, or of `pairing_v1` for who asked for it, decides; this
module waits and asks. Nothing here reconnects or retries once the peer is found: a relay in
the middle could otherwise repeat silently until two codes agree. Whatever waits for a person
watches the connection at the same time, so a prompt never outlives the ceremony it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from amesh_core.ceremony import (
    Action,
    Answer,
    AskConsent,
    AskDigits,
    AwaitDone,
    Consent,
    Fail,
    Finished,
    Fresh,
    NotRecorded,
    Record,
    Recorded,
    SayMatched,
    Send,
    ShowDigits,
    Typed,
)
from amesh_core.crypto import PrivateKey
from amesh_core.errors import AmeshError, RelayError, RelayLost, RelayRefused
from amesh_core.identity import DeviceKey, Identity, Peer
from amesh_core.io.relay_line import ANSWER_SECONDS, Line, connected, expect
from amesh_core.machine import Machine
from amesh_core.pairing import ControllerCeremony, TargetCeremony
from amesh_core.pairing_v1 import ControllerCeremonyV1, TargetCeremonyV1
from amesh_core.wire import relay as wire
from amesh_core.wire.encoding import instant
from amesh_core.wire.pairing import NONCE_BYTES

CODE_SECONDS: Final = 60.0  # how long a relay keeps a code that nobody comes for
CODE_TRIES: Final = 5  # with 50 000 of 900 000 codes taken, all five collide once in 2 000 000

Person = TypeVar("Person")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger("amesh.pairing")


class TargetPerson(Protocol):
    """The person at the target, as `listen` sees one. Every method may be cancelled."""

    async def code_ready(self, code: str, seconds: float) -> None:
        """Show the code, which the relay keeps for `seconds`; cancelled when that is over."""

    async def peer_found(self) -> None:
        """Somebody has typed the code."""

    async def ask_digits(self) -> str:
        """The digits that the controller shows; they count once, right or wrong."""

    async def matched(self) -> None:
        """Say that the code matched: the controller's person will be asked about it."""


class ControllerPerson(Protocol):
    """The person at the controller, as `invite` sees one. Every method may be cancelled."""

    async def peer_found(self) -> None:
        """There is a device behind the code."""

    async def show_digits(self, digits: str) -> None:
        """Show what to type into the target; returns at once."""

    async def ask_consent(self, peer: Peer) -> bool:
        """Whether the target says that the code matched. No is what silence means."""


def random_code() -> str:
    """A code; it finds the peer and protects nothing. None begins with a zero to be lost."""
    return str(100_000 + secrets.randbelow(900_000))


async def listen(
    url: str,
    *,
    identity: Identity,
    key: DeviceKey,
    person: TargetPerson,
    record: Callable[[Peer], R],
    machine: type[TargetCeremony | TargetCeremonyV1] = TargetCeremony,
    clock: Callable[[], float] = time.monotonic,
    new_code: Callable[[], str] = random_code,
    access_token: str | None = None,
) -> R:
    """Wait at the relay for one controller and pair with it; gives what `record` gave.

    `record` writes the list, at once and whole, or raises an AmeshError and has changed
    nothing. It runs on the event loop, a few milliseconds of fsync, so that nothing can be
    cancelled between the list and the message that tells the other side of it.

    Raises:
        UsageError: the URL is not a relay's.
        RelayUnreachable, RelayRefused, RelayLost: the road, before or during the ceremony.
        PairingFailed, DeviceError: the ceremony ended, and nothing is recorded.
    """
    for tries_left in reversed(range(CODE_TRIES)):
        code = new_code()
        ceremony = machine(identity, key, code, _fresh())
        # A new connection for each code: a socket serves one session for its whole life.
        async with connected(url, access_token) as line:
            try:
                await line.ask(wire.Listen(code), wire.Ack())
            except RelayRefused as error:
                if error.relay_code != wire.ErrorCode.OTC_IN_USE or not tries_left:
                    raise
                continue
            await _wait_for_peer(line, person, code)
            return await _TargetDriver(ceremony, line, person, record, clock).run()
    raise AssertionError("the last try returns or raises")


async def invite(
    url: str,
    code: str,
    *,
    identity: Identity,
    key: DeviceKey,
    person: ControllerPerson,
    record: Callable[[Peer], R],
    machine: type[ControllerCeremony | ControllerCeremonyV1] = ControllerCeremony,
    clock: Callable[[], float] = time.monotonic,
    access_token: str | None = None,
) -> R:
    """Meet the target that waits under `code` and pair with it; gives what `record` gave.

    `record` is as in `listen`. Both sides take their `machine` from one generation of pairing.

    Raises:
        UsageError: the URL is not a relay's, or the code not six digits.
        RelayUnreachable, RelayRefused, RelayLost, PairingFailed, DeviceError: as `listen`.
        NotConfirmed: the target is recorded here but never said that it is done.
    """
    ceremony = machine(identity, key, code, _fresh())
    async with connected(url, access_token) as line:
        await line.ask(wire.Connect(code), wire.PeerFound())
        await person.peer_found()
        return await _ControllerDriver(ceremony, line, person, record, clock).run()


def _fresh() -> Fresh:
    return Fresh(PrivateKey.generate(), secrets.token_bytes(NONCE_BYTES), instant(time.time()))


async def _wait_for_peer(line: Line, person: TargetPerson, code: str) -> None:
    # The relay says when a code is over; the limit here is for one that says nothing.
    silence_seconds = CODE_SECONDS + ANSWER_SECONDS
    async with _together(line.receive(), person.code_ready(code, CODE_SECONDS)) as tasks:
        hearing, showing = tasks
        await asyncio.wait(tasks, timeout=silence_seconds, return_when=asyncio.FIRST_COMPLETED)
        if showing.done() and not hearing.done():
            showing.result()
            await asyncio.wait({hearing}, timeout=silence_seconds)
        if not hearing.done():
            raise RelayRefused(wire.ErrorCode.OTC_EXPIRED)
        expect(hearing.result(), wire.PeerFound())
    await person.peer_found()


@contextlib.asynccontextmanager
async def _together(
    first: Coroutine[Any, Any, S], second: Coroutine[Any, Any, T]
) -> AsyncIterator[tuple[asyncio.Task[S], asyncio.Task[T]]]:
    """Run both as tasks; neither outlives the block, whatever ends it."""
    tasks = asyncio.create_task(first), asyncio.create_task(second)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Driver(ABC, Generic[Person, R]):
    """Performs what a ceremony asks for, in order, until it is over."""

    _ceremony: Machine[Any, Any]
    _line: Line
    _person: Person
    _record: Callable[[Peer], R]
    _clock: Callable[[], float]
    _recorded: R = field(init=False)

    async def run(self) -> R:
        """Carry the ceremony to its end."""
        try:
            await self._carry()
            await self._line.close()
        except RelayError as error:
            # Finished: recorded on both sides. That the other one could not be told is for
            # it to say; here there is nothing to repeat and nothing to take back.
            if not isinstance(self._ceremony.state, Finished):
                self._ceremony.stop(error)
        except asyncio.CancelledError:
            match self._ceremony.state:
                case Finished():
                    log.info("interrupted after the end")
                case AwaitDone():
                    # The list holds the target, and "interrupted" would not say so.
                    self._ceremony.stop(RelayLost("interrupted on this side"))
                case _ if self._ceremony.peer_is_done:
                    self._ceremony.stop(RelayLost("interrupted on this side"))
                case _:
                    raise
        return self._recorded

    async def _carry(self) -> None:
        actions = deque(self._ceremony.start(self._clock()))
        while actions or not isinstance(self._ceremony.state, Finished):
            if not actions:
                payload = await self._payload()
                actions.extend(self._ceremony.receive(payload, self._clock()))
            elif (answer := await self._perform(actions.popleft())) is not None:
                actions.extend(self._ceremony.tell(answer, self._clock()))

    async def _perform(self, action: Action) -> Answer | None:
        match action:
            case Send(payload):
                await self._send(payload)
            case Record(peer):
                try:
                    self._recorded = self._record(peer)
                except AmeshError as error:
                    return NotRecorded(error)
                return Recorded()
            case Fail(last_words, error):
                with contextlib.suppress(RelayError):
                    await self._send(last_words)
                raise error
            case _:
                return await self._consult(action)
        return None

    @abstractmethod
    async def _consult(self, action: Action) -> Answer | None:
        """Perform what involves the person."""

    async def _send(self, payload: str) -> None:
        # Whole, even when interrupted: the list that this message tells of is written.
        sending = asyncio.ensure_future(self._line.send(wire.Data(payload)))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait({sending})
            raise

    async def _payload(self) -> str:
        try:
            async with asyncio.timeout(self._ceremony.deadline - self._clock()):
                return await self._line.payload()
        except TimeoutError:
            self._ceremony.expire()

    async def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Wait for a person, and end the question with the ceremony."""
        if self._ceremony.peer_is_done:  # it may hang up, and nothing of it is due
            try:
                async with asyncio.timeout(self._ceremony.deadline - self._clock()):
                    return await question
            except TimeoutError:
                self._ceremony.expire()
        async with _together(self._line.payload(), question) as (hearing, asking):
            await asyncio.wait(
                {hearing, asking},
                timeout=self._ceremony.deadline - self._clock(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if hearing.done():
                self._out_of_turn(hearing.result())
            if not asking.done():
                self._ceremony.expire()
            return asking.result()

    def _out_of_turn(self, payload: str) -> NoReturn:
        self._ceremony.receive(payload, self._clock())
        raise AssertionError("no message is due while a person is asked")


class _TargetDriver(_Driver[TargetPerson, R]):
    async def _carry(self) -> None:
        await super()._carry()
        # The last word was ours, so we are the side that knows when the session is over.
        await self._line.send(wire.Done())

    async def _consult(self, action: Action) -> Answer | None:
        match action:
            case AskDigits():
                return Typed(await self._ask(self._person.ask_digits()))
            case SayMatched():
                await self._person.matched()
                return None
            case _:
                raise AssertionError(f"{type(action).__name__} is not for a target")


class _ControllerDriver(_Driver[ControllerPerson, R]):
    async def _consult(self, action: Action) -> Answer | None:
        match action:
            case ShowDigits(digits):
                await self._person.show_digits(digits)
                return None
            case AskConsent(peer):
                return Consent(await self._ask(self._person.ask_consent(peer)))
            case _:
                raise AssertionError(f"{type(action).__name__} is not for a controller")
