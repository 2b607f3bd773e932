"""The JSON files of the directory, docs/protocol.md section 2.

Everything here raises `Malformed` for what is not exactly the file it should be; the
module that knows what the file is for says which of our errors that makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, canonical_json, unb64, unb64_any
from amesh_core.wire.fields import Fields, pretty

FORMAT_VERSION: Final = "2.0.0"
DEFAULT_MAX_CONTROLLERS: Final = 1

_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point
_SEAL_BYTES: Final = 32  # HMAC-SHA256
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12  # SP 800-38D section 8.2
_CIPHERTEXT_BYTES: Final = 32 + 16  # private scalar and tag

# An alias becomes a file name, so it can hold neither a dot nor a slash.
_ALIAS: Final = re.compile(r"[A-Za-z0-9_-]+")
# An array index in JavaScript: JSON.stringify writes such keys first, in number order.
_ARRAY_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_ARRAY_INDEX: Final = 2**32 - 2


def check_alias(alias: str) -> str:
    """Return `alias` if it can name a key.

    Raises:
        Malformed: a character outside `[A-Za-z0-9_-]`, or nothing.
    """
    if not _ALIAS.fullmatch(alias):
        raise Malformed("an alias has only letters, digits, _ and -")
    return alias


# --- identity.json ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """identity.json; `extra` holds the keys we do not know, which survive a rewrite.

    `passphrase` is what a very old file kept here; it is to be moved out.
    """

    device_id: str
    key_alias: str
    public_key: bytes
    friendly_name: str
    created_at: str
    storage_backend: str
    max_controllers: int = DEFAULT_MAX_CONTROLLERS
    passphrase: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, data: bytes) -> IdentityFile:
        """Read the file.

        Raises:
            Malformed: not JSON, a key missing or of another type, another version.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        return cls(
            device_id=fields.text("deviceId"),
            key_alias=check_alias(fields.text("keyAlias")),
            public_key=unb64(fields.text("publicKey"), length=_PUBLIC_KEY_BYTES),
            friendly_name=fields.text("friendlyName"),
            created_at=fields.instant("createdAt"),
            storage_backend=fields.text("storageBackend"),
            max_controllers=fields.positive("maxControllers", DEFAULT_MAX_CONTROLLERS),
            passphrase=fields.text("passphrase") if "passphrase" in fields else None,
            extra=fields.rest(),
        )

    def encode(self) -> bytes:
        """Write the file, unknown keys last."""
        known: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "deviceId": self.device_id,
            "keyAlias": self.key_alias,
            "publicKey": b64(self.public_key),
            "friendlyName": self.friendly_name,
            "createdAt": self.created_at,
            "storageBackend": self.storage_backend,
            "maxControllers": self.max_controllers,
        }
        if self.passphrase is not None:
            known["passphrase"] = self.passphrase
        return pretty(known | dict(self.extra))


