"""Processes that die, disks that refuse, and what is left of a directory afterwards."""

from __future__ import annotations

import errno
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from amesh_core import crypto
from amesh_core.io.home import Home
from amesh_core.settings import Settings

# Everything through which our code changes a disk; `os.open` counts when it writes.
CHANGING: Final = (
    *("open", "write", "fsync", "truncate", "chmod", "fchmod", "fchown", "lchown"),
    *("mkdir", "rename", "replace", "unlink", "remove", "rmdir"),
)


# --- how to die -------------------------------------------------------------------------


def before_step(
    patch: pytest.MonkeyPatch, step: int, act: Callable[[str], None], *, half_write: bool = False
) -> Callable[[], int]:
    """Call `act` before the `step`-th change to the disk; the result counts the changes.

    With `half_write`, a write that is hit first gets half of its bytes out.
    """
    count = 0

    def wrap(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal count
            if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*args, **options)
            count += 1
            if count == step:
                if half_write and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                act(f"{name} {args[0]}")
            return real(*args, **options)

        patch.setattr(os, name, counted)

    for name in CHANGING:
        wrap(name)
    return lambda: count


def start(action: Callable[[], object]) -> int:
    """Run `action` in a process of its own, and return its number."""
    with warnings.catch_warnings():
        # From Python 3.12: the child of a process with threads may only do what we do here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            if status != 0:
                traceback.print_exc()
            os._exit(status)
    return child


def finish(child: int) -> int:
    """The exit status of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a process of its own, to its end."""
    return finish(start(action))


def die(_: str) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def killed_at(step: int, action: Callable[[], object]) -> bool:
    """Whether `action`, in a process killed before its `step`-th change, was not over yet."""

    def run() -> None:
        before_step(pytest.MonkeyPatch(), step, die, half_write=True)
        action()

    status = in_child(run)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def each_death(action: Callable[[], object]) -> Iterator[int]:
    """Kill `action` at each instant, a directory's worth of assertions in between."""
    step = 1
    while killed_at(step, action):
        yield step
        step += 1
    # That the sweep swept: nothing of ours changes a disk in fewer steps than this.
    assert step > 5


def disk_full(name: str) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


# --- what is whole ----------------------------------------------------------------------


def opened(directory: Path) -> Home:
    """Open the directory and use all of it: key, passphrase, list, seal."""
    home = Home.open(Settings(directory=directory))
    crypto.verify(home.identity.public_key, home.key().sign(b"x"), b"x")
    home.allow_list()
    return home


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def put_back(directory: Path, files: dict[str, bytes]) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400 if name == ".passphrase" else 0o600)
