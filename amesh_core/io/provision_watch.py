"""Wait at relays for the targets of minted tokens, and record them; docs/protocol.md section 6.

One connection for each relay, kept up until every token is settled: recorded, expired or
cancelled, here or by another process. A relay says nothing here that counts. Its refusals
are shown and the question is asked again; only an announcement that shows the token changes
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from amesh_core import admission
from amesh_core.admission import Announced
from amesh_core.allow_list import Device
from amesh_core.errors import (
    AlreadyListed,
    AmeshError,
    BadAnnouncement,
    BootstrapError,
    DeviceError,
    OwnKey,
    RelayError,
    RelayLost,
    TokenUsedTwice,
)
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.io.relay_line import CLOSE_SECONDS, Line, access_token, connected
from amesh_core.io.watch_questions import Questions
from amesh_core.provisioning import acknowledge
from amesh_core.wire import relay as wire
from amesh_core.wire.encoding import b64, parse_instant
from amesh_core.wire.provisioned import Minted

# How soon a token that another process settled, or a clock ended, is not waited for any more.
POLL_SECONDS: Final = 2.0
FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 30.0

log = logging.getLogger("amesh.pairing")


class Watcher(Protocol):
    """Who is told what happens; every method returns at once."""

    def watching(self, relay: str) -> None:
        """The relay hands on what is announced for all tokens that it let us watch."""

    def trouble(self, relay: str, error: RelayError) -> None:
        """The relay cannot be used now; it is tried again."""

    def held_up(self, minted: Minted, reason: str) -> None:
        """The relay refuses this token (an identifier, perhaps a lie); it is asked again."""

    def recorded(self, minted: Minted, device: Device, announced: Announced) -> None:
        """A target is on the list now."""

    def answered_again(self, minted: Minted, device: Device) -> None:
        """The recorded target announced itself once more: the first answer did not reach it."""

    def used_twice(self, minted: Minted, announced: Announced) -> None:
        """A second device has the token."""

    def refused(self, minted: Minted, error: AmeshError) -> None:
        """An announcement of who holds the token, or does not, changed nothing."""

    def settled(self, minted: Minted) -> None:
        """The token is not waited for any more: expired, cancelled, or recorded elsewhere."""


# What a target reads; it proves nothing there and is only shown (docs/protocol.md section 6).
_REJECTIONS: Final[dict[type[AmeshError], str]] = {
    BadAnnouncement: "bad_announcement",
    TokenUsedTwice: wire.Rejection.ALREADY_USED,
    AlreadyListed: "already_listed",
    OwnKey: "own_key",
    BootstrapError: "token_not_usable",
    AmeshError: "not_recorded",
}


async def watch(
    home: Home,
    tokens: Iterable[Minted],
    watcher: Watcher,
    *,
    clock: Callable[[], float] = time.time,
    poll_seconds: float = POLL_SECONDS,
    first_retry_seconds: float = FIRST_RETRY_SECONDS,
) -> None:
    """Record the target of each token; ends when all are settled.

    Tokens that led to an entry already are watched too: their second use is reported, and a
    target that our answer did not reach gets it again. With no other token to wait for, this
    goes on until they expire.

    Raises:
        AllowListBroken, HomeError, KeyStoreError, TokenRecordsBroken: nothing can be
            recorded. Whatever a relay does is no reason to end.
        UsageError: there is no access token to show, see `relay_line.access_token`.
    """
    by_relay: dict[str, dict[str, Minted]] = {}
    for minted in tokens:
        by_relay.setdefault(minted.relay, {})[minted.jti] = minted
    pace = _Pace(poll_seconds, first_retry_seconds)
    posts = [_Post(home, url, waiting, watcher, clock, pace) for url, waiting in by_relay.items()]
    collects = any(post.collects for post in posts)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(post.run()): post for post in posts}
            await asyncio.gather(*(t for t, post in tasks.items() if post.collects is collects))
            for task in tasks:
                task.cancel()  # where a relay has used tokens only
    except ExceptionGroup as errors:
        # What ended one post ended them all, and is one sentence for a person.
        raise errors.exceptions[0] from None


@dataclass(frozen=True, slots=True)
class _Pace:
    poll_seconds: float
    first_retry_seconds: float


@dataclass
class _Post:
    """The watch at one relay.

    `_alive` are all tokens that a device may still announce itself with: who uses one a second
    time is to be seen. `_recorded` are those whose device is on the list, `_waiting` those that
    keep us here: the others, or all when `collects` says that there are no others.
    """

    _home: Home
    _url: str
    _minted: Mapping[str, Minted]
    _watcher: Watcher
    _clock: Callable[[], float]
    _pace: _Pace
    _alive: set[str] = field(init=False)
    _recorded: set[str] = field(init=False)
    _waiting: set[str] = field(init=False)
    collects: bool = field(init=False)
    _told: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._alive = set(self._minted)
        self._recorded = {jti for jti in self._minted if self._minted[jti].recorded_at is not None}
        self._waiting = self._alive - self._recorded or set(self._alive)
        self.collects = not self._waiting <= self._recorded

    async def run(self) -> None:
        """Connect, and connect again, until nothing is waited for."""
        delay_seconds = self._pace.first_retry_seconds
        while self._look_around():
            started = time.monotonic()
            try:
                async with connected(self._url, access_token(self._home.settings)) as line:
                    await self._watch(line)
            except RelayError as error:
                # A connection that held for a while was a good one: begin again with haste.
                if time.monotonic() - started > LONGEST_RETRY_SECONDS:
                    delay_seconds = self._pace.first_retry_seconds
                self._watcher.trouble(self._url, error)
                await asyncio.sleep(min(delay_seconds, self._seconds_left()))
                delay_seconds = min(delay_seconds * 2, LONGEST_RETRY_SECONDS)

    def _look_around(self) -> bool:
        """Whether anything is still to be waited for, by the clock and by what is on disk."""
        now = self._clock()
        on_disk = {minted.jti: minted for minted in provisioned.read(self._home)}
        for jti in sorted(self._alive):
            minted = on_disk.get(jti)
            if minted is None or minted.cancelled_at is not None or minted.is_expired(now):
                self._alive.discard(jti)
            if not self.collects:
                self._waiting &= self._alive
            elif jti in self._waiting and (minted is None or not minted.is_outstanding(now)):
                self._waiting.discard(jti)
                self._watcher.settled(minted or self._minted[jti])
        return bool(self._waiting)

    def _seconds_left(self) -> float:
        """Until the first token expires, which is no time to sleep over."""
        ends = (parse_instant(self._minted[jti].expires_at) for jti in self._waiting)
        return max(0.0, min(ends, default=0.0) - self._clock())

    async def _watch(self, line: Line) -> None:
        questions = Questions()
        look_at = 0.0
        while self._waiting:
            if time.monotonic() >= look_at:
                if not self._look_around():
                    break
                # The used ones last: a relay lets us watch so many and no more.
                used = self._alive - self._waiting
                questions.look([*sorted(self._waiting), *sorted(used)])
                look_at = time.monotonic() + min(self._pace.poll_seconds, self._seconds_left())
            await questions.ask(line)
            try:
                async with asyncio.timeout(look_at - time.monotonic()):
                    frame = await line.receive()
            except TimeoutError:
                continue
            # Outside the timeout: between the list and the ack nothing is cancelled.
            await self._take(line, frame, questions)
        await self._hear_out(line)

    async def _take(self, line: Line, frame: wire.RelayFrame, questions: Questions) -> None:
        match frame:
            case wire.BootstrapWatching(jti) if questions.answered(jti):
                questions.closed.add(jti)
                questions.news |= jti in self._waiting
            case wire.BootstrapReject(jti, reason) if questions.answered(jti):
                # Asked again at the next look: our own last connection may still hold the
                # place, and no relay's word ends the wait.
                if jti not in self._waiting:
                    if reason != wire.Rejection.ALREADY_WATCHED:
                        questions.closed.add(jti)  # it is full, or hands on no second use
                elif (jti, reason) not in self._told:
                    self._told.add((jti, reason))
                    self._watcher.held_up(self._minted[jti], reason)
            case wire.BootstrapInit():
                await self._answer(line, frame)
            case _:
                raise RelayLost(f"the relay sent {type(frame).__name__} out of turn")
        if questions.news and questions.are_answered():
            questions.news = False
            self._watcher.watching(self._url)

    async def _answer(self, line: Line, frame: wire.BootstrapInit) -> None:
        """Answer one announcement: each gets one answer, in the order in which they came."""
        minted = self._minted.get(frame.jti)
        if minted is None:
            log.info("an announcement for a token that nobody asked about")
            return
        try:
            announced = admission.verify(frame, minted)
        except BadAnnouncement as error:
            log.info("announcement refused: %s", error)
            self._watcher.refused(minted, error)
            await self._reject(line, frame.jti, error)
            return
        try:
            device = provisioned.admit(self._home, announced, self._clock())
        except (BootstrapError, DeviceError) as error:
            log.info("announcement refused: %s", error)
            if isinstance(error, TokenUsedTwice):
                self._watcher.used_twice(minted, announced)
            else:
                self._watcher.refused(minted, error)
            await self._reject(line, frame.jti, error)
            return
        except AmeshError as error:
            with contextlib.suppress(RelayError):
                await self._reject(line, frame.jti, error)
            raise
        if frame.jti in self._recorded:
            self._watcher.answered_again(minted, device)
        else:
            self._recorded.add(frame.jti)
            self._waiting.discard(frame.jti)
            self._watcher.recorded(minted, device, announced)
        key = self._home.key()
        signature = acknowledge(key, announced.public_key, announced.jti)
        await line.send(wire.BootstrapAck(announced.jti, b64(key.public), b64(signature)))

    async def _reject(self, line: Line, jti: str, error: AmeshError) -> None:
        kind = next(kind for kind in type(error).__mro__ if kind in _REJECTIONS)
        await line.send(wire.BootstrapReject(jti, _REJECTIONS[kind]))

    async def _hear_out(self, line: Line) -> None:
        """Answer what was announced before the relay heard our last answer, then be done.

        A second device with the token may be among it, and its operator wants to know. The
        relay answers a repeated question in its turn, so all of it comes before that answer.
        """
        with contextlib.suppress(RelayError, TimeoutError):
            await line.send(wire.BootstrapWatch(min(self._minted)))
            deadline = time.monotonic() + CLOSE_SECONDS
            while True:
                async with asyncio.timeout(deadline - time.monotonic()):
                    frame = await line.receive()
                if not isinstance(frame, wire.BootstrapInit):
                    return
                await self._answer(line, frame)
