"""A statement that one key takes another's place, and rotation.json; docs/protocol.md section 8."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, load_json, parse_instant, unb64
from amesh_core.wire.fields import Fields, pretty
from amesh_core.wire.files import FORMAT_VERSION, check_alias

TYPE: Final = "amesh-rotation"
VERSION: Final = 1
# Two keys, two signatures, a time and a name, with room for a long one of another tool.
MAX_STATEMENT_BYTES: Final = 4096

_PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point
_SIGNATURE_BYTES: Final = 64  # r || s


@dataclass(frozen=True, slots=True)
class Statement:
    """That `new_key` takes the place of `old_key`, before anybody has checked its signatures."""

    old_key: bytes
    new_key: bytes
    friendly_name: str
    issued_at: str
    old_signature: bytes = field(default=b"", repr=False)
    new_signature: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Statement:
        """Read a statement; white space around it does not count.

        Raises:
            Malformed: too long, another type or version, a key more or less or twice, a
                value of another type or length.
        """
        if len(data) > MAX_STATEMENT_BYTES:
            raise Malformed("this is too long for a statement")
        return cls.from_json(load_json(data))

    @classmethod
    def from_json(cls, value: object) -> Statement:
        """The same, from what is parsed already."""
        match value:
            case {
                "type": "amesh-rotation",
                "version": int(version),
                "oldKey": str(old_key),
                "newKey": str(new_key),
                "friendlyName": str(friendly_name),
                "issuedAt": str(issued_at),
                "oldSig": str(old_signature),
                "newSig": str(new_signature),
                **rest,
            } if not rest and type(version) is int and version == VERSION:
                pass
            case {"type": "amesh-rotation", "version": int(version)} if version != VERSION:
                raise Malformed("this is a statement of another version of amesh")
            case _:
                raise Malformed("this is no statement of a new key")
        parse_instant(issued_at)
        return cls(
            old_key=unb64(old_key, length=_PUBLIC_KEY_BYTES),
            new_key=unb64(new_key, length=_PUBLIC_KEY_BYTES),
            friendly_name=friendly_name,
            issued_at=issued_at,
            old_signature=unb64(old_signature, length=_SIGNATURE_BYTES),
            new_signature=unb64(new_signature, length=_SIGNATURE_BYTES),
        )

    def entry(self) -> dict[str, Any]:
        """The statement as a JSON object."""
        return {
            "type": TYPE,
            "version": VERSION,
            "oldKey": b64(self.old_key),
            "newKey": b64(self.new_key),
            "friendlyName": self.friendly_name,
            "issuedAt": self.issued_at,
            "oldSig": b64(self.old_signature),
            "newSig": b64(self.new_signature),
        }

    def encode(self) -> str:
        """One line of ASCII, which survives a chat and a clipboard."""
        return json.dumps(self.entry(), separators=(",", ":"))

    def signed_bytes(self, which: str) -> bytes:
        """What the signature of the `old` or the `new` key covers."""
        head = f"{TYPE}/{VERSION} {which}\0".encode("ascii")
        name = self.friendly_name.encode("utf-8", "surrogatepass")
        return head + self.old_key + self.new_key + f"{self.issued_at}\0".encode("ascii") + name


@dataclass(frozen=True, slots=True)
class OtherKey:
    """A key of this device beside the one of its identity, and the back end that has it."""

    key_alias: str
    public_key: bytes
    storage_backend: str


@dataclass(frozen=True, slots=True)
class Pending:
    """rotation.json while the new key waits."""

    new: OtherKey
    statement: Statement

    def encode(self) -> bytes:
        """Write the file."""
        return _encode("pending", self.new, {"statement": self.statement.entry()})


@dataclass(frozen=True, slots=True)
class Retiring:
    """rotation.json while the old key is still to be destroyed."""

    old: OtherKey

    def encode(self) -> bytes:
        """Write the file."""
        return _encode("retiring", self.old, {})


def parse_rotation_file(data: bytes) -> Pending | Retiring:
    """Read rotation.json.

    Raises:
        Malformed: not JSON, a key missing, unknown or of another form, another version.
    """
    fields = Fields(data)
    fields.constant("version", FORMAT_VERSION)
    state = fields.text("state")
    key = OtherKey(
        key_alias=check_alias(fields.text("keyAlias")),
        public_key=unb64(fields.text("publicKey"), length=_PUBLIC_KEY_BYTES),
        storage_backend=fields.text("storageBackend"),
    )
    file: Pending | Retiring
    match state:
        case "pending":
            file = Pending(key, Statement.from_json(fields.value("statement")))
        case "retiring":
            file = Retiring(key)
        case _:
            raise Malformed("a state nobody knows")
    if fields.rest():
        raise Malformed("a key nobody knows")
    return file


def _encode(state: str, key: OtherKey, more: dict[str, Any]) -> bytes:
    return pretty(
        {
            "version": FORMAT_VERSION,
            "state": state,
            "keyAlias": key.key_alias,
            "publicKey": b64(key.public_key),
            "storageBackend": key.storage_backend,
            **more,
        }
    )
