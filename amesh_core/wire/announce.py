"""announce.json: what a device made from a token still has to tell its controller.

docs/protocol.md section 6. The frame is finished, so neither the token nor the private key is
needed to send it, and neither is in the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from amesh_core.errors import Malformed
from amesh_core.wire import relay
from amesh_core.wire.encoding import b64, parse_instant, unb64
from amesh_core.wire.fields import Fields, pretty
from amesh_core.wire.files import FORMAT_VERSION
from amesh_core.wire.relay_url import check_relay_url

_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point


@dataclass(frozen=True, slots=True)
class AnnounceFile:
    """The finished frame, the relay it goes to, until when, and whose answer ends the attempts.

    `expires_at` is the end of the token, as every time in our files is written.
    """

    relay_url: str
    expires_at: str
    controller_public_key: bytes
    frame: relay.BootstrapInit = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> AnnounceFile:
        """Read the file.

        Raises:
            Malformed: not JSON, a key missing, unknown or of another type, another version, a
                frame that is not a whole announcement or that holds a token.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        file = cls(
            relay_url=check_relay_url(fields.text("relay")),
            expires_at=fields.instant("expiresAt"),
            controller_public_key=unb64(
                fields.text("controllerPublicKey"), length=_PUBLIC_KEY_BYTES
            ),
            frame=_frame(fields.value("frame")),
        )
        if fields.rest():
            raise Malformed("a key that an announcement does not have")
        return file

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            {
                "version": FORMAT_VERSION,
                "relay": self.relay_url,
                "expiresAt": self.expires_at,
                "controllerPublicKey": b64(self.controller_public_key),
                "frame": _json(self.frame),
            }
        )

    def is_expired(self, now: float) -> bool:
        """Whether the token has ended by `now` (Unix seconds), and the attempts with it."""
        return now >= parse_instant(self.expires_at)


def _json(frame: relay.BootstrapInit) -> Any:
    return json.loads(relay.encode(frame))


def _frame(value: object) -> relay.BootstrapInit:
    match relay.decode_from_device(json.dumps(value)):
        # A relay drops what a frame does not know; a file has nothing that could be dropped.
        case relay.BootstrapInit(_, _, str(), str(), str(), None) as frame if _json(frame) == value:
            return frame
        case _:
            raise Malformed("the frame is not a whole announcement")
