"""Pairing version 1, as the Node.js devices speak it: only to be attacked.

docs/protocol.md section 5, "v1 pairing". Two parties with the screens of
`tests.support.ceremony.Side`, so that the same people and the same attacker can meet both.
Checked against tests/vectors/handshake.json.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from amesh_core import crypto
from amesh_core.crypto import PrivateKey
from amesh_core.identity import Peer, Role, device_id
from tests.support.ceremony import ISSUED_AT, Device, stretch

CONFIRMED = "sas_confirmed"
REJECTED = "sas_rejected"


def session_key(secret: bytes) -> bytes:
    return crypto.hkdf(secret, salt=b"amesh-handshake-v1", info=b"session-key")


def digits_source(target_public: bytes, controller_public: bytes, secret: bytes) -> bytes:
    """The three bytes that the digits are made of: the only thing the people compare."""
    return hashlib.sha256(target_public + controller_public + secret).digest()[:3]


def digits_of(source: bytes) -> str:
    return f"{int.from_bytes(source, 'big') % 1_000_000:06d}"


def self_signed_message(public_b64: str, name: str, timestamp: str) -> bytes:
    return (public_b64 + name + timestamp).encode()


def introduce(device: Device, key: bytes, nonce: bytes) -> str:
    """The frame in which a device says who it is."""
    public = b64encode(device.key.public).decode()
    signed = self_signed_message(public, device.identity.friendly_name, ISSUED_AT)
    identity = {
        "publicKey": public,
        "friendlyName": device.identity.friendly_name,
        "timestamp": ISSUED_AT,
        "selfSig": b64encode(device.key.sign(signed)).decode(),
    }
    plaintext = json.dumps(identity, separators=(",", ":")).encode()
    return b64encode(nonce + crypto.seal_box(key, nonce, plaintext, b"")).decode()


def read_introduction(frame: str, key: bytes) -> tuple[bytes, str]:
    """The key and name in such a frame, its own signature checked."""
    raw = b64decode(frame, validate=True)
    identity = json.loads(crypto.open_box(key, raw[:12], raw[12:], b""))
    public = b64decode(identity["publicKey"], validate=True)
    signed = self_signed_message(
        identity["publicKey"], identity["friendlyName"], identity["timestamp"]
    )
    crypto.verify(public, b64decode(identity["selfSig"], validate=True), signed)
    return public, identity["friendlyName"]


@dataclass
class V1Side:
    """What both sides of version 1 have."""

    device: Device
    seed: str
    outbox: deque[str] = field(default_factory=deque)
    recorded: list[Peer] = field(default_factory=list)
    digits: str | None = None
    asks_digits: bool = False
    says_matched: bool = False
    asks_about: Peer | None = None
    secret: bytes = b""
    peer: Peer | None = None

    theirs: ClassVar[Role]

    def __post_init__(self) -> None:
        self.ephemeral = PrivateKey.from_scalar(stretch(f"v1 {self.theirs} {self.seed}"))

    @property
    def key(self) -> bytes:
        return session_key(self.secret)

    def send_key(self) -> None:
        self.outbox.append(b64encode(self.ephemeral.public).decode())

    def send_identity(self) -> None:
        nonce = stretch(f"v1 box {self.theirs} {self.seed}")[:12]
        self.outbox.append(introduce(self.device, self.key, nonce))

    def meet(self, frame: str) -> Peer:
        public, name = read_introduction(frame, self.key)
        self.peer = Peer(device_id(public), public, name, self.theirs)
        return self.peer

    def answer(self, *, yes: bool) -> None:
        raise AssertionError("version 1 asks nobody on the controller")


class V1Target(V1Side):
    theirs = Role.CONTROLLER

    def start(self) -> None:
        self.send_key()

    def hear(self, payload: str) -> None:
        if not self.secret:
            self.secret = self.ephemeral.agree(b64decode(payload, validate=True))
            return
        self.meet(payload)
        self.send_identity()
        self.asks_digits = True

    def wanted(self) -> str:
        assert self.peer is not None
        return digits_of(digits_source(self.device.key.public, self.peer.public_key, self.secret))

    def type(self, digits: str) -> None:
        self.asks_digits = False
        if digits != self.wanted():
            self.outbox.append(REJECTED)
            return
        self.says_matched = True
        assert self.peer is not None
        self.recorded.append(self.peer)
        self.outbox.append(CONFIRMED)


class V1Controller(V1Side):
    theirs = Role.TARGET

    def start(self) -> None:
        pass

    def hear(self, payload: str) -> None:
        if not self.secret:
            self.secret = self.ephemeral.agree(b64decode(payload, validate=True))
            self.send_key()
            self.send_identity()
        elif self.peer is None:
            peer = self.meet(payload)
            self.digits = digits_of(
                digits_source(peer.public_key, self.device.key.public, self.secret)
            )
        elif payload == CONFIRMED:
            self.recorded.append(self.peer)
