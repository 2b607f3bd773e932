"""What a TPM and the road to it answer, and what that means to a person.

The numbers are those of the TPM 2.0 Library Specification, Part 2, section 6.6, and of the TSS
2.0 Overview, section 3.6: a layer in the upper half, its own code in the lower.
"""

from __future__ import annotations

from typing import Final

from amesh_core.errors import (
    KeyStoreError,
    TpmError,
    TpmLockedOut,
    TpmOutOfMemory,
    TpmOwnerPassword,
)

_LAYER: Final = 0xFFFF_0000
# The TPM itself, and as a resource manager passes it on.
_TPM_LAYERS: Final = (0, 0x000C_0000)
# Marshalling: what was to be sent is no TPM structure, so a file was changed.
_MARSHALLING_LAYER: Final = 0x0009_0000
_FORMAT_ONE: Final = 0x080
# Format one also says which handle, parameter or session is meant; without that:
_FORMAT_ONE_CODE: Final = 0x0BF

NO_SUCH_HANDLE: Final = 0x08B  # TPM_RC_HANDLE: nothing at a persistent handle or index
NV_UNINITIALIZED: Final = 0x14A
NV_SPACE: Final = 0x14B
NV_DEFINED: Final = 0x14C
NO_PLUGIN: Final = 0x000A_0015  # TCTI loader, TSS2_BASE_RC_NOT_SUPPORTED

_INTEGRITY: Final = 0x09F
_BAD_WRAPPING: Final = (_INTEGRITY, 0x095, 0x09A)  # wrong size, cut off
_AUTH_FAIL, _BAD_AUTH = 0x08E, 0x0A2
_NO_AUTH: Final = (0x125, 0x12F)  # missing, unavailable
_HIERARCHY: Final = 0x085  # switched off
_OBJECT_MEMORY, _SESSION_MEMORY, _MEMORY = 0x902, 0x903, 0x904
_LOCKOUT: Final = 0x921
_LOADED_HANDLES: Final = range(0x910, 0x917)  # TPM_RC_REFERENCE_H0 to H6: not loaded any more


class Refused(Exception):
    """A command that was not done; `rc` as it came, `code` without what it was about."""

    def __init__(self, rc: int, text: str) -> None:
        super().__init__(f"{text} (0x{rc:x})")
        self.rc = rc
        self.code = rc
        if rc & _LAYER in _TPM_LAYERS:
            self.code = rc & ~_LAYER
            if self.code & _FORMAT_ONE:
                self.code &= _FORMAT_ONE_CODE

    @property
    def is_lost_connection(self) -> bool:
        """Whether nobody answers, or what was loaded is not there any more: open it again."""
        layer = self.rc & _LAYER
        if layer not in _TPM_LAYERS:
            # What a dead device gives the library to read has many names there.
            return layer != _MARSHALLING_LAYER and self.rc != NO_PLUGIN
        return self.code in _LOADED_HANDLES or self.code == NO_SUCH_HANDLE

    @property
    def is_full(self) -> bool:
        """Whether the TPM has no place for one more key or session."""
        return self.code in (_OBJECT_MEMORY, _SESSION_MEMORY, _MEMORY)

    @property
    def is_bad_wrapping(self) -> bool:
        """Whether the parent did not wrap what it was to unwrap."""
        return self.code in _BAD_WRAPPING or self.rc & _LAYER == _MARSHALLING_LAYER

    @property
    def is_password(self) -> bool:
        """Whether an empty password was the wrong one: the owner's, or the storage root key's."""
        return self.code in (_AUTH_FAIL, _BAD_AUTH, *_NO_AUTH)


def explained(refused: Refused, tcti: str) -> KeyStoreError:
    """The error of ours for it."""
    if refused.is_password:
        return TpmOwnerPassword(
            "the owner hierarchy of the TPM has a password, so without a storage root key at"
            " 0x81000001 no key can be used; or that key itself has one"
        )
    if refused.code == _LOCKOUT:
        return TpmLockedOut("the TPM is locked, after too many wrong passwords")
    if refused.is_full:
        return TpmOutOfMemory("the TPM has no place for one more key, as other programs fill it")
    if refused.code == _HIERARCHY:
        return TpmError("the owner hierarchy of the TPM is switched off, perhaps in the firmware")
    if refused.is_lost_connection:
        return TpmError(f"the TPM at {tcti} does not answer: {refused}")
    return TpmError(f"the TPM refuses: {refused}")
