"""What the keychain and the Secure Enclave back ends keep; docs/protocol.md section 2.2."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, unb64
from amesh_core.wire.fields import Fields, pretty

VERSION: Final = "1"

_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeychainItem:
    """The text of one item: the secrets that belong to one public key.

    `scalar` is the private key; None where hardware has it. `hmac_secret` is None for a key
    whose allow list was sealed by Node, with a secret in a file of its own.
    """

    public_key: bytes
    scalar: bytes | None = field(repr=False)
    hmac_secret: bytes | None = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> KeychainItem:
        """Read the text.

        Raises:
            Malformed: not JSON, a key missing or of another form, another version.
        """
        fields = Fields(text.encode("utf-8", "surrogatepass"))
        fields.constant("version", VERSION)
        return cls(
            unb64(fields.text("publicKey"), length=_PUBLIC_KEY_BYTES),
            _optional(fields, "privateScalar"),
            _optional(fields, "hmacSecret"),
        )

    def encode(self) -> str:
        """Write the text, in one line."""
        item: dict[str, Any] = {"version": VERSION, "publicKey": b64(self.public_key)}
        if self.scalar is not None:
            item["privateScalar"] = b64(self.scalar)
        if self.hmac_secret is not None:
            item["hmacSecret"] = b64(self.hmac_secret)
        return json.dumps(item)


@dataclass(frozen=True, slots=True)
class EnclaveFile:
    """keys/<alias>.enclave.json: a key that only the enclave which wrapped it can use."""

    public_key: bytes
    token_object: bytes

    @classmethod
    def parse(cls, data: bytes) -> EnclaveFile:
        """Read the file.

        Raises:
            Malformed: not JSON, a key missing or of another form, another version.
        """
        fields = Fields(data)
        fields.constant("version", VERSION)
        token_object = unb64(fields.text("tokenObject"))
        # An empty one would be as none: the framework makes a new key for it, silently.
        if not token_object:
            raise Malformed("an empty tokenObject")
        return cls(unb64(fields.text("publicKey"), length=_PUBLIC_KEY_BYTES), token_object)

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            {
                "version": VERSION,
                "publicKey": b64(self.public_key),
                "tokenObject": b64(self.token_object),
            }
        )


def _optional(fields: Fields, key: str) -> bytes | None:
    return unb64(fields.text(key), length=_SECRET_BYTES) if key in fields else None
