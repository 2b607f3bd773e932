"""A target that was given a token: it announces itself over a real socket, by the book or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from websockets.sync.client import ClientConnection, connect

from amesh_core import provisioning
from amesh_core.crypto import PrivateKey
from amesh_core.identity import DeviceKey, device_id
from amesh_core.wire import relay as wire
from amesh_core.wire import token
from amesh_core.wire.encoding import b64

_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class SoftKey:
    """A key in memory, for devices that need no directory."""

    private: PrivateKey = field(default_factory=PrivateKey.generate)

    @property
    def public(self) -> bytes:
        return self.private.public

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    def mac(self, message: bytes) -> bytes:
        raise AssertionError("nothing here is sealed")


@dataclass(frozen=True)
class TokenHolder:
    """Who holds `text`, a token, and a key."""

    text: str
    key: DeviceKey = field(default_factory=SoftKey)
    name: str = "container 7"

    @property
    def device_id(self) -> str:
        return device_id(self.key.public)

    @property
    def jti(self) -> str:
        return token.parse(self.text).claims.jti

    def init(self) -> wire.BootstrapInit:
        """The announcement of docs/protocol.md section 6."""
        return provisioning.announce(self.text, self.key, self.name).frame()

    def node_init(self) -> wire.BootstrapInit:
        """The announcement of a Node target, which proves nothing about its key."""
        return wire.BootstrapInit(self.jti, b64(self.key.public), self.name, token=self.text)

    def check(self, acked: wire.RelayFrame) -> None:
        """Insist that the controller of the token has recorded this key."""
        assert isinstance(acked, wire.BootstrapAcked), acked
        provisioning.check_acknowledgement(
            token.parse(self.text).claims.public_key,
            self.key.public,
            self.jti,
            acked.controller_public_key,
            acked.controller_sig,
        )

    def announce(self, url: str) -> wire.RelayFrame:
        """Announce over a socket of its own, once; what came back."""
        with announcing(url, self.init()) as socket:
            return hear(socket)


@contextmanager
def announcing(url: str, frame: wire.BootstrapInit) -> Iterator[ClientConnection]:
    """A socket on which `frame` was sent."""
    with connect(url, proxy=None) as socket:
        socket.send(wire.encode(frame))
        yield socket


def hear(socket: ClientConnection) -> wire.RelayFrame:
    """The next frame."""
    return wire.decode_from_relay(socket.recv(timeout=_PATIENCE_SECONDS))
