"""A controller that waits for its targets, in the event loop of a test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from amesh_core import admission, provisioning
from amesh_core.admission import Announced
from amesh_core.allow_list import Device
from amesh_core.errors import AmeshError, RelayError
from amesh_core.io import provision_watch, provisioned
from amesh_core.io.home import Home
from amesh_core.io.relay_line import connected
from amesh_core.wire import relay as wire
from amesh_core.wire.provisioned import Minted
from tests.support.bootstrap_target import TokenHolder
from tests.support.home import NOW
from tests.support.scripted_relay import Device as AtRelay

PATIENCE_SECONDS = 20
_numbers = itertools.count(1)


def given_out(
    home: Home,
    relay: str,
    *,
    name: str = "prod-server",
    ttl_seconds: int = 3600,
    for_node: bool = False,
) -> str:
    """A token that `home` minted and remembers."""
    text = provisioning.mint(
        home.key(),
        name=name,
        relay=relay,
        ttl_seconds=ttl_seconds,
        now=NOW,
        jti_random=next(_numbers).to_bytes(16),
    )
    provisioned.add(home, [admission.remember(text, for_node=for_node)], NOW)
    return text


def listed(home: Home) -> dict[str, str]:
    """Device id -> name of all on the list."""
    return {device.device_id: device.friendly_name for device in home.allow_list().devices}


@dataclass
class Told:
    """A watcher that remembers what it was told, and lets a test wait for it."""

    events: list[str] = field(default_factory=list)
    errors: list[AmeshError] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def watching(self, relay: str) -> None:
        self._tell("watching")

    def trouble(self, relay: str, error: RelayError) -> None:
        self.errors.append(error)
        self._tell("trouble")

    def held_up(self, minted: Minted, reason: str) -> None:
        self._tell(f"held up: {reason}")

    def recorded(self, minted: Minted, device: Device, announced: Announced) -> None:
        self._tell(f"recorded {device.device_id}")

    def answered_again(self, minted: Minted, device: Device) -> None:
        self._tell(f"answered again {device.device_id}")

    def used_twice(self, minted: Minted, announced: Announced) -> None:
        self._tell("used twice")

    def refused(self, minted: Minted, error: AmeshError) -> None:
        self.errors.append(error)
        self._tell(f"refused: {error.code}")

    def settled(self, minted: Minted) -> None:
        self._tell(f"settled {minted.name}")

    def _tell(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    async def hears(self, event: str, times: int = 1) -> None:
        """Wait until `event` was told so often."""
        while self.events.count(event) < times:
            self._changed.clear()
            await self._changed.wait()


@dataclass
class Clock:
    """Wall clock of the controller."""

    now: float = NOW + 60

    def __call__(self) -> float:
        return self.now


@dataclass
class Waiting:
    """A controller that waits; `task` ends when it has nothing to wait for."""

    told: Told
    task: asyncio.Task[None]

    async def ends(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), PATIENCE_SECONDS)


@asynccontextmanager
async def waiting(
    home: Home,
    *,
    tokens: Sequence[Minted] | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Waiting]:
    """`provision_watch.watch` for all tokens of `home`, in a hurry; stopped at the end."""
    told = Told()
    task = asyncio.create_task(
        provision_watch.watch(
            home,
            provisioned.read(home) if tokens is None else tokens,
            told,
            clock=clock or Clock(),
            poll_seconds=0.05,
            first_retry_seconds=0.01,
        )
    )
    try:
        yield Waiting(told, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def announce(url: str, *frames: wire.BootstrapInit) -> list[wire.RelayFrame]:
    """Send announcements over one socket, all at once; their answers, in order."""
    async with connected(url) as line:
        for frame in frames:
            await line.send(frame)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [await line.receive() for _ in frames]


def is_acked(holder: TokenHolder, answer: wire.RelayFrame) -> bool:
    """Whether `answer` is an ack; one that does not verify ends the test."""
    if isinstance(answer, wire.BootstrapAcked):
        holder.check(answer)
        return True
    return False


@dataclass
class HostileRelay:
    """Lets a controller watch and then sends `frames`, whatever anybody announced."""

    frames: list[wire.RelayFrame] = field(default_factory=list)
    heard: list[wire.DeviceFrame] = field(default_factory=list)  # but for the questions
    answers: int = 1_000_000
    connections: int = 0
    asked: list[str] = field(default_factory=list)  # the jtis, in order
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def hears(self, *frames: wire.DeviceFrame) -> None:
        """Wait for that many answers, and insist that they are these."""
        while len(self.heard) < len(frames):
            self._changed.clear()
            await self._changed.wait()
        assert tuple(self.heard) == frames

    async def run(self, device: AtRelay) -> None:
        """The script of one connection."""
        self.connections += 1
        frames = self.frames
        while True:
            heard = await device.hear()
            if not isinstance(heard, wire.BootstrapWatch):
                self.heard.append(heard)
                self._changed.set()
            elif self.answers:
                self.asked.append(heard.jti)
                self.answers -= 1
                await device.say(wire.BootstrapWatching(heard.jti), *frames)
                frames = []
