"""This device moves on to a new key, also in another back end; docs/protocol.md section 8.

    begin      the new key is made and waits; the old one goes on signing
       |       its peers are given the statement, and accept it
    finish     the new key takes over: identity.json, the list under the new key's seal
       |       renamed into place together (io/staging.py)
    retired    the old key is destroyed in its back end

Killed at any step, the device has the old key or the new one, whole, and the same command
goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amesh_core import disk, keystore, rotation
from amesh_core.errors import (
    BadStatement,
    KeyFileDamaged,
    KeyMissing,
    Malformed,
    NewKeyUnusable,
    NoNewKey,
    RotationFileDamaged,
    TokensOutstanding,
    TpmChanged,
    UsageError,
)
from amesh_core.identity import DeviceKey, device_id
from amesh_core.io import identity_file, passphrase, provisioned, staging
from amesh_core.io.home import Home
from amesh_core.io.repairing import later_than
from amesh_core.io.staging import ALLOW_LIST_FILE, ANNOUNCE_FILE, IDENTITY_FILE, ROTATION_FILE
from amesh_core.keystore import KeyStore, Means
from amesh_core.wire.encoding import instant
from amesh_core.wire.files import IdentityFile
from amesh_core.wire.provisioned import ProvisionedFile
from amesh_core.wire.rotation import (
    OtherKey,
    Pending,
    Retiring,
    Statement,
    parse_rotation_file,
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A new key that waits, and what its peers are to be given.

    `is_new` is False when it waited before; `passphrase_generated` means that the passphrase
    of the new key was written beside it.
    """

    statement: Statement
    backend: str
    hardware_bound: bool
    is_new: bool
    passphrase_generated: bool = False


def find(home: Home) -> Pending | Retiring | None:
    """How far a rotation is, if one is under way.

    Raises:
        RotationFileDamaged: rotation.json cannot be read, or is not of the present key.
    """
    path = home.directory / ROTATION_FILE
    data = disk.read_own(path)
    try:
        file = None if data is None else parse_rotation_file(data)
    except Malformed as error:
        raise RotationFileDamaged(f"{path}: {error}") from None
    match file:
        case Pending(key) | Retiring(key) if key.key_alias == home.file.key_alias:
            # Of a backup, or planted. The key that it names would be destroyed.
            raise RotationFileDamaged(f"{path}: the key that it names is the present one")
    return file


def begin(home: Home, *, backend: str | None, now: float) -> Waiting:
    """Make a new key that waits, or find the one that does.

    `backend` None is the one of the present key.

    Raises:
        UsageError: another back end than the one whose key waits already.
        BadStatement: the key that waits has waited too long; it is to be dropped.
        NewKeyUnusable: it is gone; it is to be dropped, too.
        KeyStoreError: the old or the new key cannot be used.
        HomeUnwritable, HomeBusy, IdentityReplaced: the directory cannot be changed.
    """
    old = home.key()
    wanted = backend or home.backend
    with _alone(home):
        _retire(home)
        match find(home):
            case Pending() as file:
                if backend not in (None, file.new.storage_backend):
                    raise UsageError(
                        f"a new key waits in {file.new.storage_backend}; `amesh rotate --abort`"
                        " drops it"
                    )
                _load(home, file, now)
                store = _store(home, file.new.storage_backend)
                return Waiting(
                    file.statement, file.new.storage_backend, store.hardware_bound, is_new=False
                )
        secret = _secret(home)
        with staging.staged(home.directory) as stage:
            store = keystore.open_store(wanted, stage, Means(secret, home.settings.tpm_tcti))
            new = store.create()
            # From the rename on it counts, though rotation.json may not be in its place yet.
            with keystore.deleted_after_an_error(
                store,
                device_id(new.public),
                unless=lambda: (
                    staging.is_replacing(home.directory) or isinstance(find(home), Pending)
                ),
            ):
                statement = rotation.state(old, new, home.identity.friendly_name, now)
                key = OtherKey(device_id(new.public), new.public, wanted)
                disk.write_new(stage / ROTATION_FILE, Pending(key, statement).encode())
                if secret.generated is not None:
                    path = stage / passphrase.FILE
                    disk.write_new(path, secret.generated, mode=passphrase.MODE)
                staging.amend(home.directory, stage, discard=())
    is_generated = secret.generated is not None
    return Waiting(statement, wanted, store.hardware_bound, True, is_generated)


def abort(home: Home) -> Pending:
    """Destroy the key that waits.

    Raises:
        NoNewKey, RotationFileDamaged: none does, or nobody can say which.
        KeyStoreError: its back end refuses; the next try goes on there.
        HomeUnwritable, HomeBusy, IdentityReplaced: the directory cannot be changed.
    """
    with _alone(home):
        file = find(home)
        if not isinstance(file, Pending):
            raise NoNewKey(str(home.directory))
        _store(home, file.new.storage_backend).delete(file.new.key_alias)
        if _is_passphrase_of_new_key_only(home, file):
            disk.remove(home.directory / passphrase.FILE)
        # Last: until then, whoever aborts again finds what is left.
        disk.remove(home.directory / ROTATION_FILE)
        disk.sync_directory(home.directory)
    return file


