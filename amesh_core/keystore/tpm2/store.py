"""The keys of one directory in a TPM: three files that are of no use anywhere else.

    keys/<alias>.tpm2.pem       the key that signs, as a TSS2 PRIVATE KEY
    keys/<alias>.tpm2.json      the key that seals, and where the newest list is remembered;
                                signed with the key that signs, so none can be exchanged
    keys/<alias>.newest.json    only where the TPM does not remember: sealed_mark.py

docs/protocol.md section 2.2.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from amesh_core import crypto, disk
from amesh_core.errors import (
    AllowListMarkBroken,
    BadSignature,
    HomeUnwritable,
    KeyFileDamaged,
    KeyMissing,
    KeyStoreError,
    Malformed,
    TpmOwnerPassword,
)
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore.sealed_mark import read_mark, write_mark
from amesh_core.keystore.tpm2 import mark
from amesh_core.keystore.tpm2.chip import Chip, DeviceKeys, Line
from amesh_core.wire.encoding import parse_instant
from amesh_core.wire.files import check_alias
from amesh_core.wire.tss2 import LoadableKey, PartsFile, parts_to_sign

log = logging.getLogger("amesh.keystore")

# Four million indices, mostly free: if so many are taken, something is wrong.
_ATTEMPTS: Final = 8


class Tpm2Store:
    """The keys in `<directory>/keys` that one TPM made."""

    hardware_bound: Final = True

    def __init__(self, directory: Path, chip: Chip) -> None:
        self._keys = directory / "keys"
        self._chip = chip

    def create(self) -> DeviceKey:
        """Make both keys in the TPM and write their files."""
        keys = self._chip.use(_make)
        key = TpmKey(self._chip, keys)
        alias = device_id(key.public)
        indices = _some_indices()
        index = self._chip.use(lambda line: mark.define(line, keys, indices, mark.NOTHING_YET))
        with self._undefined_after_an_error(keys, index):
            try:
                disk.make_subdirectory(self._keys)
                disk.write_new(self._pem(alias), keys.signing.encode())
                disk.write_new(self._parts(alias), _parts_file(key, keys, index).encode())
                disk.sync_directory(self._keys)
            except BaseException:
                for path in (self._parts(alias), self._pem(alias)):
                    with suppress(HomeUnwritable):
                        disk.remove(path)
                raise
        return key

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """Load both keys, which is where a TPM that did not make them refuses.

        Raises:
            KeyMissing: there is no such file.
            UnsafePermissions: others may read it.
            KeyFileDamaged: it is no key file, was changed, or is that of another key.
            TpmChanged: the TPM was cleared, or is another one.
        """
        keys, _ = self._read(alias, public)
        try:
            self._chip.use(lambda line: line.load(keys))
        except KeyFileDamaged as error:
            raise KeyFileDamaged(f"{self._pem(alias)}: {error}") from None
        return TpmKey(self._chip, keys)

    def delete(self, alias: str) -> None:
        """Delete the files and the place in the TPM; they may be gone already."""
        pem, parts = self._pem(alias), self._parts(alias)
        data, more = disk.read_own(pem), disk.read_own(parts)
        if data is not None and more is not None:
            self._clear(alias, data, more)
        disk.destroy(parts, pem, self._mark_file(alias))

    def newest(self, key: DeviceKey, alias: str) -> str | None:
        """The newest allow list, as the TPM remembers it, or the file that stands in for it.

        Nothing is remembered for a key that was deleted.

        Raises:
            AllowListMarkBroken: it does not, although it did.
        """
        if not self._is_there(alias):
            return None
        keys, parts = self._read(alias, key.public)
        index = parts.nv_index
        if index is None:
            return read_mark(self._mark_file(alias), key)
        return self._chip.use(lambda line: mark.read(line, keys, index))

    def remember(self, key: DeviceKey, alias: str, updated_at: str) -> None:
        """Write it to the TPM, unless a newer one is there; make the place anew if it is gone.

        Raises:
            Malformed: it is no instant.
        """
        parse_instant(updated_at)
        keys, parts = self._read(alias, key.public)
        index = parts.nv_index
        if index is None:
            write_mark(self._mark_file(alias), key, updated_at)
            return

        def advance(line: Line) -> None:
            present = mark.read(line, keys, index)
            # Fixed-width text, so the order of the texts is that of the times.
            if present is None or present < updated_at:
                mark.write(line, keys, index, updated_at.encode("ascii"))

        try:
            self._chip.use(advance)
        except AllowListMarkBroken:
            self._mend_mark(key, alias, keys, index, updated_at)

    def _mend_mark(
        self, key: DeviceKey, alias: str, keys: DeviceKeys, index: int, updated_at: str
    ) -> None:
        # At the same index if nobody took it meanwhile: then no file has to change.
        indices = [index, *_some_indices()]
        first = updated_at.encode("ascii")
        found = self._chip.use(lambda line: mark.define(line, keys, indices, first))
        if found == index:
            return
        with self._undefined_after_an_error(keys, found):
            if found is None:
                write_mark(self._mark_file(alias), key, updated_at)
            disk.replace(self._parts(alias), _parts_file(key, keys, found).encode())

    def _read(self, alias: str, public: bytes) -> tuple[DeviceKeys, PartsFile]:
        signing = self._signing(alias, public)
        path = self._parts(alias)
        try:
            parts = PartsFile.parse(_private(path))
            crypto.verify(public, parts.signature, parts.signed_bytes(public))
            if parts.sealing.parent != signing.parent:
                raise Malformed("the two keys have different parents")
        except (Malformed, BadSignature) as error:
            raise KeyFileDamaged(f"{path} is not the one of this key: {error}") from None
        return DeviceKeys(signing, parts.sealing, parts.parent_name), parts

    def _signing(self, alias: str, public: bytes) -> LoadableKey:
        path = self._pem(alias)
        try:
            signing = LoadableKey.parse(_private(path))
            found = signing.point()
        except Malformed as error:
            raise KeyFileDamaged(f"{path} is no key file: {error}") from None
        if found != public:
            raise KeyFileDamaged(f"{path} is the file of another key")
        return signing

    def _clear(self, alias: str, pem: bytes, parts: bytes) -> None:
        try:
            file = PartsFile.parse(parts)
            keys = DeviceKeys(LoadableKey.parse(pem), file.sealing, file.parent_name)
        except Malformed:
            return
        self._chip.use(lambda line: line.forget(keys))
        if file.nv_index is not None:
            try:
                self._undefine(keys, file.nv_index)
            except TpmOwnerPassword:
                log.warning(
                    "the TPM's owner has a password: 24 bytes stay in the TPM at 0x%x, of no use"
                    " without %s",
                    *(file.nv_index, alias),
                )

    @contextmanager
    def _undefined_after_an_error(self, keys: DeviceKeys, index: int | None) -> Iterator[None]:
        # Until a file names the place, nobody else would ever give it back.
        try:
            yield
        except BaseException:
            if index is not None:
                with suppress(KeyStoreError):  # the first error is the one to tell
                    self._undefine(keys, index)
            raise

    def _undefine(self, keys: DeviceKeys, index: int) -> None:
        # Only if its policy names this key: the file alone could name anybody's place.
        ours = mark.policy(keys)
        self._chip.use(lambda line: line.connection.nv_undefine(index, mark.SIZE_BYTES, ours))

    def _is_there(self, alias: str) -> bool:
        with disk.explained(self._keys):
            return self._pem(alias).exists() or self._parts(alias).exists()

    def _pem(self, alias: str) -> Path:
        return self._path(alias, "tpm2.pem")

    def _parts(self, alias: str) -> Path:
        return self._path(alias, "tpm2.json")

    def _mark_file(self, alias: str) -> Path:
        return self._path(alias, "newest.json")

    def _path(self, alias: str, kind: str) -> Path:
        # The alias comes out of identity.json: it must not lead out of the directory.
        try:
            return self._keys / f"{check_alias(alias)}.{kind}"
        except Malformed as error:
            raise KeyFileDamaged(str(error)) from None


class TpmKey:
    """A key that never was, and never will be, outside its TPM."""

    __slots__ = ("_chip", "_keys", "_public")

    def __init__(self, chip: Chip, keys: DeviceKeys) -> None:
        self._chip = chip
        self._keys = keys
        self._public = keys.signing.point()

    @property
    def public(self) -> bytes:
        """The 33-byte compressed point."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """64 bytes r || s, low-S, ECDSA over SHA-256(message).

        Raises:
            KeyStoreError: the TPM refuses, or cannot be reached.
        """
        keys, digest = self._keys, crypto.sha256(message)
        r, s = self._chip.use(lambda line: line.connection.sign(line.signing(keys), digest))
        return crypto.raw_low_s(r, s)

    def mac(self, message: bytes) -> bytes:
        """32 bytes HMAC-SHA256 over SHA-256(message) under the key that seals.

        Over its hash, as the TPM takes 1 024 bytes at a time and a chip 10 ms for each.

        Raises:
            KeyStoreError: the TPM refuses, or cannot be reached.
        """
        keys, digest = self._keys, crypto.sha256(message)
        return self._chip.use(lambda line: line.connection.hmac(line.sealing(keys), digest))

    def __repr__(self) -> str:
        return f"TpmKey({device_id(self._public)})"

    def __reduce__(self) -> str:
        raise TypeError("a key in a TPM is not pickled")


def _make(line: Line) -> DeviceKeys:
    connection = line.connection
    with connection.best_parent() as parent:
        signing = connection.create_signing(parent)
        sealing = connection.create_sealing(parent)
    return DeviceKeys(signing, sealing, parent.name)


def _parts_file(key: DeviceKey, keys: DeviceKeys, index: int | None) -> PartsFile:
    signed = parts_to_sign(key.public, keys.sealing, keys.parent_name, index)
    return PartsFile(keys.sealing, keys.parent_name, index, key.sign(signed))


def _some_indices() -> list[int]:
    # Chosen before anything is sent: a second attempt finds what the first one made.
    return [mark.FIRST_INDEX + secrets.randbelow(mark.INDICES) for _ in range(_ATTEMPTS)]


def _private(path: Path) -> bytes:
    data = disk.read_private(path)
    if data is None:
        raise KeyMissing(f"there is no {path}")
    return data
