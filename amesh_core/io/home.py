"""The directory a device lives in: identity, key, allow list; docs/protocol.md section 2.

Reading needs no lock and works on a read-only disk; every change is made under the lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from amesh_core import disk, identity, keystore
from amesh_core.allow_list import AllowList
from amesh_core.errors import (
    AllowListBroken,
    AllowListMissing,
    AllowListRolledBack,
    IdentityExists,
    IdentityReplaced,
    KeyStoreError,
    Malformed,
    NoIdentity,
    UsageError,
    WrongPassphrase,
)
from amesh_core.identity import DeviceKey, Identity, check_name
from amesh_core.io import identity_file, passphrase, staging
from amesh_core.io.passphrase import Found
from amesh_core.io.staging import ALLOW_LIST_FILE, IDENTITY_FILE
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
        self._allow_list_path = os.fspath(settings.directory / ALLOW_LIST_FILE)
        self._settings = settings
        self._file = file
        self._key: DeviceKey | None = None
        # The newest list this process believed (docs/protocol.md section 2). The guard keeps
        # one thread's older reading from being judged by what another accepted meanwhile.
        self._newest = ""
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
        now: float,
    ) -> Created:
        """Make a device: key, sealed empty allow list, and identity.json last.

        With `replace`, an identity that is there goes into a dated backup directory, which
        works as a directory of its own; it stays in its place if anything fails. `backend`
        None takes the best one of this machine.

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
        secret = _NewPassphrase(settings)
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
            with staging.staged(directory) as stage:
                store = keystore.open_store(choice.backend, stage, means)
                key = store.create()
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
                disk.write_new(stage / ALLOW_LIST_FILE, allow_list.encode(key))
                disk.write_new(stage / IDENTITY_FILE, file.encode())
                backup = staging.back_up(directory, stage, now) if exists else None
                staging.commit(directory, stage)
        home = cls(settings, file)
        home._key = key
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
        data = disk.read(path)
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
        with self._guard, self._unless_replaced():
            if self._key is None:
                self._key = self._unlock()
            return self._key

    def passphrase_source(self) -> str | None:
        """The place that the passphrase comes from; None for a back end without one.

        Raises:
            NoPassphrase: no place has one.
            UnsafePermissions, HomeUnwritable: it cannot be read, or by others, too.
        """
        if self.backend != "encrypted-file":
            return None
        return passphrase.find(self._settings, self.directory, self._file.passphrase).source

    def allow_list(self) -> AllowList:
        """The allow list as it is on disk now.

        Raises:
            AllowListTampered: its seal does not fit.
            AllowListRolledBack: it is older than one this object has seen.
            AllowListMissing: there is none.
            IdentityReplaced: it is that of a new identity.
            KeyStoreError: the seal cannot be checked, as `key`.
        """
        key = self.key()
        path = self.directory / ALLOW_LIST_FILE
        with self._guard, self._unless_replaced():
            data = disk.read(path)
            if data is None:
                raise AllowListMissing(f"there is no {path}")
            allow_list = AllowList.parse(data, key)
            # Fixed-width text, so the order of the texts is that of the times.
            if allow_list.updated_at < self._newest:
                raise AllowListRolledBack(
                    f"{path} is of {allow_list.updated_at}, older than {self._newest},"
                    " which was there before"
                )
            self._newest = allow_list.updated_at
            return allow_list

    @contextmanager
    def editing_allow_list(self, now: float) -> Iterator[AllowListEdit]:
        """Change the allow list, alone: lock, read, check, and at the end write.

        An exception inside, or no change, writes nothing.

        Raises:
            HomeBusy: another process holds the lock for too long.
            HomeUnwritable: it cannot be written; the old list is as it was.
            AllowListBroken: as `allow_list`.
        """
        self.key()  # before the lock: nobody need wait for the unlocking
        with disk.locked(self.directory):
            staging.settle(self.directory)
            before = self.allow_list()
            edit = AllowListEdit(before)
            yield edit
            if edit.allow_list is not before:
                after = edit.allow_list.stamped(now)
                data = after.encode(self.key())
                with self._guard:
                    disk.replace(self.directory / ALLOW_LIST_FILE, data)
                    self._newest = after.updated_at

    def allow_list_stamp(self) -> tuple[int, ...] | None:
        """A value that is another one once the list may be; None while there is no list.

        One `stat` of what the path leads to, so exchanging a symbolic link above it counts.
        """
        try:
            # Once a request: as text, a path costs a fifth of what a Path does.
            found = os.stat(self._allow_list_path)  # noqa: PTH116
        except OSError:
            # Why it cannot be read is for `allow_list` to say.
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _unlock(self) -> DeviceKey:
        used: list[Found] = []

        def secret() -> bytes:
            used.append(passphrase.find(self._settings, self.directory, self._file.passphrase))
            return used[0].secret

        means = keystore.Means(secret, self._settings.tpm_tcti)
        store = keystore.open_store(self.backend, self.directory, means)
        try:
            return store.load(self._file.key_alias, self.identity.public_key)
        except WrongPassphrase as error:
            raise WrongPassphrase(f"{error} (passphrase from {used[0].source})") from None

    @contextmanager
    def _unless_replaced(self) -> Iterator[None]:
        # Key, passphrase and list are three files. If they do not fit, it may be because a
        # new identity's are among them, and then nobody tampered with anything.
        try:
            yield
        except (AllowListBroken, KeyStoreError):
            if not staging.is_replacing(self.directory):
                present = identity_file.read(self.directory)
                if present is None:
                    raise NoIdentity(str(self.directory)) from None
                if present.public_key == self.identity.public_key:
                    raise
            raise IdentityReplaced(self.identity.device_id, str(self.directory)) from None


class _NewPassphrase:
    """The operator's passphrase for a new key, else one that is generated when asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.generated: bytes | None = None

    def __call__(self) -> bytes:
        found = passphrase.from_operator(self._settings)
        if found is not None:
            return found.secret
        self.generated = passphrase.generate()
        return self.generated