def finish(home: Home, *, force: bool, now: float) -> Home:
    """Let the key that waits take over, destroy the old one, and open the directory anew.

    Everything of identity.json but the key stays, and so does the allow list, sealed by the
    new key. With `force`, bootstrap tokens that could still be used are cancelled.

    Raises:
        NoNewKey: none waits, and no old one is left to be destroyed.
        TokensOutstanding: tokens of the old key could still be used, and `force` is not set.
        BadStatement, NewKeyUnusable: it has waited too long, or is gone.
        AllowListBroken: there is no list that could be carried over.
        KeyStoreError: either key cannot be used, or the old one not be destroyed: then the
            new one counts already, and the next try destroys the old one.
        HomeUnwritable, HomeBusy, IdentityReplaced: the directory cannot be changed.
    """
    home.key()
    with _alone(home) as present:
        match find(home):
            case None:
                raise NoNewKey(str(home.directory))
            case Pending() as file:
                _take_over(home, present, file, force=force, now=now)
    # Opened anew, it is the directory of the new key, whose old one is to be destroyed.
    renewed = Home.open(home.settings)
    with _alone(renewed):
        _retire(renewed)
    return renewed


def _take_over(
    home: Home, present: IdentityFile, file: Pending, *, force: bool, now: float
) -> None:
    new = _load(home, file, now)
    store = _store(home, file.new.storage_backend)
    directory = home.directory
    allow_list = home.list_file().read(is_locked=True)
    # A kill may have left a mark of the new key that is ahead of its list.
    newest = store.newest(new, file.new.key_alias)
    carried = later_than(newest, allow_list).stamped(now)
    carried = dataclasses.replace(carried, owner=new.public)
    tokens = _tokens(home, force=force, now=now)
    with staging.staged(directory) as stage:
        if tokens.tokens:
            sealed = dataclasses.replace(tokens, seal=new.mac(tokens.sealed_bytes()))
            disk.write_new(stage / provisioned.PROVISIONED_FILE, sealed.encode())
        disk.write_new(stage / ALLOW_LIST_FILE, carried.encode(new))
        old = OtherKey(home.file.key_alias, home.identity.public_key, home.backend)
        disk.write_new(stage / ROTATION_FILE, Retiring(old).encode())
        disk.write_new(stage / IDENTITY_FILE, _identity(present, file).encode())
        store.remember(new, file.new.key_alias, carried.updated_at)
        discard = [Path(ANNOUNCE_FILE)]
        if file.new.storage_backend != "encrypted-file":
            discard.append(Path(passphrase.FILE))
        staging.amend(directory, stage, discard=discard)


def _identity(present: IdentityFile, file: Pending) -> IdentityFile:
    # As it is on disk now: name and limit may have been changed since it was opened.
    return dataclasses.replace(
        present,
        device_id=device_id(file.new.public_key),
        key_alias=file.new.key_alias,
        public_key=file.new.public_key,
        storage_backend=file.new.storage_backend,
        passphrase=None,
    )


def _tokens(home: Home, *, force: bool, now: float) -> ProvisionedFile:
    tokens = provisioned.read(home)
    outstanding = [minted for minted in tokens if minted.is_outstanding(now)]
    if outstanding and not force:
        raise TokensOutstanding(", ".join(minted.jti for minted in outstanding))
    # They name the old key, which can acknowledge nobody any more.
    return ProvisionedFile(
        tuple(
            dataclasses.replace(minted, cancelled_at=instant(now))
            if minted in outstanding
            else minted
            for minted in tokens
        )
    )


def _retire(home: Home) -> None:
    """Destroy an old key that gave its place away; the caller holds the lock."""
    match find(home):
        case Retiring(old):
            _store(home, old.storage_backend).delete(old.key_alias)
            disk.remove(home.directory / ROTATION_FILE)
            disk.sync_directory(home.directory)


def _load(home: Home, file: Pending, now: float) -> DeviceKey:
    """The key that waits, once it is known to be one that the present key spoke for."""
    # Who can write the directory could put a key of his there; the old key never signed it.
    if file.statement.old_key != home.identity.public_key:
        raise BadStatement("the key that waits is to take the place of another one")
    if file.statement.new_key != file.new.public_key:
        raise BadStatement("the statement is of another key than the one that waits")
    rotation.check(file.statement, now)
    store = _store(home, file.new.storage_backend)
    try:
        return store.load(file.new.key_alias, file.new.public_key)
    except (KeyMissing, KeyFileDamaged, TpmChanged) as error:
        # Of the present key, these would mean that the identity is lost.
        raise NewKeyUnusable(f"the new key cannot be used: {error}") from None


def _store(home: Home, backend: str) -> KeyStore:
    means = Means(_secret(home), home.settings.tpm_tcti)
    return keystore.open_store(backend, home.directory, means)


def _secret(home: Home) -> passphrase.ForNewKey:
    # An encrypted file has the passphrase that this directory has already, if it has one.
    return passphrase.ForNewKey(home.settings, home.directory)


def _is_passphrase_of_new_key_only(home: Home, file: Pending) -> bool:
    return file.new.storage_backend == "encrypted-file" and home.backend != "encrypted-file"


@contextmanager
def _alone(home: Home) -> Iterator[IdentityFile]:
    """The lock of the directory, while it is still that of this identity; gives identity.json."""
    with disk.locked(home.directory):
        yield identity_file.unreplaced(home.directory, home.identity)
