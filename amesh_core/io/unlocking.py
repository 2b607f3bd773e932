"""The key of a directory, unlocked with the passphrase that is there (docs/protocol.md 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amesh_core import disk, keystore
from amesh_core.errors import WrongPassphrase
from amesh_core.identity import DeviceKey
from amesh_core.io import identity_file, passphrase
from amesh_core.io.list_file import ListFile
from amesh_core.io.passphrase import Found
from amesh_core.io.staging import KEYS
from amesh_core.settings import Settings
from amesh_core.wire.files import IdentityFile


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A key that can be used, and the allow list that it seals."""

    key: DeviceKey
    list_file: ListFile


def unlock(settings: Settings, file: IdentityFile) -> Unlocked:
    """Unlock the key that identity.json names.

    Raises:
        KeyStoreError: no passphrase, a wrong one, a damaged or missing key, a back end that
            cannot be used.
        UnsafePermissions: others may read the key or the passphrase.
    """
    while True:
        seen = _stamp(settings.directory)
        try:
            return _unlock(settings, file)
        except WrongPassphrase:
            # `amesh passphrase change` exchanges two files; we may have read one of each.
            identity_file.read_settled(settings.directory)
            if _stamp(settings.directory) == seen:
                raise


def _stamp(directory: Path) -> tuple[object, ...]:
    """Another value once a key or the passphrase beside it is another file."""
    return tuple(disk.stamp(directory / name) for name in (KEYS, passphrase.FILE))


def _unlock(settings: Settings, file: IdentityFile) -> Unlocked:
    directory, used = settings.directory, list[Found]()

    def secret() -> bytes:
        used.append(passphrase.find(settings, directory, file.passphrase))
        return used[0].secret

    means = keystore.Means(secret, settings.tpm_tcti)
    store = keystore.open_store(file.storage_backend, directory, means)
    try:
        key = store.load(file.key_alias, file.public_key)
    except WrongPassphrase as error:
        raise WrongPassphrase(f"{error} (passphrase from {used[0].source})") from None
    return Unlocked(key, ListFile(directory, file.key_alias, store, key))
