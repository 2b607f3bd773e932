"""One connection to a TPM: the commands we send, in words; alone knows tpm2-pytss.

Handles are numbers that mean something on this connection only. Nothing here retries, and
nothing is left in the TPM that the caller did not ask for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from amesh_core.keystore.tpm2 import codes
from amesh_core.keystore.tpm2.codes import Refused
from amesh_core.wire.tss2 import (
    OWNER,
    PARENT_TEMPLATE,
    SEALING_TEMPLATE,
    SIGNING_TEMPLATE,
    STORAGE_ROOT_KEY,
    LoadableKey,
)

# TPMA_NV: written only under its policy, read with its empty password, not locked by wrong
# passwords elsewhere; the TPM sets WRITTEN.
_POLICYWRITE, _AUTHREAD, _NO_DA, _WRITTEN = 1 << 3, 1 << 18, 1 << 25, 1 << 29
_NV_ATTRIBUTES: Final = _POLICYWRITE | _AUTHREAD | _NO_DA

# A storage key: restricted to decrypt, made in this TPM to stay there, and used with a
# password, as ours is the empty one; under a policy only, it could not be used at all.
_FIXED_TPM, _USER_WITH_AUTH, _RESTRICTED, _DECRYPT = 1 << 1, 1 << 6, 1 << 16, 1 << 17
_STORAGE: Final = _FIXED_TPM | _USER_WITH_AUTH | _RESTRICTED | _DECRYPT


@dataclass(frozen=True, slots=True)
class Parent:
    """A storage key in the TPM; `handle` is ours, `kind` what a key file calls it."""

    handle: int
    kind: int
    name: bytes


class Connection:
    """An ESAPI context, which is one thread's at a time.

    Every method raises `Refused` with the TPM's own code.
    """

    def __init__(self, tcti: str) -> None:
        self._tss = load_library()
        with self._refusals():
            self._esapi = self._tss.ESAPI(tcti)
        # Made once: they cost more than a signature's other Python.
        self._scheme = self._tss.TPMT_SIG_SCHEME(scheme=self._tss.TPM2_ALG.NULL)
        self._unchecked = self._tss.TPMT_TK_HASHCHECK(
            tag=self._tss.TPM2_ST.HASHCHECK, hierarchy=self._tss.TPM2_RH.NULL
        )

    def close(self) -> None:
        """Give the connection up; what was loaded stays, unless it was flushed."""
        self._esapi.close()

    # --- keys ---------------------------------------------------------------------------

    def has_parent(self) -> bool:
        """Whether a storage key can be had without the owner's password."""
        with self._storage_root_key() as parent:
            return parent is not None or not self._owner_has_password()

    @contextmanager
    def best_parent(self) -> Iterator[Parent]:
        """The storage root key if somebody made one persistent, else a primary key."""
        with self._storage_root_key() as parent:
            if parent is not None:
                yield parent
                return
        with self._primary_key() as parent:
            yield parent

    @contextmanager
    def parent(self, kind: int) -> Iterator[Parent | None]:
        """The parent that a key file names, or None if there is no such key."""
        with self._storage_root_key() if kind == STORAGE_ROOT_KEY else self._primary_key() as found:
            yield found

    @contextmanager
    def _storage_root_key(self) -> Iterator[Parent | None]:
        handle = self._persistent(STORAGE_ROOT_KEY)
        if handle is None:
            yield None
            return
        try:
            with self._refusals():
                public, name, _ = self._esapi.read_public(handle)
            # Anything can be persistent there, so a key that is no parent does not count.
            fits = int(public.publicArea.objectAttributes) & _STORAGE == _STORAGE
            yield Parent(handle, STORAGE_ROOT_KEY, bytes(name)) if fits else None
        finally:
            self._let_go(handle)

    @contextmanager
    def _primary_key(self) -> Iterator[Parent]:
        tss = self._tss
        with self._refusals():
            area, _ = tss.TPMT_PUBLIC.unmarshal(PARENT_TEMPLATE)
            handle, public, *_ = self._esapi.create_primary(
                tss.TPM2B_SENSITIVE_CREATE(),
                tss.TPM2B_PUBLIC(publicArea=area),
                tss.ESYS_TR.OWNER,
            )
        try:
            yield Parent(handle, OWNER, bytes(public.get_name()))
        finally:
            self.flush(handle)

    def create_signing(self, parent: Parent) -> LoadableKey:
        """A new P-256 key."""
        return self._create(parent, SIGNING_TEMPLATE)

    def create_sealing(self, parent: Parent) -> LoadableKey:
        """A new HMAC-SHA256 key."""
        return self._create(parent, SEALING_TEMPLATE)

    def _create(self, parent: Parent, template: bytes) -> LoadableKey:
        tss = self._tss
        with self._refusals():
            area, _ = tss.TPMT_PUBLIC.unmarshal(template)
            private, public, *_ = self._esapi.create(
                parent.handle, tss.TPM2B_SENSITIVE_CREATE(), tss.TPM2B_PUBLIC(publicArea=area)
            )
            return LoadableKey(parent.kind, public.marshal(), private.marshal())

    def load(self, parent: Parent, key: LoadableKey) -> int:
        """Unwrap a key; it takes one of the few places of the TPM until it is flushed."""
        tss = self._tss
        with self._refusals():
            public, _ = tss.TPM2B_PUBLIC.unmarshal(key.public)
            private, _ = tss.TPM2B_PRIVATE.unmarshal(key.private)
            # An int of the library's own kind, which is what it wants back.
            handle: int = self._esapi.load(parent.handle, private, public)
            return handle

    def flush(self, handle: int) -> None:
        """Give the place of a key back; it may be gone already."""
        with suppress(Refused), self._refusals():
            self._esapi.flush_context(handle)

    def sign(self, handle: int, digest: bytes) -> tuple[int, int]:
        """r and s of an ECDSA signature over a SHA-256 digest."""
        with self._refusals():
            made = self._esapi.sign(handle, digest, self._scheme, self._unchecked).marshal()
        # TPMT_SIGNATURE: two algorithms, then r and s, each with its length before it. Read
        # from the bytes, as each attribute of the object costs 10 us.
        middle = 6 + int.from_bytes(made[4:6], "big")
        return int.from_bytes(made[6:middle], "big"), int.from_bytes(made[middle + 2 :], "big")

    def hmac(self, handle: int, data: bytes) -> bytes:
        """HMAC-SHA256 of at most 1 024 bytes, which is what every TPM takes at once."""
        with self._refusals():
            return bytes(self._esapi.hmac(handle, data, self._tss.TPM2_ALG.NULL))

    # --- memory -------------------------------------------------------------------------

    def nv_define(self, index: int, size: int, policy: bytes) -> None:
        """Make a place of `size` bytes that is written only under `policy`."""
        tss = self._tss
        with self._refusals():
            public = tss.TPMS_NV_PUBLIC(
                nvIndex=index,
                nameAlg=tss.TPM2_ALG.SHA256,
                attributes=tss.TPMA_NV(_NV_ATTRIBUTES),
                authPolicy=policy,
                dataSize=size,
            )
            handle = self._esapi.nv_define_space(b"", tss.TPM2B_NV_PUBLIC(nvPublic=public))
        self._let_go(handle)

    def nv_is_ours(self, index: int, size: int, policy: bytes) -> bool:
        """Whether there is a place that `nv_define` made with these values."""
        with self._nv(index, size, policy) as handle:
            return handle is not None

    def nv_read(self, index: int, size: int, policy: bytes) -> bytes | None:
        """What is there; None if nothing was ever written, or the place is not ours."""
        with self._nv(index, size, policy) as handle:
            if handle is None:
                return None
            try:
                with self._refusals():
                    return bytes(self._esapi.nv_read(handle, size, 0, auth_handle=handle))
            except Refused as refused:
                if refused.code == codes.NV_UNINITIALIZED:
                    return None
                raise

    def nv_write(self, index: int, data: bytes, policy: bytes, key: int) -> None:
        """Write to a place whose policy is that `key` can be used (`nv_policy`)."""
        tss = self._tss
        with self._nv(index, len(data), policy) as handle, self._refusals():
            if handle is None:
                raise Refused(codes.NO_SUCH_HANDLE, "the place in the TPM is gone")
            session = self._esapi.start_auth_session(
                tss.ESYS_TR.NONE,
                tss.ESYS_TR.NONE,
                tss.TPM2_SE.POLICY,
                tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
                tss.TPM2_ALG.SHA256,
            )
            try:
                self._esapi.policy_secret(key, session, expiration=0)
                self._esapi.nv_write(handle, data, auth_handle=handle, session1=session)
            finally:
                self.flush(session)

    def nv_undefine(self, index: int, size: int, policy: bytes) -> None:
        """Give a place of ours back; what is not ours stays."""
        with self._nv(index, size, policy) as handle:
            if handle is not None:
                with self._refusals():
                    self._esapi.nv_undefine_space(handle)

    @contextmanager
    def _nv(self, index: int, size: int, policy: bytes) -> Iterator[Any]:
        handle = self._persistent(index)
        if handle is None:
            yield None
            return
        try:
            with self._refusals():
                public = self._esapi.nv_read_public(handle)[0].nvPublic
            found = (
                int(public.attributes) & ~_WRITTEN,
                int(public.dataSize),
                bytes(public.authPolicy),
            )
            yield handle if found == (_NV_ATTRIBUTES, size, policy) else None
        finally:
            self._let_go(handle)

    # --- below --------------------------------------------------------------------------

    def _persistent(self, tpm_handle: int) -> Any:
        try:
            with self._refusals():
                return self._esapi.tr_from_tpmpublic(tpm_handle)
        except Refused as refused:
            if refused.code == codes.NO_SUCH_HANDLE:
                return None
            raise

    def _let_go(self, handle: Any) -> None:
        # Of the library's memory, not of the TPM; an undefined place is let go already.
        with suppress(Refused), self._refusals():
            self._esapi.tr_close(handle)

    def _owner_has_password(self) -> bool:
        tss = self._tss
        with self._refusals():
            _, found = self._esapi.get_capability(
                tss.TPM2_CAP.TPM_PROPERTIES, int(tss.TPM2_PT.PERMANENT)
            )
            first = found.data.tpmProperties[0]
            return bool(int(first.value) & 1)  # TPMA_PERMANENT, ownerAuthSet

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except self._tss.TSS2_Exception as error:
            raise Refused(int(error.rc), str(error)) from None


def load_library() -> ModuleType:
    """tpm2-pytss, which takes 150 ms to import.

    Raises:
        ImportError: it, or the library it is made for, is not installed.
    """
    # Else tpm2-tss writes to standard error whatever it does not like; it looks only once.
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    return import_module("tpm2_pytss")
