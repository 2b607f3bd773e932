"""Keys in the keychain of this user: macOS Keychain, or the Secret Service on Linux.

Software protects them: a program that runs as this user may ask the keychain for them. The
account is the key's alias, which is made of the key, so a new key never has the account of an
old one; identity.json, written last, says which of them counts. So no item is ever replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from amesh_core import crypto
from amesh_core.errors import KeyFileDamaged, KeyMissing, KeyStoreError, Malformed
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import Means, keyring_items, keyring_mark
from amesh_core.keystore.keyring_items import Items
from amesh_core.keystore.material import SoftwareKey, new_material, node_material
from amesh_core.wire.files import check_alias
from amesh_core.wire.key_items import KeychainItem


def why_not(means: Means) -> str | None:
    """There is no keychain, or nobody to ask for it."""
    return keyring_items.why_not(means.platform)


def open_store(directory: Path, means: Means) -> KeychainStore:
    """The keys of this user; the directory only holds what Node's tools left in it."""
    return KeychainStore(directory, Items(means.platform))


class KeychainStore:
    """Keys in the keychain of this user."""

    hardware_bound: Final = False

    def __init__(self, directory: Path, items: Items) -> None:
        self._keys = directory / "keys"
        self._items = items

    def create(self) -> DeviceKey:
        """Make a key and put it into the keychain, with the mark of its allow list."""
        private, material = crypto.PrivateKey.generate(), new_material()
        key, alias = SoftwareKey(private, material), device_id(private.public)
        item = KeychainItem(private.public, private.scalar(), material)
        with kept(self._items, key, alias, item):
            return key

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """Ask the keychain for the key; somebody may have to unlock it.

        Raises:
            KeyMissing: it has none of that alias.
            KeyFileDamaged: it has another key, or something else.
            KeychainLocked, KeyStoreError: it refuses.
        """
        item = read_item(self._items, alias, public)
        try:
            private = crypto.PrivateKey.from_scalar(item.scalar or b"")
        except Malformed as error:
            raise KeyFileDamaged(f"the item {alias} holds no private key: {error}") from None
        # The item says which key it is; that is not proof.
        if private.public != public:
            raise KeyFileDamaged(f"the item {alias} holds another key than it says")
        return SoftwareKey(private, item.hmac_secret or node_material(self._keys, alias))

    def delete(self, alias: str) -> None:
        """Delete the key and its mark; they may be gone already."""
        delete_items(self._items, alias)

    def newest(self, key: DeviceKey, alias: str) -> str | None:
        """The newest allow list, as the keychain remembers it.

        Raises:
            AllowListMarkBroken: it has lost it, or it cannot be believed.
        """
        return keyring_mark.read(self._items, key, account_of(alias))

    def remember(self, key: DeviceKey, alias: str, updated_at: str) -> None:
        """Let the keychain remember it, unless it remembers a newer one."""
        keyring_mark.remember(self._items, key, account_of(alias), updated_at)


@contextmanager
def kept(items: Items, key: DeviceKey, alias: str, item: KeychainItem) -> Iterator[None]:
    """Put a new key's secrets into the keychain; an error, also inside, takes them out again.

    Raises:
        KeyStoreError: the keychain refuses, or has such an item already.
    """
    if items.read(alias) is not None:
        raise KeyStoreError(f"{items.where} has an item {alias} already")
    try:
        # The mark first: a key that is there and has none has lost it.
        keyring_mark.begin(items, key, alias)
        items.write(alias, item.encode())
        if items.read(alias) != item.encode():
            raise KeyStoreError(f"{items.where} did not keep what it was given")
        yield
    except BaseException:
        with suppress(KeyStoreError):
            delete_items(items, alias)
        raise


def read_item(items: Items, alias: str, public: bytes) -> KeychainItem:
    """The secrets of a key, if the item says that it belongs to `public`.

    Raises:
        KeyMissing: there is no item.
        KeyFileDamaged: it is no such item, or that of another key.
        KeychainLocked, KeyStoreError: the keychain refuses.
    """
    text = items.read(account_of(alias))
    if text is None:
        raise KeyMissing(
            f"{items.where} has no item {alias}; another user or machine may have made it"
        )
    try:
        item = KeychainItem.parse(text)
    except Malformed as error:
        raise KeyFileDamaged(f"the item {alias} of {items.where} is no key: {error}") from None
    if item.public_key != public:
        raise KeyFileDamaged(f"the item {alias} of {items.where} is that of another key")
    return item


def delete_items(items: Items, alias: str) -> None:
    """Delete what the keychain holds of a key; the key itself first.

    Raises:
        KeychainLocked, KeyStoreError: it refuses.
    """
    items.delete(account_of(alias))
    keyring_mark.forget(items, alias)


def account_of(alias: str) -> str:
    """The account of a key's item.

    Raises:
        KeyFileDamaged: the alias, which comes out of identity.json, could name another item.
    """
    try:
        return check_alias(alias)
    except Malformed as error:
        raise KeyFileDamaged(str(error)) from None
