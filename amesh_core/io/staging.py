"""Several files are made aside and take their places together, or not at all.

A new identity does so, a key under another passphrase, and a new key of the same device.

    .new-xxxx/    being made; a kill here leaves the directory as it was
       | renamed: the one instant at which the new identity begins to count
    .ready/       complete; whoever opens the directory next finishes the moves below
       | backup, keys, passphrase, allow list, and identity.json last
       | then what belonged to the old identity is deleted, and .ready with it

Every step can be repeated, so it does not matter where a process died. Who changes the
directory holds its lock (docs/protocol.md section 2).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from amesh_core import disk
from amesh_core.errors import HomeUnwritable, Malformed
from amesh_core.io.passphrase import FILE as PASSPHRASE_FILE
from amesh_core.wire.encoding import load_json

IDENTITY_FILE: Final = "identity.json"
ALLOW_LIST_FILE: Final = "allow_list.json"
ANNOUNCE_FILE: Final = "announce.json"
ROTATION_FILE: Final = "rotation.json"
KEYS: Final = "keys"

_READY: Final = ".ready"
_STAGING_PREFIX: Final = ".new-"
_BACKUP_PREFIX: Final = "backup-"
# In .ready: what to delete once the new identity is in its place. It is written before
# anything moves; afterwards old and new could not be told apart.
_DISCARD: Final = "discard.json"
_OF_THE_DIRECTORY: Final = re.compile(r"(?:keys/)?(?!\.{1,2}\Z)[^/\0]+")
# Besides keys, what is of use to one identity only.
_OF_ONE_IDENTITY: Final = (PASSPHRASE_FILE, ANNOUNCE_FILE, "provisioned.json", ROTATION_FILE)


def is_replacing(directory: Path) -> bool:
    """Whether something new counts already, but is not all in its place."""
    with disk.explained(directory):
        return (directory / _READY).exists()


def is_littered(directory: Path) -> bool:
    """Whether somebody writes here, or was killed while writing."""
    return bool(_litter(directory))


def settle(directory: Path) -> None:
    """Forget what was not finished, finish what counts; the caller holds the lock.

    Raises:
        HomeUnwritable: the operating system refuses a step; the next call goes on there.
    """
    for path in _litter(directory):
        _remove_tree(path) if _is_directory(path) else disk.remove(path)
    if is_replacing(directory):
        _move_in(directory)


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A new private directory inside `directory`; gone after an error."""
    staging = directory / (_STAGING_PREFIX + secrets.token_hex(8))
    disk.make_subdirectory(staging)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def back_up(directory: Path, staging: Path, now: float) -> Path:
    """Copy everything of the present identity; return where the copy will be.

    What is there works as a directory of its own.

    Raises:
        HomeUnwritable: something cannot be copied.
    """
    name = _BACKUP_PREFIX + datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    taken = sum(other.startswith(name) for other in _names(directory))
    target = name if not taken else f"{name}-{taken + 1}"
    with disk.explained(directory):
        _copy(directory, staging / target, skip=lambda name: not _is_content(name))
    return directory / target


def commit(directory: Path, staging: Path, *, keep_passphrase: bool = False) -> None:
    """Let the new identity take the place of what is there.

    `keep_passphrase`: `.passphrase` is that of the new identity, too.

    Raises:
        HomeUnwritable: before the rename, nothing happened; after it, the next one to open
            the directory goes on.
    """
    with disk.explained(directory):
        present = [*(directory / KEYS).glob("*"), *(directory / name for name in _OF_ONE_IDENTITY)]
        old = {path.relative_to(directory) for path in present if path.is_file()}
    if keep_passphrase:
        old.discard(Path(PASSPHRASE_FILE))
    amend(directory, staging, discard=old)


