"""Relays in one process that share a state made of dictionaries, and letters carried by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

from websockets.datastructures import Headers
from websockets.http11 import Request

from amesh_core.wire import relay as wire
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.cluster import Cluster
from amesh_relay.config import Config
from amesh_relay.connection import Connection
from amesh_relay.roles import Burned, Freed, Unwatched
from amesh_relay.server import Relay
from amesh_relay.state import Denied, Granted, Letter, Mailbox, Unknown, Verdict
from tests.support.hub import ROOMY

# What happens to a letter: what arrives in its place, given what waits to arrive after it.
Fate = Callable[["Town", str, Letter], None]


class Device(Connection):
    """A connection without a socket: what it is sent is kept."""

    def __init__(self, place: Place, number: int) -> None:
        super().__init__(place.relay, number)
        self.place = place
        self.heard: list[wire.RelayFrame] = []
        self.close_code: int | None = None
        self.is_reading = True
        self.is_cut = False

    @property
    def is_open(self) -> bool:
        return self.close_code is None

    def send(self, text: str) -> None:
        if self.is_open:
            self.heard.append(wire.decode_from_relay(text))

    def close(self, code: int) -> None:
        if self.is_open:
            self.close_code = code

    def abort(self) -> None:
        self.is_cut = True

    def ping(self) -> None:
        """It is always there."""

    def flush(self) -> None:
        """Nothing is kept back."""

    def say(self, *frames: wire.DeviceFrame | str | bytes) -> None:
        """It sends these in one piece."""
        for frame in frames:
            message = frame if isinstance(frame, str | bytes) else wire.encode(frame)
            self.place.relay.receive(self, message)

    def leave(self) -> None:
        """Its socket is closed."""
        self.place.devices.remove(self)
        self.place.relay.leave(self)

    def _stop_reading(self) -> None:
        self.is_reading = False

    def _read_on(self) -> None:
        self.is_reading = True


class State:
    """One relay's view of a `Town`; a `SharedState`."""

    is_available = True
    is_crowded = False

    def __init__(self, town: Town, node: str) -> None:
        self.town = town
        self.node = node

    async def run(self, mailbox: Mailbox) -> None:
        raise NotImplementedError

    async def listen(self, otc: str, client: bytes, *, again: bool = False) -> Verdict:
        def answer() -> Verdict:
            owner, _ = self.town.codes.get(otc, (self.node, ""))
            if otc in self.town.codes and not (again and owner == self.node):
                return Denied(ErrorCode.OTC_IN_USE)
            self.town.codes[otc] = (self.node, "waiting")
            return Granted(self.node)

        return await self.town.asked(answer)

    async def connect(self, otc: str, client: bytes) -> Verdict:
        def answer() -> Verdict:
            owner, what = self.town.codes.get(otc, ("", ""))
            if not owner:
                return Denied(ErrorCode.OTC_NOT_FOUND)
            if what == "used":
                return Denied(ErrorCode.PEER_ALREADY_CONNECTED)
            self.town.codes[otc] = (owner, "used")
            return Granted(owner)

        return await self.town.asked(answer)

    async def watch(self, jti: str) -> Verdict:
        def answer() -> Verdict:
            if self.town.watches.setdefault(jti, self.node) != self.node:
                return Denied(Rejection.ALREADY_WATCHED)
            return Granted(self.node)

        return await self.town.asked(answer)

    async def announce(self, jti: str) -> Verdict:
        def answer() -> Verdict:
            if jti in self.town.watches:
                return Granted(self.town.watches[jti])
            return Denied(Rejection.NO_WATCHER)

        return await self.town.asked(answer)

    def tell(self, news: Freed | Unwatched | Burned) -> None:
        match news:
            case Freed(otc) if self.town.codes.get(otc, ("",))[0] == self.node:
                del self.town.codes[otc]
            case Unwatched(jti) if self.town.watches.get(jti) == self.node:
                del self.town.watches[jti]
            case Burned(jti):
                self.town.burned.add(jti)

    def send(self, node: str, letter: Letter) -> None:
        self.town.mail.append((node, letter))


class Place:
    """A relay, what it shares, and the devices at it."""

    def __init__(self, town: Town, node: str) -> None:
        self.state = State(town, node)
        self.relay = Relay(Config(limits=ROOMY), lambda: town.now, self.state)
        self.devices: list[Device] = []

    @property
    def cluster(self) -> Cluster:
        """Its part that speaks to others."""
        cluster = self.relay._cluster
        assert cluster is not None
        return cluster

    def open(self) -> Device:
        """A device connects."""
        device = Device(self, self.relay.number())
        self.devices.append(device)
        self.relay.open(device, Request("/ws", Headers()))
        return device


class Town:
    """Relays that share codes and tokens; time stands still unless `wait` moves it."""

    def __init__(self, fate: Fate | None = None) -> None:
        self.now = 1000.0
        self.codes: dict[str, tuple[str, str]] = {}
        self.watches: dict[str, str] = {}
        self.burned: set[str] = set()
        self.mail: deque[tuple[str, Letter]] = deque()
        self.carried: list[Letter] = []
        self.gate = asyncio.Event()  # questions are answered while it is set
        self.gate.set()
        self.knows_nothing = False
        self._fate = fate
        self._numbers = count()
        self.places: dict[str, Place] = {}

    def place(self, node: str) -> Place:
        """One more relay."""
        self.places[node] = Place(self, node)
        return self.places[node]

    async def asked(self, answer: Callable[[], Verdict]) -> Verdict:
        """Decide now, and let the answer wait at the gate."""
        verdict = Unknown() if self.knows_nothing else answer()
        await self.gate.wait()
        return verdict

    def arrive(self, node: str, letter: Letter) -> None:
        """A letter is there."""
        if node in self.places:
            self.places[node].cluster.take(letter)

    async def rest(self) -> None:
        """Until nothing happens any more: questions are answered, letters are there."""
        await self._turn()
        while self.mail:
            node, letter = self.mail.popleft()
            self.carried.append(letter)
            if self._fate is None:
                self.arrive(node, letter)
            else:
                self._fate(self, node, letter)
            await self._turn()

    async def _turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        # A device that is told the end agrees to it.
        for place in self.places.values():
            for device in [device for device in place.devices if not device.is_open]:
                device.leave()

    async def wait(self, seconds: int) -> None:
        """Time passes, and the relays look at their clocks."""
        for _ in range(seconds):
            self.now += 1
            for place in self.places.values():
                place.relay.tick()
            await self.rest()

    def is_empty(self) -> bool:
        """Whether no relay remembers a session, a guest, or a question."""
        return not any(
            place.relay.sessions
            or place.cluster.guests_elsewhere
            or place.cluster.correspondents()
            or place.cluster._asking
            for place in self.places.values()
        )
