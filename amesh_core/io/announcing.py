"""Tell the controller of a token which device took it; docs/protocol.md section 6.

The device works without this. So whatever a relay does, nothing here is ever waited for by a
request: the attempts go on, slower and slower, until the controller has acknowledged or the
token has ended. Of all processes of a device one announces at a time: the one that holds
a lock on announce.json itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Final

from amesh_core import disk, provisioning
from amesh_core.errors import (
    AmeshError,
    BootstrapError,
    Malformed,
    NotAcknowledged,
    RelayError,
    RelayLost,
)
from amesh_core.io.home import Home
from amesh_core.io.relay_line import access_token, connected
from amesh_core.io.staging import ANNOUNCE_FILE
from amesh_core.wire import relay as wire
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.encoding import b64, parse_instant

# A controller answers without asking a person, but may have to write its list first. The
# relay gives it 60 s for that.
ANSWER_SECONDS: Final = 30.0
# Between attempts: quickly at first, as a relay that restarts is back in seconds; then about
# once a minute, for an operator who comes back to `amesh provision --watch`. The relay takes
# 10 announcements of one token a minute.
FIRST_PAUSE_SECONDS: Final = 3.0
LONGEST_PAUSE_SECONDS: Final = 60.0
_JITTER: Final = 0.2  # devices that lost one relay together do not come back together
_random: Final = secrets.SystemRandom()
# How often a process looks whether the one that announces is gone; costs an open and a flock.
TURN_SECONDS: Final = 5.0

# What a refusal means; who wrote it, nobody knows. The identifiers are those of docs/protocol.md
# section 4 and of `provision_watch`.
_REFUSALS: Final = {
    "no_watcher": "its controller is not waiting for it now",
    "token_already_used": "the token was used, by this device or another",
    "token_not_usable": "the controller has cancelled the token, or revoked what came of it",
    "already_listed": "the controller lists this device already",
    "relay_overloaded": "the relay is busy",
}

Pause = Callable[[float], Awaitable[None]]
Trouble = Callable[[AmeshError], None]

log = logging.getLogger("amesh.pairing")

# What a forked child must not inherit: a lock lasts until the last copy of its descriptor is
# closed, so a child that lives on would keep it from everybody.
_held: set[int] = set()


class Ending(Enum):
    """How the attempts ended; without an end they go on."""

    ACKNOWLEDGED = auto()
    EXPIRED = auto()  # the token has ended, and nobody ever acknowledged
    NOTHING_LEFT = auto()  # to announce: another process saw the end of it, or it never was


def read(directory: Path) -> AnnounceFile | None:
    """What this device still has to announce, if it has.

    Raises:
        Malformed: announce.json is not one.
        HomeUnwritable: it cannot be read.
    """
    path = directory / ANNOUNCE_FILE
    data = disk.read_own(path)
    try:
        return None if data is None else AnnounceFile.parse(data)
    except Malformed as error:
        raise Malformed(f"{path}: {error}") from None


async def announce(
    home: Home,
    *,
    trouble: Trouble | None = None,
    clock: Callable[[], float] = time.time,
    pause: Pause = asyncio.sleep,
) -> Ending:
    """Announce this device until its controller knows it or the token has ended.

    `trouble` is told why an attempt came to nothing; by default that goes to the log. Cancelling
    leaves everything as it is, for the next start.

    Raises:
        Malformed: announce.json is not one.
        HomeError: a file cannot be read or locked, or not removed when all is said.
        UsageError: there is no access token to show, see `relay_line.access_token`.
    """
    directory = home.directory
    file = read(directory)
    if file is None or file.frame.target_public_key != b64(home.identity.public_key):
        return Ending.NOTHING_LEFT
    while read(directory) == file:
        with _turn(directory / ANNOUNCE_FILE) as is_ours:
            # Read again: until a moment ago it may have been the turn of another process.
            if is_ours and read(directory) == file:
                teller = trouble or _LogOnce(file)
                return await _announce(home, file, teller, clock, pause)
        await pause(TURN_SECONDS)
    return Ending.NOTHING_LEFT


async def _announce(
    home: Home,
    file: AnnounceFile,
    trouble: Trouble,
    clock: Callable[[], float],
    pause: Pause,
) -> Ending:
    seconds = FIRST_PAUSE_SECONDS
    while not file.is_expired(clock()):
        try:
            await _ask(file, home.identity.public_key, access_token(home.settings))
        except (RelayError, BootstrapError) as error:
            # Not even a refusal ends it: anybody on the way could have written that.
            trouble(error)
        else:
            log.info("the controller acknowledged this device")
            _remove(home.directory, file)
            return Ending.ACKNOWLEDGED
        left = parse_instant(file.expires_at) - clock()
        await pause(min(seconds * _random.uniform(1 - _JITTER, 1 + _JITTER), max(left, 0.0)))
        seconds = min(seconds * 2, LONGEST_PAUSE_SECONDS)
    _remove(home.directory, file)
    return Ending.EXPIRED


async def _ask(file: AnnounceFile, own_public: bytes, token: str | None) -> None:
    """Announce once; returns when the controller of the token has acknowledged."""
    async with connected(file.relay_url, token) as line:
        await line.send(file.frame)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await line.receive()
        except TimeoutError:
            raise RelayLost(f"nobody answered in {ANSWER_SECONDS:.0f} s") from None
        match answer:
            case wire.BootstrapAcked(file.frame.jti, public_key, signature):
                provisioning.check_acknowledgement(
                    file.controller_public_key, own_public, file.frame.jti, public_key, signature
                )
            case wire.BootstrapReject(file.frame.jti, error):
                raise NotAcknowledged(_REFUSALS.get(error, f"refused ({error})"))
            case frame:
                raise RelayLost(f"the relay sent {type(frame).__name__} out of turn")


class _LogOnce:
    """Logs each trouble once in a row: a day without a relay must not fill the log."""

    def __init__(self, file: AnnounceFile) -> None:
        self._until = file.expires_at
        self._said = ""

    def __call__(self, error: AmeshError) -> None:
        if str(error) != self._said:
            self._said = str(error)
            log.warning("%s; this device is announced again until %s", error, self._until)


def _remove(directory: Path, file: AnnounceFile) -> None:
    with disk.locked(directory):
        # By now it may be that of a new identity, which `init --force` made meanwhile.
        if read(directory) == file:
            disk.remove(directory / ANNOUNCE_FILE)
            disk.sync_directory(directory)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Whether it is this process's turn to announce, as long as the block runs."""
    descriptor = _lock(path)
    if descriptor is None:
        yield False
        return
    _held.add(descriptor)
    try:
        yield True
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    with disk.explained(path), contextlib.suppress(FileNotFoundError):
        # For writing, without which NFS gives no exclusive lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    return None


def _after_fork() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
