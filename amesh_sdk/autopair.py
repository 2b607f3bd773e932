"""A service that nobody logs in to makes its device from a bootstrap token, and announces it.

docs/protocol.md section 6. The device is made where the directory is opened first, under the
directory's lock, so that all workers of a host have one. The announcement is made in a thread
of its own, which no request ever waits for.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from amesh_core.errors import AmeshError, BadToken, NoIdentity
from amesh_core.io import announcing, bootstrapping
from amesh_core.io.announcing import Ending
from amesh_core.io.bootstrapping import FoundToken
from amesh_core.io.home import Home
from amesh_core.io.staging import ANNOUNCE_FILE
from amesh_core.settings import Settings
from amesh_core.wire import token as wire_token

# Before the first attempt. By then a server has forked its workers, which is best done while
# no thread holds a lock that the child would find taken for ever; and the first requests go
# first.
START_SECONDS: Final = 1.0
# At the end of the interpreter, for the thread to put its connection away.
STOP_SECONDS: Final = 1.0

_VARIABLE: Final = "AMESH_BOOTSTRAP_TOKEN"

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("amesh.pairing")

# Directories whose token this process, or the one it was forked from, has used or warned about.
_settled: set[Path] = set()


def open_home(settings: Settings) -> Home:
    """The directory of this device, which is made from the bootstrap token if there is none.

    Whatever comes of it, the token is not in `os.environ` afterwards, and no process that is
    started later inherits it.

    Raises:
        NoIdentity: there is no device, and no token to make one from.
        BadToken, NoToken: the token cannot be used, and nothing was made.
        HomeError, KeyStoreError: as `Home.open` and `Home.create`.
    """
    try:
        home = _open_or_create(settings)
    finally:
        # Only the one we have seen: the settings may be a program's own, for another device.
        if os.environ.get(_VARIABLE) == settings.bootstrap_token:
            os.environ.pop(_VARIABLE, None)
    if (home.directory / ANNOUNCE_FILE).exists():
        _announce_in_background(home)
    return home


def has_work(settings: Settings) -> bool:
    """Whether `open_home` has more to do than to open."""
    with suppress(AmeshError):  # which `open_home` will raise
        has_token = bootstrapping.find_token(settings) is not None
        return has_token or (settings.directory / ANNOUNCE_FILE).exists()
    return True


def _open_or_create(settings: Settings) -> Home:
    try:
        home = Home.open(settings)
    except NoIdentity:
        token = bootstrapping.find_token(settings)
        if token is None:
            raise
        home = bootstrapping.open_or_create(token, settings, time.time())
        me = home.identity
        log.info("this device is %s now, by the bootstrap token of its controller", me.device_id)
    else:
        _warn_of_useless_token(settings, home)
    _settled.add(home.directory)
    return home


def _warn_of_useless_token(settings: Settings, home: Home) -> None:
    if home.directory in _settled:
        return
    with suppress(AmeshError):  # a file that cannot be read is of no use either
        if (token := bootstrapping.find_token(settings)) and not _is_announced(token, home):
            log.warning(
                "the bootstrap token from %s is ignored: this device is %s already; take it away",
                token.source,
                home.identity.device_id,
            )


def _is_announced(token: FoundToken, home: Home) -> bool:
    """Whether it is the very token that this device was just made from: no reason to warn."""
    file = announcing.read(home.directory)
    if file is None:
        return False
    try:
        return wire_token.parse(token.text).claims.jti == file.frame.jti
    except BadToken:
        return False


# --- the announcement -------------------------------------------------------------------


class _Announcer:
    """A thread that announces one device of this process."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stopping = threading.Event()
        self._cancel: Callable[[], object] | None = None
        self._thread = threading.Thread(target=self._run, name="amesh-announce", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, without an announcement under way; another process, or start, goes on."""
        self._stopping.set()
        if self._cancel is not None:
            with suppress(RuntimeError):  # it has just ended by itself
                self._cancel()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        if self._stopping.wait(START_SECONDS):
            return
        try:
            # A loop of its own kind, whatever policy the server has set for its own.
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._announce())
        except asyncio.CancelledError:
            pass
        except AmeshError as error:
            log.warning("this device is not announced any more: %s", error)

    async def _announce(self) -> None:
        loop = asyncio.get_running_loop()
        work = loop.create_task(announcing.announce(self._home))
        self._cancel = lambda: loop.call_soon_threadsafe(work.cancel)
        if self._stopping.is_set():  # before it could be cancelled
            work.cancel()
        if await work is Ending.EXPIRED:
            log.warning(
                "the bootstrap token has ended, and its controller never acknowledged this device:"
                " it may call it all the same, but does not list it"
            )


class _DaemonThreads(ThreadPoolExecutor):
    """For looking up names, which can take half a minute: no exit waits for these threads."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run it in a thread of its own."""
        future: Future[R] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except (OSError, UnicodeError) as error:  # what a look-up raises
                future.set_exception(error)

        try:
            threading.Thread(target=run, name="amesh-resolve", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is about to end
            future.set_exception(OSError(str(error)))
        return future


class _Loop(asyncio.SelectorEventLoop):
    async def shutdown_default_executor(self, *_: object, **__: object) -> None:
        """Wait for no thread: for that it would start one, which Python 3.12 refuses at its end."""


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = _Loop()
    loop.set_default_executor(_DaemonThreads())
    # Importing `websockets` keeps it for 170 ms. Nobody else is on it, so asyncio's debug mode
    # has nothing to complain of.
    loop.slow_callback_duration = math.inf
    return loop


_announcers: dict[Path, _Announcer] = {}
_announcers_lock = threading.Lock()


def _announce_in_background(home: Home) -> None:
    with _announcers_lock:
        if home.directory in _announcers:
            return
        try:
            _announcers[home.directory] = _Announcer(home)
        except RuntimeError as error:  # no more threads, or the interpreter is about to end
            log.warning("this device is not announced: %s", error)


@atexit.register
def _stop() -> None:
    for announcer in _announcers.values():
        announcer.stop()


def _after_fork() -> None:
    # The threads are not here; whoever opens the directory in the child starts one.
    global _announcers_lock
    _announcers_lock = threading.Lock()
    _announcers.clear()


os.register_at_fork(after_in_child=_after_fork)
