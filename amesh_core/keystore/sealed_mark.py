"""The newest allow list, remembered in a sealed file beside the key (docs/protocol.md 2.6).

For back ends that have no better place. It stops whoever puts back the list alone, not
whoever puts back this file with it.
"""

from __future__ import annotations

from pathlib import Path

from amesh_core import crypto, disk
from amesh_core.errors import AllowListMarkBroken, Malformed
from amesh_core.identity import DeviceKey
from amesh_core.wire.mark import MarkFile, sealed_bytes


def read_mark(path: Path, key: DeviceKey) -> str | None:
    """The `updatedAt` that the file remembers, or None when there is no file.

    Raises:
        AllowListMarkBroken: it is no mark, or not one that this key sealed.
        HomeUnwritable: it cannot be read.
    """
    data = disk.read_own(path)
    if data is None:
        return None
    try:
        mark = MarkFile.parse(data)
    except Malformed as error:
        raise AllowListMarkBroken(f"{path} is no mark of an allow list: {error}") from None
    if not crypto.same(key.mac(sealed_bytes(mark.updated_at)), mark.seal):
        raise AllowListMarkBroken(f"the seal of {path} does not fit its contents")
    return mark.updated_at


def write_mark(path: Path, key: DeviceKey, updated_at: str) -> None:
    """Remember `updated_at`, unless the file remembers a newer one; the caller holds the lock.

    A file that cannot be believed is replaced: whoever calls this read it first, and stopped
    there, or was told by a person to mend it.

    Raises:
        HomeUnwritable: it cannot be written; the old mark is as it was.
    """
    try:
        present = read_mark(path, key)
    except AllowListMarkBroken:
        present = None
    # Fixed-width text, so the order of the texts is that of the times.
    if present is None or present < updated_at:
        seal = key.mac(sealed_bytes(updated_at))
        disk.replace(path, MarkFile(updated_at, seal).encode())
