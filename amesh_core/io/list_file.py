"""allow_list.json on disk, and the mark by which an older one is known; docs/protocol.md section 2.

The list is written first and the mark second, so a process that dies between them leaves a
mark that is behind, which harms nobody. The mark is read first and the list second, so a
writer at work is never taken for somebody who puts an older list back.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from pathlib import Path

from amesh_core import disk
from amesh_core.allow_list import AllowList
from amesh_core.errors import (
    AllowListMissing,
    AllowListRolledBack,
    HomeBusy,
    HomeUnwritable,
    KeyStoreError,
)
from amesh_core.identity import DeviceKey
from amesh_core.io.staging import ALLOW_LIST_FILE
from amesh_core.keystore import KeyStore

log = logging.getLogger("amesh.keystore")


class ListFile:
    """The allow list of one directory, for the holder of its unlocked key."""

    def __init__(self, directory: Path, alias: str, store: KeyStore, key: DeviceKey) -> None:
        self._directory = directory
        self._path = directory / ALLOW_LIST_FILE
        self._alias = alias
        self._store = store
        self._key = key
        # The newest list this process believed: where the mark cannot be written, it is all
        # there is. The guard keeps one thread's older reading from being judged by what
        # another accepted meanwhile.
        self._newest = ""
        self._guard = threading.RLock()

    def read(self, *, is_locked: bool = False) -> AllowList:
        """The list as it is on disk now; `is_locked` says that the caller holds the lock.

        Raises:
            AllowListTampered: its seal does not fit.
            AllowListRolledBack: it is older than one that was there before.
            AllowListMarkBroken: what remembers that cannot be believed.
            AllowListMissing: there is none.
        """
        with self._guard:
            mark = self.mark()
            allow_list = self.read_of_any_age()
            # Fixed-width text, so the order of the texts is that of the times.
            newest = max(self._newest, mark or "")
            if allow_list.updated_at < newest:
                raise AllowListRolledBack(
                    f"{self._path} is of {allow_list.updated_at}, older than {newest},"
                    " which was there before"
                )
            self._newest = allow_list.updated_at
            # Another tool wrote it, or a writer died before it could raise the mark.
            if mark is None or mark < allow_list.updated_at:
                self._raise_mark(allow_list.updated_at, is_locked=is_locked)
            return allow_list

    def read_of_any_age(self) -> AllowList:
        """The list as it is on disk now, however old; for whoever mends the directory.

        Raises:
            AllowListTampered, AllowListMissing: as `read`.
        """
        data = disk.read_own(self._path)
        if data is None:
            raise AllowListMissing(f"there is no {self._path}")
        return AllowList.parse(data, self._key)

    def mark(self) -> str | None:
        """The `updatedAt` of the newest list remembered, if one is.

        Raises:
            AllowListMarkBroken, KeyStoreError: it cannot be believed, or read.
        """
        return self._store.newest(self._key, self._alias)

    def write(self, allow_list: AllowList) -> None:
        """Seal and write a list that is stamped as the newest; the caller holds the lock.

        Raises:
            HomeUnwritable: it cannot be written; the old list is as it was, as `disk.replace`.
        """
        data = allow_list.encode(self._key)
        with self._guard:
            disk.replace(self._path, data)
            self._newest = allow_list.updated_at
            try:
                self._store.remember(self._key, self._alias, allow_list.updated_at)
            except (HomeUnwritable, KeyStoreError) as error:
                # The list counts already, and whoever reads it next tries again.
                log.warning("the allow list is written, but not remembered: %s", error)

    def _raise_mark(self, updated_at: str, *, is_locked: bool) -> None:
        # Never waited for and never fatal: a verifier on a read-only disk goes on. flock knows
        # no owner, so who holds the lock already must not ask for it again.
        try:
            lock = nullcontext() if is_locked else disk.locked(self._directory, timeout_seconds=0)
            with lock:
                self._store.remember(self._key, self._alias, updated_at)
        except (HomeBusy, HomeUnwritable, KeyStoreError) as error:
            log.debug("the newest allow list is not remembered: %s", error)
