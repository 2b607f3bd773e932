"""A Node.js device at a relay, by the formulas of tests/vectors/handshake.json.

What it is and says is `tests.support.pairing_v1`; this gives it a socket. It behaves as the
session in the vectors does: the target's last word is `sas_confirmed`, and it hangs up.
"""

from __future__ import annotations

from contextlib import ExitStack

from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from tests.support.ceremony import CODE, Device
from tests.support.pairing_v1 import V1Controller, V1Target

_PATIENCE_SECONDS = 30


class AtRelay:
    """One Node device, connected."""

    def __init__(self, url: str, side: V1Target | V1Controller) -> None:
        self._side = side
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(url, proxy=None))

    def hear(self) -> wire.RelayFrame:
        """The relay's next frame."""
        return wire.decode_from_relay(self._socket.recv(timeout=_PATIENCE_SECONDS))

    def say(self, frame: wire.DeviceFrame) -> None:
        """A frame to the relay."""
        self._socket.send(wire.encode(frame))

    def take(self) -> str:
        """One payload to the device; returns it."""
        frame = self.hear()
        assert isinstance(frame, wire.Data), frame
        self._side.hear(frame.payload)
        return frame.payload

    def give(self) -> None:
        """All that the device wants to say."""
        while self._side.outbox:
            self.say(wire.Data(self._side.outbox.popleft()))

    def hang_up(self) -> None:
        """The end, as Node's."""
        self._open.close()


class NodeTarget:
    """`amesh listen` on a Node device."""

    def __init__(self, url: str, device: Device, code: str = CODE) -> None:
        self.side = V1Target(device, "node")
        self.line = AtRelay(url, self.side)
        self.line.say(wire.Listen(code))
        assert self.line.hear() == wire.Ack()

    def meet(self) -> None:
        """Up to its question for the digits."""
        assert self.line.hear() == wire.PeerFound()
        self.side.start()
        self.line.give()
        self.line.take()
        self.line.take()
        self.line.give()
        assert self.side.asks_digits

    def type(self, digits: str) -> None:
        """Its person types; then it hangs up."""
        self.side.type(digits)
        self.line.give()
        self.line.hang_up()


class NodeController:
    """`amesh invite` on a Node device."""

    def __init__(self, url: str, device: Device, code: str) -> None:
        self.side = V1Controller(device, "node")
        self.line = AtRelay(url, self.side)
        self.line.say(wire.Connect(code))
        assert self.line.hear() == wire.PeerFound()

    def meet(self) -> str:
        """Up to the digits on its screen; returns them."""
        self.line.take()
        self.line.give()
        self.line.take()
        assert self.side.digits is not None
        return self.side.digits

    def finish(self) -> str:
        """What the target said of them; records if they were confirmed."""
        verdict = self.line.take()
        self.line.hang_up()
        return verdict
