"""The directory of this device as one process sees it: unlocked once, re-read when changed."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from amesh_core import disk
from amesh_core.allow_list import AllowList
from amesh_core.errors import AmeshError, IdentityReplaced, UsageError
from amesh_core.identity import DeviceKey
from amesh_core.io.home import Home
from amesh_core.io.staging import IDENTITY_FILE
from amesh_core.settings import Settings
from amesh_sdk import autopair

_T = TypeVar("_T")

log: Final = logging.getLogger("amesh.keystore")

# A failure is answered again for so long before it is looked into anew: a stranger's
# requests must not buy a key derivation, or a parse of the list, each.
RETRY_SECONDS: Final = 1.0

# How often a process that only signs looks whether its identity has another key by now.
LOOK_SECONDS: Final = 1.0

_NOT_OPEN: Final = object()  # stands for the stamp while there is no directory to ask for one


@dataclass(frozen=True, slots=True)
class _Unlocked:
    home: Home
    # Beside the home, which keeps its own lock while it reads a list.
    key: DeviceKey
    # Of identity.json, taken before it was read.
    stamp: object
    look_again: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the allow list's file held when it looked like `stamp`."""

    stamp: object
    allow_list: AllowList


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong, and until when it is not tried again unless the file changes."""

    stamp: object
    error: AmeshError
    until: float


class OpenHome:
    """A `Home` for many requests at a time, in any number of threads and event loops.

    The key is unlocked at the first use and stays so. The allow list costs one `stat` a
    request, and is read again, its seal checked, when that shows a change.
    """

    def __init__(
        self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.debug_requests = settings.debug_requests
        self._identity_path = os.fspath(settings.directory / IDENTITY_FILE)
        self._settings = settings
        self._monotonic = monotonic
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must.

        A lock may be held by a thread that does not exist in the child, and the handle of a
        hardware key is not to be shared with the parent.
        """
        self._lock = threading.Lock()
        # One thread of our own: a hundred requests that find the list changed stand in
        # line for one reading, without taking the threads of the application.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amesh")
        # Another for signatures: a chip makes one at a time, and lists must not wait for it.
        self._signing_thread = ThreadPoolExecutor(1, thread_name_prefix="amesh-sign")
        self._unlocked: _Unlocked | None = None
        self._seen: _Seen | None = None
        self._failure: _Failure | None = None
        self._reopen_after = 0.0

    def begin(self) -> None:
        """Do what cannot be left to the first request where a server has no start-up.

        That is: make the device from a bootstrap token, and announce it. Nothing else is read.

        Raises:
            BadToken, NoToken: the token cannot be used.
            HomeError, KeyStoreError: the device cannot be made or opened.
        """
        if autopair.has_work(self._settings):
            autopair.open_home(self._settings)

    def key(self) -> DeviceKey:
        """The private key, unlocked; the first call may take a fifth of a second.

        Raises:
            HomeError: there is no usable identity.
            BadToken, NoToken: there is none, and the bootstrap token to make it cannot be used.
            KeyStoreError: its key cannot be used.
        """
        return self._unlock().key

    async def akey(self) -> DeviceKey:
        """As `key`, without keeping the event loop."""
        unlocked = self._settled()
        return unlocked.key if unlocked else await self._in_thread(self.key)

    def allow_list(self) -> AllowList:
        """The list as it is on disk now, its seal checked.

        Raises:
            AllowListBroken: it cannot be believed, or is older than one that was.
            HomeError, KeyStoreError: as `key`.
        """
        try:
            return self._allow_list()
        except IdentityReplaced:
            # `amesh rotate --finish` or `amesh init --force`: the list is of another key now.
            with self._lock:
                self._open_if_replaced()
            return self._allow_list()

    def _allow_list(self) -> AllowList:
        home = self._unlock().home
        if (current := self.current()) is not None:
            return current
        with self._lock:
            if (current := self.current()) is not None:
                return current
            # Taken before the file is read: what changes while we read is read again.
            stamp = home.allow_list_stamp()
            self._raise_known_failure(stamp)
            try:
                allow_list = home.allow_list()
            except AmeshError as error:
                self._remember_failure(stamp, error)
                raise
            self._seen = _Seen(stamp, allow_list)
            return allow_list

    async def aallow_list(self) -> AllowList:
        """As `allow_list`, without keeping the event loop: 10 000 devices take a while."""
        current = self.current()
        return current if current is not None else await self._in_thread(self.allow_list)

    def current(self) -> AllowList | None:
        """The list that was read last, if its file is still the same; this one never waits."""
        unlocked, seen = self._unlocked, self._seen
        if unlocked and seen and seen.stamp == unlocked.home.allow_list_stamp():
            return seen.allow_list
        return None

    def _settled(self) -> _Unlocked | None:
        unlocked = self._unlocked
        return unlocked if unlocked and self._monotonic() < unlocked.look_again else None

    def _unlock(self) -> _Unlocked:
        if (unlocked := self._settled()) is not None:
            return unlocked
        with self._lock:
            if self._unlocked is None:
                self._raise_known_failure(_NOT_OPEN)
                try:
                    self._unlocked = self._begun()
                except AmeshError as error:
                    self._remember_failure(_NOT_OPEN, error)
                    raise
            elif self._settled() is None:
                self._open_if_replaced()
            return self._unlocked

    def _begun(self) -> _Unlocked:
        while True:
            stamp = disk.stamp(self._identity_path)
            try:
                return self._entered(autopair.open_home(self._settings), stamp)
            except IdentityReplaced:
                # Between the reading of identity.json and that of the key. It is no reason not
                # to start, unless the one that was just read is there still.
                if disk.stamp(self._identity_path) == stamp:
                    raise

    def _entered(self, home: Home, stamp: object) -> _Unlocked:
        return _Unlocked(home, home.key(), stamp, self._monotonic() + LOOK_SECONDS)

    def _open_if_replaced(self) -> None:
        """Go on with the key that the identity has by now; the caller holds the lock."""
        now, present = self._monotonic(), self._unlocked
        if present is None or now < self._reopen_after:
            return
        was, stamp = present.home.identity, disk.stamp(self._identity_path)
        try:
            if stamp != present.stamp:
                home = Home.open(self._settings)
                if home.identity.public_key != was.public_key:
                    self._unlocked = self._entered(home, stamp)
                    self._seen = self._failure = None
                    new_id = home.identity.device_id
                    log.warning("this device goes on as %s, no longer as %s", new_id, was.device_id)
                    return
            self._unlocked = replace(present, stamp=stamp, look_again=now + LOOK_SECONDS)
        except AmeshError as error:
            # What we have is as good as it was; who reads the list will say what is wrong.
            log.warning("the identity changed, and cannot be opened: %s", error)
            self._reopen_after = now + RETRY_SECONDS
            self._unlocked = replace(present, look_again=self._reopen_after)

    def _remember_failure(self, stamp: object, error: AmeshError) -> None:
        self._failure = _Failure(stamp, error, self._monotonic() + RETRY_SECONDS)

    def _raise_known_failure(self, stamp: object) -> None:
        failure = self._failure
        if failure and failure.stamp == stamp and self._monotonic() < failure.until:
            # Raised again and again, it would carry an ever longer traceback.
            raise failure.error.with_traceback(None)

    async def in_signing_thread(self, work: Callable[[], _T]) -> _T:
        """Do what the key may take long for, without keeping the event loop."""
        return await running_loop().run_in_executor(self._signing_thread, work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await running_loop().run_in_executor(self._thread, work)


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop of asyncio that runs us.

    Raises:
        UsageError: none does, but perhaps one of another library.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            "amesh works in event loops of asyncio (uvloop is one), not of trio: run the server "
            "with asyncio, or call the blocking functions in a thread"
        ) from None


_homes: dict[Settings, OpenHome] = {}
_homes_lock = threading.Lock()


def opened(settings: Settings) -> OpenHome:
    """The one `OpenHome` of this process for these settings; nothing is read yet."""
    with _homes_lock:
        if settings not in _homes:
            _homes[settings] = home = OpenHome(settings)
            # The environment says the same without the token once that was used.
            _homes.setdefault(replace(settings, bootstrap_token=None), home)
        return _homes[settings]


def _after_fork() -> None:
    global _homes_lock
    _homes_lock = threading.Lock()
    for home in _homes.values():
        home.forget()


os.register_at_fork(after_in_child=_after_fork)