def amend(directory: Path, staging: Path, *, discard: Collection[Path]) -> None:
    """Let some files take their places, all or none, and delete those of `discard`.

    Paths are relative to the directory; one that is both to come and to go comes.

    Raises:
        HomeUnwritable: as `commit`.
    """
    with disk.explained(directory):
        coming = {path.relative_to(staging) for path in staging.rglob("*") if path.is_file()}
        _check_way(directory, coming)
    names = json.dumps(sorted(map(str, set(discard) - coming)))
    disk.write_new(staging / _DISCARD, names.encode())
    disk.sync_directory(staging)
    disk.move(staging, directory / _READY)
    disk.sync_directory(directory)
    _move_in(directory)


def _check_way(directory: Path, coming: set[Path]) -> None:
    # Found out later, it would leave the directory between two identities.
    for relative in coming:
        if (directory / relative).is_dir():
            raise HomeUnwritable(f"{directory / relative}: a directory is in the way")
    keys = directory / KEYS
    if keys.exists() and not (keys.is_dir() and os.access(keys, os.W_OK | os.X_OK)):
        raise HomeUnwritable(f"{keys}: not a directory that can be written")


def _move_in(directory: Path) -> None:
    ready = directory / _READY
    if not _is_directory(ready):
        raise HomeUnwritable(f"{ready}: not a directory")
    discard = _to_discard(ready)  # first: what cannot be finished is not begun
    disk.check_link(directory / KEYS)
    if _is_directory(ready / KEYS):
        disk.make_subdirectory(directory / KEYS)
        for name in _names(ready / KEYS):
            disk.move(ready / KEYS / name, directory / KEYS / name)
        disk.sync_directory(directory / KEYS)
    for name in _names(ready):
        if name not in (KEYS, _DISCARD, IDENTITY_FILE):
            disk.move(ready / name, directory / name)
    disk.sync_directory(directory)
    # Last: it alone says that there is an identity, and whose the other files are.
    if (ready / IDENTITY_FILE).exists():
        disk.move(ready / IDENTITY_FILE, directory / IDENTITY_FILE)
        disk.sync_directory(directory)
    for name in discard:
        disk.remove(directory / name)
    _remove_tree(ready)
    disk.sync_directory(directory)


def _to_discard(ready: Path) -> list[str]:
    path = ready / _DISCARD
    data = disk.read_own(path)
    try:
        names = load_json(b"[]" if data is None else data)
    except Malformed as error:
        raise HomeUnwritable(f"{path}: {error}") from None
    # Who planted it must not choose what is deleted elsewhere.
    if not isinstance(names, list) or not all(
        isinstance(name, str) and _OF_THE_DIRECTORY.fullmatch(name) for name in names
    ):
        raise HomeUnwritable(f"{path}: not a list of files of this directory")
    return names


def _copy(source: Path, target: Path, skip: Callable[[str], bool]) -> None:
    disk.make_subdirectory(target)
    for name in _names(source):
        if skip(name):
            continue
        path = source / name
        if path.is_file():
            disk.check_link(path)
            with disk.explained(path):
                mode = path.stat().st_mode & disk.PRIVATE_DIRECTORY
                data = path.read_bytes()
            disk.write_new(target / name, data, mode=mode)
        elif _is_directory(path):
            _copy(path, target / name, skip=lambda _: False)
    disk.sync_directory(target)


def _remove_tree(path: Path) -> None:
    with disk.explained(path):
        shutil.rmtree(path)


def _names(directory: Path) -> list[str]:
    with disk.explained(directory):
        return sorted(path.name for path in directory.iterdir())


def _is_directory(path: Path) -> bool:
    # Not through a link: what is moved and deleted is what we made.
    return path.is_dir() and not path.is_symlink()


def _litter(directory: Path) -> list[Path]:
    # The mark is replaced beside the keys, so its temporary files are there.
    keys = directory / KEYS
    places = (directory, keys) if keys.is_dir() else (directory,)
    return [place / name for place in places for name in _names(place) if _is_litter(name)]


def _is_litter(name: str) -> bool:
    return name.startswith((_STAGING_PREFIX, disk.TEMPORARY_PREFIX))


def _is_content(name: str) -> bool:
    return not (
        _is_litter(name) or name in (_READY, disk.LOCK_FILE) or name.startswith(_BACKUP_PREFIX)
    )
