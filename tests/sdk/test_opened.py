"""The directory seen by a process: unlocked once, re-read when it changes, believed never twice."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amesh_core import crypto
from amesh_core.allow_list import AllowList
from amesh_core.errors import (
    AllowListMissing,
    AllowListRolledBack,
    AllowListTampered,
    IdentityReplaced,
    NoIdentity,
    NoPassphrase,
    UnknownDevice,
    UsageError,
    WrongPassphrase,
)
from amesh_core.identity import DeviceKey
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_sdk.opened import RETRY_SECONDS, OpenHome, opened
from tests.sdk.clock import Clock
from tests.sdk.devices import Device
from tests.support.asgi import PATIENCE_SECONDS
from tests.support.home import make_home


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    read: list[bytes] = []
    real = AllowList.parse

    def counting(data: bytes, key: DeviceKey) -> AllowList:
        read.append(data)
        return real(data, key)

    monkeypatch.setattr(AllowList, "parse", staticmethod(counting))
    return read


# --- the list ---------------------------------------------------------------------------


def test_the_list_is_read_once_until_it_changes(
    target: Device, controller: Device, stranger: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = count_readings(monkeypatch)
    home = OpenHome(target.settings)
    first = home.allow_list()
    assert all(home.allow_list() is first for _ in range(20))
    assert len(readings) == 1
    target.revoke(controller)
    with pytest.raises(UnknownDevice):
        home.allow_list().controller(controller.home.identity.public_key, time.time())
    target.trust(stranger)
    home.allow_list().controller(stranger.home.identity.public_key, time.time())


def test_a_symbolic_link_that_is_exchanged_is_a_change(
    target: Device, controller: Device, tmp_path: Path
) -> None:
    """How Kubernetes updates what it mounts: nothing in the directory is written."""
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "mounted"
    for directory in (old, new):
        directory.mkdir(mode=0o700)
        for file in ("identity.json", ".passphrase", "allow_list.json"):
            (directory / file).write_bytes((target.home.directory / file).read_bytes())
            (directory / file).chmod(0o400)
        (directory / "keys").symlink_to(target.home.directory / "keys")
    link.symlink_to(old)
    home = OpenHome(Settings(link))
    assert len(home.allow_list().devices) == 1
    target.revoke(controller)
    (new / "allow_list.json").unlink()
    (new / "allow_list.json").write_bytes(target.list_file.read_bytes())
    swapped = tmp_path / "swap"
    swapped.symlink_to(new)
    swapped.replace(link)
    assert home.allow_list().devices == ()


def test_nothing_is_written(target: Device, controller: Device) -> None:
    """So a directory on a disk that cannot be written is enough."""

    def everything() -> list[tuple[str, int, int]]:
        paths = [target.home.directory, *target.home.directory.rglob("*")]
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in sorted(paths)]

    before = everything()
    home = OpenHome(target.settings)
    assert len(home.allow_list().devices) == 1
    assert home.key().public == target.home.identity.public_key
    assert everything() == before


def test_a_broken_list_stays_broken_until_it_is_mended(
    target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = count_readings(monkeypatch)
    clock = Clock()
    home = OpenHome(target.settings, monotonic=clock)
    home.allow_list()
    whole = target.list_file.read_bytes()
    forged = json.loads(whole)
    forged["devices"][0]["friendlyName"] = "root"
    target.list_file.write_text(json.dumps(forged))
    for _ in range(20):
        with pytest.raises(AllowListTampered):
            home.allow_list()
    assert len(readings) == 2, "a stranger's requests must not buy a parse each"
    clock.now += RETRY_SECONDS
    with pytest.raises(AllowListTampered):
        home.allow_list()
    assert len(readings) == 3
    target.list_file.write_bytes(whole)
    assert len(home.allow_list().devices) == 1


def test_a_list_that_vanished_is_not_an_empty_one(target: Device, controller: Device) -> None:
    home = OpenHome(target.settings)
    home.allow_list()
    aside = target.list_file.rename(target.home.directory / "aside")
    for _ in range(2):
        with pytest.raises(AllowListMissing):
            home.allow_list()
    aside.rename(target.list_file)
    assert len(home.allow_list().devices) == 1


def test_an_older_list_does_not_bring_back_who_was_revoked(
    target: Device, controller: Device
) -> None:
    home = OpenHome(target.settings)
    home.allow_list()
    old = target.list_file.read_bytes()
    target.revoke(controller)
    assert home.allow_list().devices == ()
    target.list_file.write_bytes(old)
    for _ in range(2):
        with pytest.raises(AllowListRolledBack):
            home.allow_list()


def test_another_identity_is_not_taken_for_a_list_of_ours(target: Device, tmp_path: Path) -> None:
    home = OpenHome(target.settings)
    home.allow_list()
    other = make_home(tmp_path / "other").directory
    for name in ("allow_list.json", "identity.json"):
        (other / name).replace(target.home.directory / name)
    with pytest.raises(IdentityReplaced):
        home.allow_list()


def test_ten_thousand_devices_do_not_keep_the_event_loop(
    target: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading waits for something that only the event loop can do."""
    started, may_go_on = threading.Event(), threading.Event()
    real = AllowList.parse

    def slow(data: bytes, key: DeviceKey) -> AllowList:
        started.set()
        assert may_go_on.wait(PATIENCE_SECONDS), "the event loop did not run meanwhile"
        return real(data, key)

    monkeypatch.setattr(AllowList, "parse", staticmethod(slow))
    home = OpenHome(target.settings)

    async def main() -> None:
        waiting = [asyncio.create_task(home.aallow_list()) for _ in range(20)]
        await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
        # The key is there meanwhile, and costs nobody a wait.
        assert (await home.akey()).public == target.home.identity.public_key
        may_go_on.set()
        lists = await asyncio.gather(*waiting)
        assert all(one is lists[0] for one in lists)

    asyncio.run(main())