# --- allow_list.json --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AllowListFile:
    """allow_list.json before anybody has checked its seal.

    `devices` are JSON objects as they stand in the file, because the seal covers every key
    of theirs; `order` is the order of the sealed keys, which a legacy seal covers too.
    """

    devices: tuple[dict[str, Any], ...]
    updated_at: str
    seal: bytes
    order: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> AllowListFile:
        """Read the file; the entries of `devices` are objects, no more is known of them.

        Raises:
            Malformed: not JSON, a key missing, unknown or of another type, another version,
                a seal that is not canonical base64 of 32 bytes.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        devices = fields.objects("devices")
        updated_at = fields.instant("updatedAt")
        seal = unb64(fields.text("hmac"), length=_SEAL_BYTES)
        # The seal covers these keys only: any other would be outside it.
        if fields.rest():
            raise Malformed("a key that no seal covers")
        return cls(devices, updated_at, seal, tuple(key for key in fields.keys if key != "hmac"))

    def sealed_bytes(self) -> bytes:
        """What the seal covers: JCS of devices, updatedAt and version.

        Raises:
            Malformed: a value JCS cannot express.
        """
        return canonical_json(self._body())

    def legacy_sealed_bytes(self) -> bytes:
        """What an older seal covers: the same as JSON.stringify writes it, in file order.

        Raises:
            Malformed: a value JavaScript would read as another.
        """
        body = self._body()
        return _stringify({key: body[key] for key in self.order})

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            {
                "version": FORMAT_VERSION,
                "devices": list(self.devices),
                "updatedAt": self.updated_at,
                "hmac": b64(self.seal),
            }
        )

    def _body(self) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "devices": list(self.devices),
            "updatedAt": self.updated_at,
        }


def _stringify(value: Any) -> bytes:
    # JCS spells strings and numbers as JSON.stringify does (RFC 8785 section 3.2.2); the
    # one difference is that it sorts.
    if isinstance(value, dict):
        members = (canonical_json(key) + b":" + _stringify(value[key]) for key in _js_order(value))
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_stringify, value)) + b"]"
    return canonical_json(value)


def _js_order(value: Mapping[str, Any]) -> list[str]:
    indices = {key for key in value if _ARRAY_INDEX.fullmatch(key) and int(key) <= _MAX_ARRAY_INDEX}
    return sorted(indices, key=int) + [key for key in value if key not in indices]


# --- keys/<alias>.key.json --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """Parameters of Argon2id: `t` passes, `m` KiB of memory, `p` lanes."""

    t: int
    m: int
    p: int

    def __post_init__(self) -> None:
        # Upper bounds: a planted file must not stop the machine. Lower: RFC 9106 section 3.1.
        if not (1 <= self.t <= 64 and 1 <= self.p <= 16 and 8 * self.p <= self.m <= 1024 * 1024):
            raise Malformed("Argon2 parameters out of bounds")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """keys/<alias>.key.json: a private scalar under AES-256-GCM and Argon2id."""

    cost: Argon2Cost
    salt: bytes
    nonce: bytes
    ciphertext: bytes
    public_key: bytes

    @classmethod
    def parse(cls, data: bytes) -> KeyFile:
        """Read the file; binary fields in either base64 alphabet, as Node reads them.

        Raises:
            Malformed: not JSON, a key missing or of another type, other algorithms, Argon2
                parameters missing or out of bounds.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        fields.constant("algorithm", "aes-256-gcm")
        fields.constant("kdf", "argon2id")
        match fields.value("argon2Params"):
            # `type(...) is int`: True is an int as well.
            case {"t": t, "m": m, "p": p} if {type(t), type(m), type(p)} == {int}:
                cost = Argon2Cost(t, m, p)
            case _:
                raise Malformed("no Argon2 parameters")
        return cls(
            cost=cost,
            salt=unb64_any(fields.text("salt"), length=_SALT_BYTES),
            nonce=unb64_any(fields.text("nonce"), length=_NONCE_BYTES),
            ciphertext=unb64_any(fields.text("ciphertext"), length=_CIPHERTEXT_BYTES),
            public_key=unb64_any(fields.text("publicKey"), length=_PUBLIC_KEY_BYTES),
        )

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            {
                "version": FORMAT_VERSION,
                "algorithm": "aes-256-gcm",
                "kdf": "argon2id",
                "argon2Params": {"t": self.cost.t, "m": self.cost.m, "p": self.cost.p},
                "salt": b64(self.salt),
                "nonce": b64(self.nonce),
                "ciphertext": b64(self.ciphertext),
                "publicKey": b64(self.public_key),
            }
        )


# --- config.json ------------------------------------------------------------------------


def parse_config(data: bytes) -> str | None:
    """Read config.json: the relay's URL, if the file names one; other keys are not ours.

    Raises:
        Malformed: not JSON, or a relay that is not a ws:// or wss:// URL with a host.
    """
    fields = Fields(data)
    if "relay" not in fields:
        return None
    url = fields.text("relay")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    # urlsplit drops what a terminal would hide; nothing invisible belongs into a URL.
    if not usable or not url.isprintable() or " " in url:
        raise Malformed("the relay is not a ws:// or wss:// URL")
    return url


def with_relay(data: bytes | None, url: str | None) -> bytes:
    """What config.json is with this relay, or with none; `data` is what it was, None a new one.

    Raises:
        Malformed: it was no JSON object, so there is nothing that could be kept of it.
    """
    relay = {} if url is None else {"relay": url}
    if data is None:
        return pretty(relay)
    fields = Fields(data)
    if "relay" in fields:
        fields.value("relay")
    return pretty(relay | fields.rest())
