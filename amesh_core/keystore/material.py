"""The secret under which the allow list is sealed, and keys that sit in memory with it.

docs/protocol.md section 2.4. What a back end protects is the material; the key of the seal
is derived from it and from the device that it belongs to.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from amesh_core import crypto, disk
from amesh_core.errors import KeyFileDamaged, KeyMissing
from amesh_core.identity import device_id

MATERIAL_BYTES: Final = 32  # as many as HMAC-SHA256 gives; RFC 2104 section 3

_SEAL_SALT: Final = b"amesh-allow-list-integrity-v1"


def new_material() -> bytes:
    """32 random bytes for a back end that protects them itself."""
    return secrets.token_bytes(MATERIAL_BYTES)


def seal_key(material: bytes, public: bytes) -> bytes:
    """The 32-byte key of the allow list's seal, for the device with that public key."""
    return crypto.hkdf(material, salt=_SEAL_SALT, info=device_id(public).encode())


def node_material(keys: Path, alias: str) -> bytes:
    """The material that Node's tools keep in `<keys>/<alias>.hmac`: 32 bytes as they are.

    Only for a key without material of its own: who can write the directory could otherwise
    put a secret that he knows in the place of one that he does not.

    Raises:
        KeyMissing: there is no such file.
        KeyFileDamaged: it has another length.
        UnsafePermissions: others may read it.
    """
    path = keys / f"{alias}.hmac"
    data = disk.read_private(path)
    if data is None:
        raise KeyMissing(f"the secret that seals the allow list is gone, and there is no {path}")
    if len(data) != MATERIAL_BYTES:
        raise KeyFileDamaged(f"{path} has {len(data)} bytes instead of {MATERIAL_BYTES}")
    return data


class SoftwareKey:
    """A key held in this process's memory; prints as nothing."""

    __slots__ = ("_private", "_seal_key")

    def __init__(self, private: crypto.PrivateKey, material: bytes) -> None:
        self._private = private
        self._seal_key = seal_key(material, private.public)

    @property
    def public(self) -> bytes:
        """The 33-byte compressed point."""
        return self._private.public

    def sign(self, message: bytes) -> bytes:
        """64 bytes r || s, low-S, ECDSA over SHA-256(message)."""
        return self._private.sign(message)

    def mac(self, message: bytes) -> bytes:
        """32 bytes HMAC-SHA256 under the allow list's key."""
        return crypto.hmac_sha256(self._seal_key, message)

    def __repr__(self) -> str:
        return f"SoftwareKey({device_id(self.public)})"
