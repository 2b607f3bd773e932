"""The directory a device lives in: identity, key, allow list; docs/protocol.md section 2.

Reading needs no lock and works on a read-only disk; every change is made under the lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from amesh_core import disk, identity, keystore
from amesh_core.allow_list import AllowList
from amesh_core.device import BOOTSTRAP, BY_BOOTSTRAP
from amesh_core.errors import (
    AllowListBroken,
    IdentityExists,
    IdentityReplaced,
    KeyStoreError,
    Malformed,
    NoIdentity,
    UsageError,
)
from amesh_core.identity import DeviceKey, Identity, Peer, check_name
from amesh_core.io import identity_file, passphrase, staging
from amesh_core.io.list_file import ListFile
from amesh_core.io.staging import ALLOW_LIST_FILE, ANNOUNCE_FILE, IDENTITY_FILE
from amesh_core.io.unlocking import Unlocked, unlock
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from amesh_core.wire.files import DEFAULT_MAX_CONTROLLERS, IdentityFile, parse_config

CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True, slots=True)
class Created:
    """What `init` has to tell its person.

    `reasons` says for each better back end why it was not chosen; with `hardware_bound`
    False, the key is protected by software only; `passphrase_generated` means that the
    passphrase lies beside the key; `backup` holds the identity that was replaced.
    """

    home: Home
    reasons: Mapping[str, str]
    hardware_bound: bool
    passphrase_generated: bool
    backup: Path | None


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What a device that is made from a token begins with (docs/protocol.md section 6).

    `announcement` gives announce.json, which names the new key and is signed with it.
    """

    controller: Peer
    announcement: Callable[[DeviceKey], bytes]


@dataclass(slots=True)
class AllowListEdit:
    """The allow list while its lock is held; what `allow_list` is at the end is written."""

    allow_list: AllowList


