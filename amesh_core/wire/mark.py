"""keys/<alias>.newest.json: the newest allow list remembered; docs/protocol.md section 2.6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, unb64
from amesh_core.wire.fields import Fields, pretty
from amesh_core.wire.files import FORMAT_VERSION

# The seal's key also seals allow lists, which are JSON objects: no object begins like this.
_DOMAIN: Final = b"amesh-newest/1\0"
_SEAL_BYTES: Final = 32  # HMAC-SHA256


@dataclass(frozen=True, slots=True)
class MarkFile:
    """A mark before anybody has checked its seal; `updated_at` is that of an allow list."""

    updated_at: str
    seal: bytes

    @classmethod
    def parse(cls, data: bytes) -> MarkFile:
        """Read the file.

        Raises:
            Malformed: not JSON, a key missing, unknown or of another form, another version.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        file = cls(fields.instant("updatedAt"), unb64(fields.text("hmac"), length=_SEAL_BYTES))
        if fields.rest():
            raise Malformed("a key that no seal covers")
        return file

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            {"version": FORMAT_VERSION, "updatedAt": self.updated_at, "hmac": b64(self.seal)}
        )


def sealed_bytes(updated_at: str) -> bytes:
    """What the seal of a mark covers."""
    return _DOMAIN + updated_at.encode("ascii")
