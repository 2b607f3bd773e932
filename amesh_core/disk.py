"""The few things done to files: read in private, write whole, lock; docs/protocol.md section 2.

A crash at any instant leaves the old or the new file. What the operating system refuses
becomes `HomeUnwritable` with the path, except that a file which is not there is None.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from amesh_core.errors import HomeBusy, HomeUnwritable, UnsafePermissions

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
LOCK_FILE: Final = ".lock"
TEMPORARY_PREFIX: Final = ".tmp-"

# A write takes milliseconds; whoever waits this long waits for a process that hangs.
LOCK_TIMEOUT_SECONDS: Final = 10.0
_LOCK_POLL_SECONDS: Final = 0.01

_OTHERS: Final = 0o077  # what group and others may do


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Name the path when the operating system refuses.

    Raises:
        HomeUnwritable: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise HomeUnwritable(f"{path}: {error.strerror or error}") from error


def read(path: Path) -> bytes | None:
    """The contents of a file that somebody named, or None when there is none.

    It may be a pipe, which is waited for.

    Raises:
        HomeUnwritable: it cannot be read.
    """
    with explained(path), suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def read_own(path: Path) -> bytes | None:
    """The contents of a file of our directory, or None when there is none.

    Raises:
        HomeUnwritable: it cannot be read, or is something else.
    """
    return _read(path, wanted=None)


def read_private(path: Path, *, wanted: int = PRIVATE_FILE) -> bytes | None:
    """The contents of a file that only its owner may open, or None when there is none.

    Raises:
        UnsafePermissions: others may; `wanted` is the mode that mends it.
        HomeUnwritable: it cannot be read, or is something else.
    """
    return _read(path, wanted=wanted)


def _read(path: Path, *, wanted: int | None) -> bytes | None:
    with (
        explained(path),
        suppress(FileNotFoundError),
        open(path, "rb", opener=_without_waiting) as file,
    ):
        # Asked of the open file: the name may mean another one by now.
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise HomeUnwritable(f"{path}: not a file")
        if wanted is not None:
            _check_mode(path, mode, wanted)
        return file.read()
    return None


def check_directory(path: Path) -> bool:
    """Whether the directory is there; if so, it belongs to its owner alone.

    The owner is not compared with this process: with mode 0700 nobody else gets in but
    root, and root is let in on purpose (containers, `sudo amesh`).

    Raises:
        UnsafePermissions: others may read or change it.
        HomeUnwritable: it is not a directory, or cannot be looked at.
    """
    with explained(path), suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise HomeUnwritable(f"{path}: not a directory")
        _check_mode(path, mode, PRIVATE_DIRECTORY)
        return True
    return False


def exists(path: Path) -> bool:
    """Whether there is anything of that name.

    Raises:
        HomeUnwritable: it cannot be looked at.
    """
    with explained(path):
        return path.exists()


def stamp(path: Path | str) -> tuple[int, ...] | None:
    """A value that is another one once the file may be; None while there is none to look at.

    It is of what the path leads to, so exchanging a symbolic link above it counts.
    """
    try:
        # Once a request: as text, a path costs a fifth of what a Path does.
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        # Why it cannot be read is for its reader to say.
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def close_to_others(path: Path) -> None:
    """Take everything that group and others may do from the mode of a file or directory.

    Raises:
        HomeUnwritable: it is not ours to change.
    """
    check_link(path)
    with explained(path):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)


def check_link(path: Path) -> None:
    """As root, follow no symbolic link that leads out of what its owner has.

    Root works in the directories of services (docs/decisions/0014). One that was taken over
    must not have it write, move or copy the files of others.

    Raises:
        HomeUnwritable: it is such a link.
    """
    with explained(path):
        if os.geteuid() != 0 or not path.is_symlink():
            return
        owner = path.lstat().st_uid
        if owner != 0 and not (path.exists() and path.stat().st_uid == owner):
            raise HomeUnwritable(f"{path}: a symbolic link to what does not belong to its owner")


def make_directory(path: Path) -> None:
    """Make a directory for its owner alone, and those above it; it may exist.

    Raises:
        HomeUnwritable: it cannot be made, or is something else.
    """
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise HomeUnwritable(f"{path.parent}: not a directory") from None
    _make_directory(path)


def make_subdirectory(path: Path) -> None:
    """Make a directory inside one of ours, for the owner of that one; it may exist.

    Raises:
        HomeUnwritable: it cannot be made, or is something else.
    """
    if _make_directory(path):
        with explained(path):
            _give_to_owner_of(path.parent, path)


def _make_directory(path: Path) -> bool:
    with explained(path):
        try:
            path.mkdir(PRIVATE_DIRECTORY)
        except FileExistsError:
            if not path.is_dir():
                raise HomeUnwritable(f"{path}: not a directory") from None
            return False
        path.chmod(PRIVATE_DIRECTORY)  # the umask may have taken more away
        return True


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Write a file that does not exist yet, down to the disk.

    Raises:
        HomeUnwritable: it cannot be written, or exists.
    """
    with explained(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)  # the umask may have taken more away
            _give_to_owner_of(path.parent, descriptor)
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace(path: Path, data: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Put new contents in the place of a file: a reader sees the old or the new, whole.

    Raises:
        HomeUnwritable: it cannot be written; the old file is as it was, if nothing else is said.
    """
    # Through a symbolic link, not over it: the link is somebody's arrangement.
    check_link(path.parent)
    check_link(path)
    real = path.resolve()
    temporary = real.with_name(TEMPORARY_PREFIX + secrets.token_hex(8))
    try:
        write_new(temporary, data, mode=mode)
        with explained(path):
            temporary.replace(real)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    try:
        sync_directory(real.parent)
    except HomeUnwritable as error:
        # Too late to take it back: whoever opens the file finds the new contents.
        raise HomeUnwritable(
            f"{path} was changed, but may not outlast a loss of power: {error}"
        ) from None


def move(source: Path, target: Path) -> None:
    """Rename within one file system; what `target` was is gone.

    Raises:
        HomeUnwritable: it cannot be renamed.
    """
    with explained(target):
        source.replace(target)


def remove(path: Path) -> None:
    """Delete a file, if it is there.

    Raises:
        HomeUnwritable: it cannot be deleted.
    """
    with explained(path):
        path.unlink(missing_ok=True)


def destroy(*paths: Path) -> None:
    """Delete files of one directory, if they are there; a loss of power brings none back.

    Raises:
        HomeUnwritable: one cannot be deleted.
    """
    for path in paths:
        remove(path)
    directory = paths[0].parent
    if exists(directory):
        sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power.

    Raises:
        HomeUnwritable: the disk refuses.
    """
    with explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems (shared folders of virtual machines) have no such thing.
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)


@contextmanager
def locked(directory: Path, *, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Be the only one, of all processes and threads, to change this directory.

    Raises:
        HomeBusy: somebody else still is, after `timeout_seconds`.
        HomeUnwritable: there can be no lock file.
    """
    path = directory / LOCK_FILE
    with explained(path):
        # Never through a link, nor another name of somebody's file: root gives it away.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        with explained(path):
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise HomeUnwritable(f"{path}: not a file of its own")
            _give_to_owner_of(directory, descriptor)
            deadline = time.monotonic() + timeout_seconds
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    raise HomeBusy(f"another process is changing {directory}")
                time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _without_waiting(path: str, flags: int) -> int:
    # A pipe would be waited for until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _check_mode(path: Path, mode: int, wanted: int) -> None:
    if mode & _OTHERS:
        raise UnsafePermissions(str(path), stat.S_IMODE(mode), wanted)


def _give_to_owner_of(directory: Path, file: Path | int) -> None:
    # `sudo amesh revoke` must not leave files that the service can no longer read.
    if os.geteuid() == 0:
        owner = directory.stat()
        if isinstance(file, int):
            os.fchown(file, owner.st_uid, owner.st_gid)
        else:
            os.lchown(file, owner.st_uid, owner.st_gid)
