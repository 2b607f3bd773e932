"""The newest allow list, remembered in the memory of the TPM (docs/decisions/0022).

The place can be written only by who can use the device's key in this TPM: that is its policy,
and the policy is part of what the place is. So it can be deleted and made anew by whoever owns
the TPM, but not set back: a place that is not ours, or was never written, is no mark.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from amesh_core import crypto
from amesh_core.errors import AllowListMarkBroken, Malformed
from amesh_core.keystore.tpm2 import codes
from amesh_core.keystore.tpm2.chip import DeviceKeys, Line
from amesh_core.keystore.tpm2.codes import Refused
from amesh_core.wire.encoding import parse_instant

log = logging.getLogger("amesh.keystore")

# The indices that owners give out (TCG Registry of Reserved TPM 2.0 Handles, section 2.2).
FIRST_INDEX: Final = 0x0180_0000
INDICES: Final = 0x40_0000

SIZE_BYTES: Final = 24  # YYYY-MM-DDTHH:MM:SS.mmmZ
# Written when the place is made: one that was never written may have been made by another.
NOTHING_YET: Final = bytes(SIZE_BYTES)

_POLICY_SECRET: Final = (0x0000_0151).to_bytes(4, "big")  # TPM_CC_PolicySecret


def policy(keys: DeviceKeys) -> bytes:
    """The policy "who can use this key", as the TPM computes it (Part 3, TPM2_PolicySecret)."""
    area = keys.signing.public[2:]
    name = b"\x00\x0b" + crypto.sha256(area)
    return crypto.sha256(crypto.sha256(bytes(32) + _POLICY_SECRET + name))


def define(line: Line, keys: DeviceKeys, indices: Iterable[int], first: bytes) -> int | None:
    """Make a place at the first free one of `indices` and write `first` to it.

    Returns its index, or None if the owner of the TPM does not allow it or there is no room.
    """
    connection, ours = line.connection, policy(keys)
    for index in indices:
        try:
            connection.nv_define(index, SIZE_BYTES, ours)
        except Refused as refused:
            if refused.is_password:
                log.warning("the TPM's owner has a password: a file remembers the newest list")
                return None
            if refused.code == codes.NV_SPACE:
                log.warning("the TPM's memory is full: a file remembers the newest list")
                return None
            if refused.code != codes.NV_DEFINED:
                raise
            # Ours when the connection was lost after it had been made.
            if not connection.nv_is_ours(index, SIZE_BYTES, ours):
                continue
        try:
            write(line, keys, index, first)
        except BaseException:
            # No file names it yet, so nobody else would ever give it back.
            with suppress(Refused):
                connection.nv_undefine(index, SIZE_BYTES, ours)
            raise
        return index
    log.warning("no free place found in the TPM: a file remembers the newest list")
    return None


def read(line: Line, keys: DeviceKeys, index: int) -> str | None:
    """The `updatedAt` remembered; None before the first.

    Raises:
        AllowListMarkBroken: the place is gone, another's, or was not written by us.
    """
    data = line.connection.nv_read(index, SIZE_BYTES, policy(keys))
    if data == NOTHING_YET:
        return None
    try:
        if data is None:
            raise Malformed("it is gone")
        text = data.decode("ascii", "replace")
        parse_instant(text)
    except Malformed as error:
        raise AllowListMarkBroken(
            f"what the TPM remembers at 0x{index:x} cannot be believed: {error}"
        ) from None
    return text


def write(line: Line, keys: DeviceKeys, index: int, data: bytes) -> None:
    """Put `data` there; the caller knows that it is not older than what is there."""
    line.connection.nv_write(index, data, policy(keys), line.signing(keys))
