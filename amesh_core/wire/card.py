"""The public card of a device: what one device hands another without a relay.

    {"type":"amesh-card","version":1,"deviceId","publicKey","friendlyName"}

One line of ASCII, so that it survives a chat, a clipboard and a QR code (docs/protocol.md
section 7). It is not signed: whoever can exchange a card can sign his own, so what counts is
the fingerprint that two people compare.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, load_json, unb64

TYPE: Final = "amesh-card"
VERSION: Final = 1
MAX_BYTES: Final = 4096  # a name of 64 characters, all escaped, makes about 1 000
_POINT_BYTES: Final = 33  # SEC 1 compressed


@dataclass(frozen=True, slots=True)
class Card:
    """Who a device says it is. Nothing in it is proven."""

    device_id: str
    public_key: bytes
    friendly_name: str

    @classmethod
    def parse(cls, data: bytes) -> Card:
        """Read a card; white space around it does not count.

        Raises:
            Malformed: too long, another type or version, a key more or less or twice, a
                value of another type or length.
        """
        if len(data) > MAX_BYTES:
            raise Malformed("this is too long for a card")
        match load_json(data):
            case {
                "type": "amesh-card",
                "version": int(version),
                "deviceId": str(device_id),
                "publicKey": str(public_key),
                "friendlyName": str(friendly_name),
                **rest,
            } if not rest and type(version) is int and version == VERSION:
                return cls(device_id, unb64(public_key, length=_POINT_BYTES), friendly_name)
            case {"type": "amesh-card", "version": int(version)} if version != VERSION:
                raise Malformed("this is a card of another version of amesh")
            case _:
                raise Malformed("this is no card of a device")

    def encode(self) -> str:
        """One line of ASCII."""
        return json.dumps(
            {
                "type": TYPE,
                "version": VERSION,
                "deviceId": self.device_id,
                "publicKey": b64(self.public_key),
                "friendlyName": self.friendly_name,
            },
            separators=(",", ":"),
        )
