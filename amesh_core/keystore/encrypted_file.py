"""Keys in files, under a passphrase: AES-256-GCM and Argon2id; docs/protocol.md section 2.

It works everywhere and protects least: who has the file and the passphrase has the key.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from amesh_core import crypto, disk
from amesh_core.errors import BadBox, KeyFileDamaged, KeyMissing, Malformed, WrongPassphrase
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import Means, Passphrase
from amesh_core.wire.files import Argon2Cost, KeyFile, check_alias

# What new files get: 180-220 ms here, the second choice of RFC 9106 section 4 with one lane.
# An old file is opened with the parameters it names.
COST: Final = Argon2Cost(t=3, m=64 * 1024, p=1)

_MATERIAL_SALT: Final = b"amesh-hmac-material-v1"
_SEAL_SALT: Final = b"amesh-allow-list-integrity-v1"


def why_not(means: Means) -> str | None:  # noqa: ARG001 the signature is that of all back ends
    """Nothing speaks against it, on any machine."""
    return None


def open_store(directory: Path, means: Means) -> EncryptedFileStore:
    """The keys in `<directory>/keys`."""
    return EncryptedFileStore(directory, means.passphrase, COST)


class EncryptedFileStore:
    """The keys in `<directory>/keys`, all under one passphrase."""

    hardware_bound: Final = False

    def __init__(self, directory: Path, passphrase: Passphrase, cost: Argon2Cost) -> None:
        self._keys = directory / "keys"
        self._passphrase = passphrase
        self._cost = cost

    def create(self) -> DeviceKey:
        """Make a key and write its file."""
        private = crypto.PrivateKey.generate()
        alias = device_id(private.public)
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        key = _file_key(self._passphrase(), salt, self._cost)
        ciphertext = crypto.aes_gcm_encrypt(key, nonce, private.scalar())
        file = KeyFile(self._cost, salt, nonce, ciphertext, private.public)
        disk.make_subdirectory(self._keys)
        disk.write_new(self._path(alias), file.encode())
        disk.sync_directory(self._keys)
        return SoftwareKey(private, alias)

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """Open the key's file; it takes one Argon2, so once per process.

        Raises:
            KeyMissing: there is no such file.
            UnsafePermissions: others may read it.
            WrongPassphrase: the passphrase does not open it, or it was changed.
            KeyFileDamaged: it is no key file, or holds another key.
        """
        path = self._path(alias)
        data = disk.read_private(path)
        if data is None:
            raise KeyMissing(f"there is no {path}")
        try:
            file = KeyFile.parse(data)
        except Malformed as error:
            raise KeyFileDamaged(f"{path} is no key file: {error}") from None
        # Before the expensive part, what can be seen without it.
        if file.public_key != public:
            raise KeyFileDamaged(f"{path} is the file of another key")
        passphrase = self._passphrase()
        try:
            key = _file_key(passphrase, file.salt, file.cost)
            private = crypto.PrivateKey.from_scalar(
                crypto.aes_gcm_decrypt(key, file.nonce, file.ciphertext)
            )
        except BadBox:
            raise WrongPassphrase(
                f"the passphrase does not open {path}, or the file was changed"
            ) from None
        except Malformed as error:
            raise KeyFileDamaged(f"{path} cannot be opened: {error}") from None
        # `publicKey` stands in clear beside the ciphertext; what it says is not proof.
        if private.public != public:
            raise KeyFileDamaged(f"{path} holds another key than it says")
        return SoftwareKey(private, alias)

    def delete(self, alias: str) -> None:
        """Delete the key's file; it may be gone already."""
        disk.remove(self._path(alias))

    def _path(self, alias: str) -> Path:
        # The alias comes out of identity.json: it must not lead out of the directory.
        try:
            return self._keys / f"{check_alias(alias)}.key.json"
        except Malformed as error:
            raise KeyFileDamaged(str(error)) from None


class SoftwareKey:
    """A key held in this process's memory; prints as nothing."""

    __slots__ = ("_private", "_seal_key")

    def __init__(self, private: crypto.PrivateKey, alias: str) -> None:
        self._private = private
        material = crypto.hkdf(private.scalar(), salt=_MATERIAL_SALT, info=alias.encode())
        owner = device_id(private.public).encode()
        self._seal_key = crypto.hkdf(material, salt=_SEAL_SALT, info=owner)

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


def _file_key(passphrase: bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    return crypto.argon2id(passphrase, salt, t=cost.t, m=cost.m, p=cost.p)