def test_home_is_what_the_guard_opens(target: Device) -> None:
    """The guard's view and the command line's are one: what it seals, this believes."""
    assert OpenHome(target.settings).allow_list() == Home.open(target.settings).allow_list()


# --- the key ----------------------------------------------------------------------------


def test_the_list_is_read_once_by_any_number_of_threads(
    target: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = OpenHome(target.settings)
    home.key()
    started, may_go_on = threading.Semaphore(0), threading.Event()
    readings = count_readings(monkeypatch)
    counting = AllowList.parse

    def slow(data: bytes, key: DeviceKey) -> AllowList:
        assert may_go_on.wait(PATIENCE_SECONDS)
        return counting(data, key)

    monkeypatch.setattr(AllowList, "parse", staticmethod(slow))

    def first_use() -> AllowList:
        started.release()
        return home.allow_list()

    with ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(first_use) for _ in range(16)]
        for _ in waiting:
            assert started.acquire(timeout=PATIENCE_SECONDS)
        may_go_on.set()
        lists = [work.result(PATIENCE_SECONDS) for work in waiting]
    assert all(one is lists[0] for one in lists)
    assert len(readings) == 1


def test_the_key_is_unlocked_once_by_any_number_of_threads(
    target: Device, derivations: list[int]
) -> None:
    home = OpenHome(target.settings)
    together = threading.Barrier(16)

    def first_use() -> bytes:
        together.wait(PATIENCE_SECONDS)
        return home.key().public

    with ThreadPoolExecutor(16) as threads:
        keys = {work.result() for work in [threads.submit(first_use) for _ in range(16)]}
    assert keys == {target.home.identity.public_key}
    assert len(derivations) == 1


def test_unlocking_does_not_keep_the_event_loop(
    target: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_go_on = threading.Event(), threading.Event()
    real = crypto.argon2id

    def slow(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        started.set()
        assert may_go_on.wait(PATIENCE_SECONDS), "the event loop did not run meanwhile"
        return real(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", slow)

    async def main() -> None:
        unlocking = asyncio.create_task(OpenHome(target.settings).akey())
        await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
        may_go_on.set()
        assert (await unlocking).public == target.home.identity.public_key

    asyncio.run(main())


def test_one_directory_is_opened_once_in_a_process(target: Device, controller: Device) -> None:
    assert opened(target.settings) is opened(Settings(target.home.directory))
    assert opened(target.settings) is not opened(controller.settings)


def test_a_wrong_passphrase_is_not_tried_at_every_request(
    target: Device, derivations: list[int]
) -> None:
    clock = Clock()
    home = OpenHome(Settings(target.home.directory, passphrase="wrong"), monotonic=clock)
    for _ in range(20):
        with pytest.raises(WrongPassphrase):
            home.key()
    assert len(derivations) == 1
    clock.now += RETRY_SECONDS
    with pytest.raises(WrongPassphrase):
        home.allow_list()
    assert len(derivations) == 2


def test_an_error_that_is_raised_again_does_not_grow(target: Device) -> None:
    home = OpenHome(Settings(target.home.directory, passphrase="wrong"))
    for _ in range(20):
        with pytest.raises(WrongPassphrase) as caught:
            home.key()
    assert len(caught.traceback) < 10


def test_what_is_mended_works_without_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    directory = tmp_path / "later"
    home = OpenHome(Settings(directory), monotonic=clock)
    with pytest.raises(NoIdentity):
        home.key()
    made = make_home(directory)
    clock.now += RETRY_SECONDS
    assert home.key().public == made.identity.public_key


def test_what_is_wrong_is_said_as_it_is(target: Device) -> None:
    """The original said "No identity found" whatever it was."""
    passphrase = target.home.directory / ".passphrase"
    passphrase.unlink()
    with pytest.raises(NoPassphrase):
        OpenHome(target.settings).key()
    with pytest.raises(NoIdentity):
        OpenHome(Settings(target.home.directory / "elsewhere")).key()


# --- a fork -----------------------------------------------------------------------------


def test_a_forked_child_begins_anew(target: Device, controller: Device, stranger: Device) -> None:
    """A child that inherits a held lock, and threads it does not have, must not hang."""
    home = opened(target.settings)
    asyncio.run(home.aallow_list())
    target.trust(stranger)  # so that the child has to read, in a thread, under the lock
    reader, writer = os.pipe()
    with home._lock:  # as another thread might, at that very moment
        child = os.fork()
        if child == 0:  # pragma: no cover, another process
            devices = asyncio.run(home.aallow_list()).devices
            os.write(writer, b"%d devices" % len(devices))
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        ready, _, _ = select.select([answer], [], [], PATIENCE_SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert answer.read() == b"2 devices"
    assert opened(target.settings) is home


def test_an_event_loop_that_is_not_asyncios(target: Device) -> None:
    """Under trio there is no running loop, of which nobody would guess the reason."""
    home = OpenHome(target.settings)
    for asking in (home.akey(), home.aallow_list(), home.in_signing_thread(lambda: None)):
        with pytest.raises(UsageError, match="not of trio"):
            asking.send(None)
