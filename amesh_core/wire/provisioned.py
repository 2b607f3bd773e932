"""provisioned.json: the bootstrap tokens that a controller minted (docs/protocol.md section 6).

    {"version","tokens":[{"jti","tokenHash","name","relay","mintedAt","expiresAt","forNode",
                          "cancelledAt"?,"usedBy"?,"recordedAt"?}],"hmac"}

Never a token: its hash recognises one and makes none. The seal is of the same kind as that
of allow_list.json, because who could plant a hash here could plant a device there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, canonical_json, parse_instant, unb64
from amesh_core.wire.fields import Fields, pretty
from amesh_core.wire.files import FORMAT_VERSION
from amesh_core.wire.token import check_jti

_HASH_BYTES: Final = 32  # SHA-256
_SEAL_BYTES: Final = 32  # HMAC-SHA256
_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point


@dataclass(frozen=True, slots=True)
class Minted:
    """One token as its controller remembers it; times are texts as in the other files.

    `used_by` is the key that announced itself first, `recorded_at` when the allow list had
    it. `for_node` allows the form of announcement that proves nothing about the key. `extra`
    holds the keys we do not know; they are kept, and are under the seal.
    """

    jti: str
    token_hash: bytes = field(repr=False)
    name: str
    relay: str
    minted_at: str
    expires_at: str
    for_node: bool = False
    cancelled_at: str | None = None
    used_by: bytes | None = None
    recorded_at: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Minted:
        """Read one entry.

        Raises:
            Malformed: a key missing, or a value of another form.
        """
        match entry:
            case {
                "jti": str(jti),
                "tokenHash": str(token_hash),
                "name": str(name),
                "relay": str(relay),
                "mintedAt": str(minted_at),
                "expiresAt": str(expires_at),
                "forNode": bool(for_node),
                **extra,
            }:
                pass
            case _:
                raise Malformed("a token without id, hash, name, relay or times")
        used_by = _optional(extra, "usedBy")
        cancelled_at, recorded_at = _optional(extra, "cancelledAt"), _optional(extra, "recordedAt")
        for moment in (minted_at, expires_at, cancelled_at, recorded_at):
            if moment is not None:
                parse_instant(moment)
        return cls(
            jti=check_jti(jti),
            token_hash=unb64(token_hash, length=_HASH_BYTES),
            name=name,
            relay=relay,
            minted_at=minted_at,
            expires_at=expires_at,
            for_node=for_node,
            cancelled_at=cancelled_at,
            used_by=None if used_by is None else unb64(used_by, length=_PUBLIC_KEY_BYTES),
            recorded_at=recorded_at,
            extra=extra,
        )

    def entry(self) -> dict[str, Any]:
        """The entry as provisioned.json has it."""
        optional = {
            "cancelledAt": self.cancelled_at,
            "usedBy": None if self.used_by is None else b64(self.used_by),
            "recordedAt": self.recorded_at,
        }
        return {
            "jti": self.jti,
            "tokenHash": b64(self.token_hash),
            "name": self.name,
            "relay": self.relay,
            "mintedAt": self.minted_at,
            "expiresAt": self.expires_at,
            "forNode": self.for_node,
            **{key: value for key, value in optional.items() if value is not None},
            **self.extra,
        }

    def is_expired(self, now: float) -> bool:
        """Whether no target accepts the token any more at `now` (Unix seconds)."""
        return now >= parse_instant(self.expires_at)

    def is_outstanding(self, now: float) -> bool:
        """Whether a device may still be recorded because of it."""
        return self.cancelled_at is None and self.recorded_at is None and not self.is_expired(now)


@dataclass(frozen=True, slots=True)
class ProvisionedFile:
    """provisioned.json; whether the seal fits is for who has the key."""

    tokens: tuple[Minted, ...]
    seal: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> ProvisionedFile:
        """Read the file.

        Raises:
            Malformed: not JSON, a key missing, unknown or of another form, one token twice.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        tokens = tuple(map(Minted.parse, fields.objects("tokens")))
        seal = unb64(fields.text("hmac"), length=_SEAL_BYTES)
        # The seal covers these keys only: any other would be outside it.
        if fields.rest():
            raise Malformed("a key that no seal covers")
        if len({minted.jti for minted in tokens}) != len(tokens):
            raise Malformed("one token twice")
        return cls(tokens, seal)

    def sealed_bytes(self) -> bytes:
        """What the seal covers: JCS of tokens and version, which no allow list has.

        Raises:
            Malformed: a value JCS cannot express.
        """
        return canonical_json(self._body())

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(self._body() | {"hmac": b64(self.seal)})

    def _body(self) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "tokens": [minted.entry() for minted in self.tokens],
        }


def _optional(values: dict[str, Any], key: str) -> str | None:
    value = values.pop(key, None)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is not text")
    return value
