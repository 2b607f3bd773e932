"""The newest allow list, remembered in the keychain; docs/protocol.md section 2.6.

Two items take turns, so that the newest mark is never the one being written: macOS deletes
an item before it adds the next. The first is made with the key, so that a mark which is gone
is known to be gone, and not taken for one that never was.
"""

from __future__ import annotations

from typing import Final

from amesh_core import crypto
from amesh_core.errors import AllowListMarkBroken, Malformed
from amesh_core.identity import DeviceKey
from amesh_core.keystore.keyring_items import Items
from amesh_core.wire.mark import MarkFile, sealed_bytes

# Older than any list: what is remembered before the first.
_NEVER: Final = "1970-01-01T00:00:00.000Z"


def accounts(alias: str) -> tuple[str, str]:
    """The accounts of the two items; an alias has no slash."""
    return f"{alias}/newest-1", f"{alias}/newest-2"


def begin(items: Items, key: DeviceKey, alias: str) -> None:
    """Write the mark of a key that was made just now.

    Raises:
        KeyStoreError: the keychain refuses.
    """
    _write(items, accounts(alias)[0], key, _NEVER)


def read(items: Items, key: DeviceKey, alias: str) -> str | None:
    """The `updatedAt` remembered, or None before the first.

    Raises:
        AllowListMarkBroken: it is gone, or not one that this key sealed.
        KeyStoreError: the keychain refuses.
    """
    there = [mark for mark in _both(items, key, alias).values() if mark is not None]
    if not there:
        raise AllowListMarkBroken(f"{items.where} has lost the mark of the newest allow list")
    # Fixed-width text, so the order of the texts is that of the times.
    newest = max(there)
    return None if newest == _NEVER else newest


def remember(items: Items, key: DeviceKey, alias: str, updated_at: str) -> None:
    """Write the mark, unless a newer one is there; the caller holds the lock.

    Marks that cannot be believed are written anew: whoever calls this read them first, and
    stopped there, or was told by a person to mend them.

    Raises:
        KeyStoreError: the keychain refuses; the old mark is as it was.
    """
    try:
        marks = _both(items, key, alias)
    except AllowListMarkBroken:
        for account in accounts(alias):
            _write(items, account, key, updated_at)
        return
    older, newer = sorted(marks, key=lambda account: marks[account] or "")
    if (marks[newer] or "") < updated_at:
        _write(items, older, key, updated_at)


def forget(items: Items, alias: str) -> None:
    """Delete the mark; it may be gone already.

    Raises:
        KeyStoreError: the keychain refuses.
    """
    for account in accounts(alias):
        items.delete(account)


def _both(items: Items, key: DeviceKey, alias: str) -> dict[str, str | None]:
    return {account: _read(items, account, key) for account in accounts(alias)}


def _read(items: Items, account: str, key: DeviceKey) -> str | None:
    text = items.read(account)
    if text is None:
        return None
    try:
        mark = MarkFile.parse(text.encode("utf-8", "surrogatepass"))
    except Malformed as error:
        raise AllowListMarkBroken(
            f"the item {account} of {items.where} is no mark of an allow list: {error}"
        ) from None
    if not crypto.same(key.mac(sealed_bytes(mark.updated_at)), mark.seal):
        raise AllowListMarkBroken(
            f"the seal of the item {account} of {items.where} does not fit its contents"
        )
    return mark.updated_at


def _write(items: Items, account: str, key: DeviceKey, updated_at: str) -> None:
    seal = key.mac(sealed_bytes(updated_at))
    items.write(account, MarkFile(updated_at, seal).encode().decode("ascii"))
