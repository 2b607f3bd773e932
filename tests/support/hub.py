"""A relay without sockets: a hub, its clients, and what each of them was sent."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import ip_address
from itertools import count

from amesh_core.wire import relay as wire
from amesh_relay.addresses import client_of
from amesh_relay.hub import Hub
from amesh_relay.limits import Limits
from amesh_relay.roles import Deliver, Effect, Hangup

JTI = "bt_0123456789abcdef0123456789abcdef"
ROOMY = Limits(
    max_connections=1000,
    max_connections_per_address=1000,
    max_sessions=1000,
    max_sessions_per_address=1000,
)


class House:
    """Drives a Hub; time stands still unless `now` is moved."""

    def __init__(self, limits: Limits = ROOMY) -> None:
        self.hub = Hub(limits)
        self.now = 1000.0
        self.sent: defaultdict[int, list[wire.RelayFrame]] = defaultdict(list)
        self.closed: dict[int, int] = {}
        self.told: list[Effect] = []  # what other relays are to know
        self._numbers = count(1)
        self._here: set[int] = set()

    def open(self, address: str = "192.0.2.1") -> int:
        """A client connects; returns the number of its connection."""
        self.wait(0)
        number = next(self._numbers)
        self._here.add(number)
        self.perform(self.hub.connect(number, client_of(ip_address(address)), self.now))
        return number

    def say(self, number: int, frame: wire.DeviceFrame) -> list[Deliver | Hangup]:
        """A client sends a frame; returns all that the hub did about it."""
        self.wait(0)
        return self.perform(self.hub.receive(number, frame, self.now))

    def leave(self, number: int) -> list[Deliver | Hangup]:
        """A client's connection is gone."""
        self.wait(0)
        self._here.discard(number)
        return self.perform(self.hub.disconnect(number, self.now))

    def wait(self, seconds: float) -> list[Deliver | Hangup]:
        """Time passes, and the relay looks at its clock."""
        self.now += seconds
        return self.perform(self.hub.tick(self.now))

    def perform(self, effects: list[Effect]) -> list[Deliver | Hangup]:
        """Record effects as a client would see them; returns those that clients see."""
        seen = [effect for effect in effects if isinstance(effect, Deliver | Hangup)]
        self.told += [effect for effect in effects if not isinstance(effect, Deliver | Hangup)]
        for effect in seen:
            assert effect.to not in self.closed, "spoken to after it was hung up on"
            assert effect.to in self._here, "spoken to after it left"
            match effect:
                case Deliver(number, frame):
                    self.sent[number].append(frame)
                case Hangup(number, code):
                    self.closed[number] = code
        return [*seen]

    def take(self, number: int) -> list[wire.RelayFrame]:
        """What a client was sent since it was last asked."""
        return self.sent.pop(number, [])

    def listening(self, otc: str = "482916", address: str = "192.0.2.1") -> int:
        """A target that waits under `otc`."""
        number = self.open(address)
        self.say(number, wire.Listen(otc))
        assert self.take(number) == [wire.Ack()]
        return number

    def session(self, otc: str = "482916") -> tuple[int, int]:
        """A target and a controller that met."""
        target, controller = self.listening(otc), self.open()
        self.say(controller, wire.Connect(otc))
        assert self.take(target) == self.take(controller) == [wire.PeerFound()]
        return target, controller

    def watching(self, jti: str = JTI) -> int:
        """A controller that watches `jti`."""
        number = self.open()
        self.say(number, wire.BootstrapWatch(jti))
        assert self.take(number) == [wire.BootstrapWatching(jti)]
        return number

    def guess(self, otc: str, address: str = "192.0.2.1") -> list[wire.RelayFrame]:
        """A client that connects, tries one code, and goes; what it was told."""
        number = self.open(address)
        self.say(number, wire.Connect(otc))
        answer = self.take(number)
        self.leave(number)
        return answer


def rows(thing: object) -> int:
    """How many entries all tables of a hub have, however deep."""
    if isinstance(thing, dict):
        return len(thing)
    return sum(map(rows, vars(thing).values())) if hasattr(thing, "__dict__") else 0


def error(code: str) -> wire.RelayErrorFrame:
    """Short for a frame with an error code."""
    assert code in wire.ERROR_CODES
    return wire.RelayErrorFrame(code)