class Home:
    """One device's directory, opened; the key is unlocked at its first use, and once."""

    def __init__(self, settings: Settings, file: IdentityFile) -> None:
        self.directory = settings.directory
        self.identity = Identity(file.device_id, file.public_key, file.friendly_name)
        self.backend = file.storage_backend
        self.max_controllers = file.max_controllers
        self.created_at = file.created_at
        self._list_path = os.fspath(settings.directory / ALLOW_LIST_FILE)
        self.settings = settings
        self.file = file
        self._unlocked: Unlocked | None = None
        self._guard = threading.RLock()

    @classmethod
    def open(cls, settings: Settings) -> Home:
        """Open the directory of an initialised device.

        Raises:
            NoIdentity: nothing was initialised there.
            IdentityDamaged: identity.json is not what it must be.
            UnsafePermissions: other users may look into the directory.
            HomeUnwritable, HomeBusy: it cannot be read, or a killed `init --force` cannot
                be finished.
        """
        directory = settings.directory
        if not disk.check_directory(directory):
            raise NoIdentity(str(directory))
        file = identity_file.read_settled(directory)
        if file is None:
            raise NoIdentity(str(directory))
        if file.passphrase is not None:
            file = identity_file.move_passphrase_out(directory, file)
        return cls(settings, file)

    @classmethod
    def create(
        cls,
        settings: Settings,
        *,
        name: str,
        backend: str | None = None,
        max_controllers: int = DEFAULT_MAX_CONTROLLERS,
        replace: bool = False,
        bootstrap: Bootstrap | None = None,
        now: float,
    ) -> Created:
        """Make a device: key, sealed allow list, and identity.json last.

        With `replace`, an identity that is there goes into a dated backup directory, which
        works as a directory of its own; it stays in its place if anything fails. `backend`
        None takes the best one of this machine. The list is empty, but for the controller
        of a bootstrap token.

        Raises:
            UsageError: the name is no good name, or nobody could be a controller.
            IdentityExists: there is one, and `replace` is not set.
            KeyStoreError: the back end cannot be used, or the operator's passphrase.
            UnsafePermissions: the directory exists, and other users may look into it.
            HomeUnwritable, HomeBusy: it cannot be written.
        """
        try:
            check_name(name)
        except Malformed as error:
            raise UsageError(str(error)) from None
        if max_controllers < 1:
            raise UsageError("a device has room for at least one controller")
        secret = passphrase.ForNewKey(settings)
        means = keystore.Means(secret, settings.tpm_tcti)
        choice = keystore.detect(means) if backend is None else keystore.Choice(backend, {})
        directory = settings.directory
        disk.make_directory(directory)
        disk.check_directory(directory)
        with disk.locked(directory):
            staging.settle(directory)
            exists = (directory / IDENTITY_FILE).exists()
            # A damaged identity can be replaced, but is not overwritten unasked either.
            if not replace and (present := identity_file.read(directory)) is not None:
                raise IdentityExists(present.device_id, str(directory))
            with staging.staged(directory) as stage, ExitStack() as undo:
                store = keystore.open_store(choice.backend, stage, means)
                key = store.create()
                undo.enter_context(
                    keystore.deleted_after_an_error(
                        store,
                        identity.device_id(key.public),
                        unless=partial(identity_file.counts, directory, key.public),
                    )
                )
                file = IdentityFile(
                    device_id=identity.device_id(key.public),
                    key_alias=identity.device_id(key.public),
                    public_key=key.public,
                    friendly_name=name,
                    created_at=instant(now),
                    storage_backend=choice.backend,
                    max_controllers=max_controllers,
                )
                if secret.generated is not None:
                    path = stage / passphrase.FILE
                    disk.write_new(path, secret.generated, mode=passphrase.MODE)
                allow_list = AllowList.empty(key.public, now)
                if bootstrap is not None:
                    allow_list = allow_list.record(
                        bootstrap.controller,
                        added_by=BY_BOOTSTRAP,
                        pairing=BOOTSTRAP,
                        now=now,
                        limit=max_controllers,
                    )
                    disk.write_new(stage / ANNOUNCE_FILE, bootstrap.announcement(key))
                disk.write_new(stage / ALLOW_LIST_FILE, allow_list.encode(key))
                store.remember(key, file.key_alias, allow_list.updated_at)
                disk.write_new(stage / IDENTITY_FILE, file.encode())
                backup = staging.back_up(directory, stage, now) if exists else None
                # Its operator may have put it there, and named it.
                named = secret.of_operator
                keep_passphrase = named is not None and named.lies_beside_key(directory)
                staging.commit(directory, stage, keep_passphrase=keep_passphrase)
        home = cls(settings, file)
        # The one above lies in the stage, which is gone.
        store = keystore.open_store(choice.backend, directory, means)
        home._unlocked = Unlocked(key, ListFile(directory, file.key_alias, store, key))
        return Created(
            home, choice.reasons, store.hardware_bound, secret.generated is not None, backup
        )

    @property
    def relay_url(self) -> str | None:
        """The relay that config.json names, if it names one.

        Raises:
            UsageError: config.json is not JSON, or its relay no ws:// or wss:// URL.
        """
        path = self.directory / CONFIG_FILE
        data = disk.read_own(path)
        try:
            return parse_config(data) if data is not None else None
        except Malformed as error:
            raise UsageError(f"{path}: {error}") from None

    def key(self) -> DeviceKey:
        """This device's key; the first call unlocks it (200 ms for an encrypted file).

        Raises:
            KeyStoreError: no passphrase, a wrong one, a damaged or missing key, a back end
                that cannot be used.
            IdentityReplaced: it is gone because there is a new identity.
            UnsafePermissions: others may read the key or the passphrase.
        """
        return self._unlock().key

    def passphrase_source(self) -> str | None:
        """The place that the passphrase comes from; None for a back end without one.

        Raises:
            NoPassphrase: no place has one.
            UnsafePermissions, HomeUnwritable: it cannot be read, or by others, too.
        """
        if self.backend != "encrypted-file":
            return None
        return passphrase.find(self.settings, self.directory, self.file.passphrase).source

    def allow_list(self) -> AllowList:
        """The allow list as it is on disk now.

        Raises:
            AllowListTampered: its seal does not fit.
            AllowListRolledBack: it is older than one that was there before.
            AllowListMarkBroken: what remembers that cannot be believed.
            AllowListMissing: there is none.
            IdentityReplaced: it is that of a new identity.
            KeyStoreError: the seal cannot be checked, as `key`.
        """
        list_file = self._unlock().list_file
        with self._unless_replaced():
            return list_file.read()

    def list_file(self) -> ListFile:
        """The list as a file, for those who mend or move it.

        Raises:
            KeyStoreError, IdentityReplaced: as `key`.
        """
        return self._unlock().list_file

    @contextmanager
    def editing_allow_list(self, now: float) -> Iterator[AllowListEdit]:
        """Change the allow list, alone: lock, read, check, and at the end write.

        An exception inside, or no change, writes nothing.

        Raises:
            HomeBusy: another process holds the lock for too long.
            HomeUnwritable: it cannot be written; the old list is as it was.
            AllowListBroken: as `allow_list`.
        """
        list_file = self._unlock().list_file  # before the lock: nobody need wait for it
        with disk.locked(self.directory):
            staging.settle(self.directory)
            with self._unless_replaced():
                before = list_file.read(is_locked=True)
            edit = AllowListEdit(before)
            yield edit
            if edit.allow_list is not before:
                list_file.write(edit.allow_list.stamped(now))

    def allow_list_stamp(self) -> tuple[int, ...] | None:
        """A value that is another one once the list may be; None while there is no list.

        One `stat` of what the path leads to, so exchanging a symbolic link above it counts.
        """
        return disk.stamp(self._list_path)

    def _unlock(self) -> Unlocked:
        with self._guard, self._unless_replaced():
            if self._unlocked is None:
                self._unlocked = unlock(self.settings, self.file)
            return self._unlocked

    @contextmanager
    def _unless_replaced(self) -> Iterator[None]:
        # Key, passphrase and list are three files. If they do not fit, it may be because a
        # new identity's are among them, and then nobody tampered with anything.
        try:
            yield
        except (AllowListBroken, KeyStoreError):
            is_there = disk.exists(self.directory)
            present = identity_file.read_settled(self.directory) if is_there else None
            if present is None:
                raise NoIdentity(str(self.directory)) from None
            if present.public_key == self.identity.public_key:
                raise
            raise IdentityReplaced(self.identity.device_id, str(self.directory)) from None
