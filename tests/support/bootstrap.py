"""Tokens, the controller that makes them, and the relay's side of an announcement."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from amesh_core import provisioning
from amesh_core.admission import remember
from amesh_core.identity import DeviceKey
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.wire import relay as wire
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.encoding import b64, instant
from tests.support.bootstrap_target import SoftKey
from tests.support.cli import PATIENCE_SECONDS, AtTerminal
from tests.support.home import NOW as NOW
from tests.support.home import make_home

TTL_SECONDS: Final = 3600
END: Final = int(NOW) + TTL_SECONDS  # of a token made at NOW
NOWHERE: Final = "ws://127.0.0.1:1/ws"  # where nobody listens

CONTROLLER: Final = SoftKey()
TARGET: Final = SoftKey()


def token_of(
    controller: DeviceKey = CONTROLLER,
    *,
    relay: str = NOWHERE,
    name: str = "prod-server",
    ttl_seconds: int = TTL_SECONDS,
    now: float = NOW,
) -> str:
    """A good token, made at `now`; the controller remembers nothing."""
    return provisioning.mint(
        controller,
        name=name,
        relay=relay,
        ttl_seconds=ttl_seconds,
        now=now,
        jti_random=secrets.token_bytes(provisioning.JTI_RANDOM_BYTES),
    )


def file_of(token: str, target: DeviceKey, now: float = NOW) -> AnnounceFile:
    """The announcement of the target that holds this token."""
    claims = provisioning.accept(token, now).claims
    return AnnounceFile(
        relay_url=claims.relay,
        expires_at=instant(claims.expires_at),
        controller_public_key=claims.public_key,
        frame=provisioning.announce(token, target, "vm-7").frame(),
    )


@dataclass(frozen=True)
class Watch:
    """A controller that waits for the devices of its tokens."""

    _terminal: AtTerminal

    def hears(self, event: str) -> dict[str, Any]:
        """The next event of that kind."""
        pattern = r'(\{"event": "' + event + r'"[^}]*\})'
        return dict(json.loads(self._terminal.sees(pattern)))

    def ends(self) -> int:
        """Wait until all tokens are settled; returns the exit status."""
        return self._terminal.ends()

    @contextmanager
    def held(self) -> Iterator[None]:
        """It hears nothing and answers nothing while the block runs."""
        os.kill(self._terminal.process_id, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._terminal.process_id, signal.SIGCONT)


@dataclass(frozen=True)
class Operator:
    """A controller with a directory, and what its person does there."""

    home: Home

    @classmethod
    def at(cls, directory: Path) -> Operator:
        """A new one."""
        return cls(make_home(directory, name="laptop"))

    def provision(self, relay: str, name: str = "prod-server", **options: int) -> str:
        """A token that is good now, as `amesh provision --detach` makes one."""
        text = token_of(self.home.key(), relay=relay, name=name, now=time.time(), **options)
        provisioned.add(self.home, [remember(text, for_node=False)], time.time())
        return text

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """`amesh provision --watch --json`, once the relay hands on what is announced."""
        terminal = AtTerminal(self.home.directory, "provision", "--watch", "--json")
        try:
            terminal.sees('"event": "watching"')
            yield Watch(terminal)
        finally:
            if not terminal.has_ended:
                terminal.is_killed()

    def targets(self) -> list[str]:
        """The ids of the devices that it may call, as its list has them now."""
        return [device.device_id for device in self.home.allow_list().devices]


class HeldRelay:
    """A relay with its controller behind it: hears announcements, and answers when it is told.

    `heard` has one frame for each connection that announced something.
    """

    def __init__(self, controller: DeviceKey = CONTROLLER) -> None:
        self.heard: list[wire.BootstrapInit] = []
        self._controller = controller
        self._heard = threading.Condition()
        self._released = threading.Event()

    def release(self) -> None:
        """Acknowledge what was announced, and whatever is announced from now on."""
        self._released.set()

    def wait_for(self, count: int) -> None:
        """Until so many announcements have come."""
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.heard) >= count, PATIENCE_SECONDS)

    def serve(self, socket: ServerConnection) -> None:
        """One connection."""
        frame = wire.decode_from_device(socket.recv(timeout=PATIENCE_SECONDS))
        assert isinstance(frame, wire.BootstrapInit)
        with self._heard:
            self.heard.append(frame)
            self._heard.notify_all()
        self._released.wait(PATIENCE_SECONDS)
        public = provisioning.target_key(frame.target_public_key)
        signature = provisioning.acknowledge(self._controller, public, frame.jti)
        ack = wire.BootstrapAcked(frame.jti, b64(self._controller.public), b64(signature))
        with suppress(ConnectionClosed):  # the device has gone meanwhile
            socket.send(wire.encode(ack))
            socket.recv(timeout=PATIENCE_SECONDS)


@contextmanager
def held_relay(controller: DeviceKey = CONTROLLER) -> Iterator[tuple[str, HeldRelay]]:
    """Its URL, and what it does; in threads of this process."""
    relay = HeldRelay(controller)
    with serve(relay.serve, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws", relay
        finally:
            relay.release()
            server.shutdown()
            thread.join(PATIENCE_SECONDS)


def wait_until_gone(path: Path) -> None:
    """Until another process has removed a file."""
    end = time.monotonic() + PATIENCE_SECONDS
    gone = threading.Event()
    while path.exists():
        assert time.monotonic() < end, f"{path} is still there"
        gone.wait(0.02)
