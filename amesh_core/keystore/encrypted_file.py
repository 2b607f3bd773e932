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
from amesh_core.keystore.material import SoftwareKey
from amesh_core.keystore.sealed_mark import read_mark, write_mark
from amesh_core.wire.files import Argon2Cost, KeyFile, check_alias

# What new files get: 180-220 ms here, the second choice of RFC 9106 section 4 with one lane.
# An old file is opened with the parameters it names.
COST: Final = Argon2Cost(t=3, m=64 * 1024, p=1)

_MATERIAL_SALT: Final = b"amesh-hmac-material-v1"


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
        file = _encrypted(private, self._passphrase(), self._cost)
        disk.make_subdirectory(self._keys)
        disk.write_new(self._path(alias), file.encode())
        disk.sync_directory(self._keys)
        return software_key(private, alias)

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """Open the key's file; it takes one Argon2, so once per process.

        Raises:
            KeyMissing: there is no such file.
            UnsafePermissions: others may read it.
            WrongPassphrase: the passphrase does not open it, or it was changed.
            KeyFileDamaged: it is no key file, or holds another key.
        """
        return software_key(self._decrypt(alias, self._read(alias, public)), alias)

    def under_another(self, alias: str, public: bytes, passphrase: bytes) -> bytes:
        """The contents of the key's file under another passphrase; nothing is written.

        Parameters below those of new files are raised to them, and none is lowered.

        Raises:
            KeyStoreError: as `load`.
        """
        file = self._read(alias, public)
        cost = Argon2Cost(
            t=max(file.cost.t, self._cost.t),
            m=max(file.cost.m, self._cost.m),
            p=max(file.cost.p, self._cost.p),
        )
        return _encrypted(self._decrypt(alias, file), passphrase, cost).encode()

    def _read(self, alias: str, public: bytes) -> KeyFile:
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
        return file

    def _decrypt(self, alias: str, file: KeyFile) -> crypto.PrivateKey:
        path = self._path(alias)
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
        if private.public != file.public_key:
            raise KeyFileDamaged(f"{path} holds another key than it says")
        return private

    def delete(self, alias: str) -> None:
        """Delete the key's files; they may be gone already."""
        disk.destroy(self._path(alias), self._path(alias, "newest"))

    def newest(self, key: DeviceKey, alias: str) -> str | None:
        """The newest allow list, as the file beside the key remembers it.

        Raises:
            AllowListMarkBroken: the file cannot be believed.
        """
        return read_mark(self._path(alias, "newest"), key)

    def remember(self, key: DeviceKey, alias: str, updated_at: str) -> None:
        """Write the file beside the key, unless it remembers a newer list."""
        write_mark(self._path(alias, "newest"), key, updated_at)

    def _path(self, alias: str, kind: str = "key") -> Path:
        # The alias comes out of identity.json: it must not lead out of the directory.
        try:
            return self._keys / f"{check_alias(alias)}.{kind}.json"
        except Malformed as error:
            raise KeyFileDamaged(str(error)) from None


def software_key(private: crypto.PrivateKey, alias: str) -> SoftwareKey:
    """The key with the secret that seals its allow list, which is derived from it."""
    return SoftwareKey(
        private, crypto.hkdf(private.scalar(), salt=_MATERIAL_SALT, info=alias.encode())
    )


def _encrypted(private: crypto.PrivateKey, passphrase: bytes, cost: Argon2Cost) -> KeyFile:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    key = _file_key(passphrase, salt, cost)
    ciphertext = crypto.aes_gcm_encrypt(key, nonce, private.scalar())
    return KeyFile(cost, salt, nonce, ciphertext, private.public)


def _file_key(passphrase: bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    return crypto.argon2id(passphrase, salt, t=cost.t, m=cost.m, p=cost.p)
