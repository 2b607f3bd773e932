"""An older allow list, sealed correctly, is put back: nobody who was revoked comes back.

LESSONS: an older sealed allow list put back un-revokes a device. Here every reader is a new
one, as a command or a service that has just been started is.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

from amesh_core import crypto, disk
from amesh_core.allow_list import AllowList
from amesh_core.errors import (
    AllowListMarkBroken,
    AllowListRolledBack,
    AllowListTampered,
    AmeshError,
    HomeBusy,
    Malformed,
)
from amesh_core.identity import Peer
from amesh_core.io import repairing
from amesh_core.io.home import Home
from amesh_core.io.repairing import PutBack
from amesh_core.settings import Settings
from amesh_core.wire.encoding import b64, instant
from amesh_core.wire.mark import MarkFile, sealed_bytes
from amesh_sdk.opened import OpenHome
from tests.support.cli import AtTerminal, amesh, listed
from tests.support.dying import each_death, finish, in_child, opened, put_back, snapshot, start
from tests.support.home import NOW, cheap_init, make_home, make_peer, record

LATER: Final = NOW + 60
STOLEN: Final = "stolen laptop"
ROLLED_BACK: Final = 8  # the exit status of everything that is wrong with the list


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "amesh", max_controllers=30)


def anew(home: Home) -> Home:
    """The same directory, as a process sees it that has just been started."""
    return Home.open(Settings(directory=home.directory))


def list_of(home: Home) -> Path:
    return home.directory / "allow_list.json"


def mark_of(home: Home) -> Path:
    return home.directory / "keys" / f"{home.identity.device_id}.newest.json"


def remembered(home: Home) -> str:
    return MarkFile.parse(mark_of(home).read_bytes()).updated_at


def revoke(home: Home, peer: Peer, now: float = LATER) -> None:
    with home.editing_allow_list(now) as edit:
        edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(peer.device_id))


def write_as_node(home: Home, *peers: Peer, now: float) -> None:
    """Another tool with the same key: it seals the list and knows nothing of marks."""
    allow_list = AllowList.empty(home.identity.public_key, now)
    for peer in peers:
        allow_list = allow_list.record(peer, added_by="handshake", now=now, limit=30)
    list_of(home).write_bytes(allow_list.encode(home.key()))


@pytest.fixture
def trusting(home: Home) -> bytes:
    """The list that trusts a device, put back after it was revoked."""
    peer = make_peer(STOLEN)
    record(home, peer)
    older = list_of(home).read_bytes()
    revoke(home, peer)
    list_of(home).write_bytes(older)
    return older


# --- it is refused ----------------------------------------------------------------------


def test_by_a_process_that_has_just_been_started(home: Home, trusting: bytes) -> None:
    for use in (
        lambda: anew(home).allow_list(),
        lambda: record(anew(home), make_peer()),
        lambda: OpenHome(Settings(directory=home.directory)).allow_list(),
    ):
        with pytest.raises(AllowListRolledBack, match="which was there before"):
            use()
    assert list_of(home).read_bytes() == trusting


@pytest.mark.parametrize("command", [("list",), ("revoke", STOLEN, "--yes")])
def test_by_a_command(home: Home, trusting: bytes, command: tuple[str, ...]) -> None:
    done = amesh(home.directory, *command)
    assert done.status == ROLLED_BACK
    assert "older than" in done.err
    assert "amesh doctor --repair" in done.err
    assert STOLEN not in done.out
    assert list_of(home).read_bytes() == trusting


def test_even_by_one_millisecond(home: Home) -> None:
    """The resolution of an `updatedAt`; two writes in one of them have two times."""
    before = list_of(home).read_bytes()
    record(home, make_peer(), now=NOW)
    assert remembered(home) == instant(NOW + 0.001)
    list_of(home).write_bytes(before)
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def test_a_list_of_another_tool_put_back(home: Home) -> None:
    peer = make_peer(STOLEN)
    write_as_node(home, peer, now=NOW + 1)
    trusting = list_of(home).read_bytes()
    write_as_node(home, now=NOW + 2)
    # One reading is what it takes to remember; before it nobody of us knew of that list.
    anew(home).allow_list()
    list_of(home).write_bytes(trusting)
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def test_init_force_begins_a_history_of_its_own(home: Home) -> None:
    record(home, make_peer(), now=NOW + 10**8)  # a clock that was years ahead
    settings = Settings(directory=home.directory)
    created = Home.create(settings, name="new", now=NOW, replace=True)
    assert anew(created.home).allow_list().updated_at == instant(NOW)
    assert created.backup is not None
    backup = Home.open(Settings(directory=created.backup))
    assert len(backup.allow_list().devices) == 1


# --- nobody else trips over it ----------------------------------------------------------


def test_another_tool_that_writes_the_list(home: Home) -> None:
    peer = make_peer()
    write_as_node(home, peer, now=LATER)
    assert [device.device_id for device in anew(home).allow_list().devices] == [peer.device_id]
    assert remembered(home) == instant(LATER)
    record(anew(home), make_peer("another"), now=LATER + 1)
    assert len(anew(home).allow_list().devices) == 2


@pytest.mark.parametrize("now", [NOW - 86_400, 0.0])
def test_a_clock_set_back(home: Home, now: float) -> None:
    for number in range(3):
        record(anew(home), make_peer(f"peer {number}"), now=now)
        assert len(anew(home).allow_list().devices) == number + 1
    assert remembered(home) == instant(NOW + 0.003)


def test_a_directory_from_before_there_were_marks(home: Home) -> None:
    """Of Node, or of an older release: the first reading begins the memory."""
    record(home, make_peer())
    mark_of(home).unlink()
    before = list_of(home).read_bytes()
    anew(home).allow_list()
    assert remembered(home) == instant(NOW + 0.001)
    revoke(anew(home), make_peer_of(home))
    list_of(home).write_bytes(before)
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def make_peer_of(home: Home) -> Peer:
    (device,) = home.allow_list().devices
    assert device.role is not None
    return Peer(device.device_id, device.public_key, device.friendly_name, device.role)


def test_a_reader_while_a_writer_writes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its two readings, which are of the mark and then of the list."""
    reader, writer = anew(home), anew(home)
    reader.key()
    writer.key()
    read = disk.read_own
    is_first = True

    def read_and_write(path: Path) -> bytes | None:
        nonlocal is_first
        data = read(path)
        if is_first:
            is_first = False
            record(writer, make_peer(), now=LATER)
        return data

    monkeypatch.setattr(disk, "read_own", read_and_write)
    assert len(reader.allow_list().devices) == 1


def test_twenty_writers_and_a_reader(home: Home) -> None:
    """Processes, each of which opens the directory by itself."""
    peers = [make_peer(f"peer {number}") for number in range(20)]
    errors: list[AmeshError] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                anew(home).allow_list()
            except AmeshError as error:
                errors.append(error)

    children = [start(partial(record, anew(home), peer)) for peer in peers]
    reader = threading.Thread(target=read)
    reader.start()
    assert [finish(child) for child in children] == [0] * 20
    is_over.set()
    reader.join()
    assert errors == []
    allow_list = anew(home).allow_list()
    assert len(allow_list.devices) == 20
    assert remembered(home) == allow_list.updated_at


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)


def test_a_read_only_disk_stops_no_reader(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_of(home).read_bytes()
    write_as_node(home, make_peer(), now=LATER)
    mark = mark_of(home).read_bytes()
    read_only(monkeypatch)
    reader = anew(home)
    assert len(reader.allow_list().devices) == 1
    assert mark_of(home).read_bytes() == mark
    # What cannot be written down is kept in mind.
    list_of(home).write_bytes(before)
    with pytest.raises(AllowListRolledBack):
        reader.allow_list()


def test_a_lock_in_use_stops_no_reader(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_waits(_: float) -> NoReturn:
        raise AssertionError("a reader waits for the lock")

    write_as_node(home, make_peer(), now=LATER)
    with disk.locked(home.directory), monkeypatch.context() as patch:
        patch.setattr(time, "sleep", nobody_waits)
        assert len(anew(home).allow_list().devices) == 1
    assert remembered(home) == instant(NOW)
    anew(home).allow_list()
    assert remembered(home) == instant(LATER)


def test_a_writer_that_holds_the_lock_raises_the_mark_itself(home: Home) -> None:
    """It must not ask for the lock again: flock knows no owner."""
    write_as_node(home, make_peer(), now=LATER)
    with anew(home).editing_allow_list(LATER):
        assert remembered(home) == instant(LATER)


def test_a_mark_that_cannot_be_written_stops_no_revocation(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peer = make_peer(STOLEN)
    record(home, peer)
    real = disk.replace

    def refuse(path: Path, data: bytes, *, mode: int = disk.PRIVATE_FILE) -> None:
        if path == mark_of(home):
            path = home.directory / "nowhere" / path.name
        real(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "replace", refuse)
        revoke(home, peer)
    assert "is written, but not remembered" in caplog.text
    # The next reader makes up for it.
    assert anew(home).allow_list().devices == ()
    assert remembered(home) == instant(LATER)


def test_killed_while_writing(home: Home) -> None:
    """At any instant: the list counts as it is, and the one before it never again."""
    peer = make_peer(STOLEN)
    record(home, peer)
    before = snapshot(home.directory)
    trusting = list_of(home).read_bytes()
    outcomes = set()
    for _ in each_death(lambda: revoke(anew(home), peer)):
        left = len(opened(home.directory).allow_list().devices)
        outcomes.add(left)
        if not left:
            list_of(home).write_bytes(trusting)
            with pytest.raises(AllowListRolledBack):
                opened(home.directory)
        put_back(home.directory, before)
    assert outcomes == {0, 1}


# --- the mark itself --------------------------------------------------------------------


def seal_alone(home: Home) -> bytes:
    """A mark in the past whose seal is that of the text without its domain."""
    text = instant(NOW - 1)
    return MarkFile(text, home.key().mac(text.encode())).encode()


def of_another_device(home: Home) -> bytes:
    other = make_home(home.directory.parent / "other", now=NOW - 1)
    return mark_of(other).read_bytes()


FORGERIES: Final[dict[str, Callable[[Home], bytes]]] = {
    "nothing": lambda home: b"",
    "no JSON": lambda home: b"\xff",
    "an older time": lambda home: mark_of(home).read_bytes().replace(b"03:05", b"03:04"),
    "a key beside it": lambda home: mark_of(home).read_bytes().replace(b"{", b'{"a":1,', 1),
    "another version": lambda home: mark_of(home).read_bytes().replace(b"2.0.0", b"2.0.1"),
    "no time": lambda home: mark_of(home).read_bytes().replace(b"2026-01", b"2026-13"),
    "no seal": lambda home: mark_of(home).read_bytes().replace(b'"hmac"', b'"mac"'),
    "a seal without its domain": seal_alone,
    "that of another device": of_another_device,
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=list(FORGERIES))
def test_a_mark_that_cannot_be_believed(home: Home, forge: Callable[[Home], bytes]) -> None:
    record(home, make_peer(), now=LATER)
    assert remembered(home) == instant(LATER)
    mark_of(home).write_bytes(forge(home))
    before = snapshot(home.directory)
    with pytest.raises(AllowListMarkBroken):
        anew(home).allow_list()
    with pytest.raises(AllowListMarkBroken):
        record(anew(home), make_peer())
    assert snapshot(home.directory) == before


def test_the_seal_of_a_mark_seals_no_list_and_no_request() -> None:
    """One key seals both; what is sealed of a list is a JSON object, and begins with `{`."""
    assert sealed_bytes(instant(NOW)) == b"amesh-newest/1\x002026-01-02T03:04:05.678Z"


def test_any_text_is_a_mark_or_malformed() -> None:
    seal = bytes(32)
    for text in (b"[]", b"{}", b'{"version":"2.0.0"}', b'{"version":"2.0.0","updatedAt":1}'):
        with pytest.raises(Malformed):
            MarkFile.parse(text)
    mark = MarkFile(instant(NOW), seal)
    assert MarkFile.parse(mark.encode()) == mark
    with pytest.raises(Malformed):
        MarkFile.parse(mark.encode().replace(b64(seal).encode(), b64(seal[1:]).encode()))


# --- the way out ------------------------------------------------------------------------


def test_there_is_nothing_to_repair(home: Home) -> None:
    record(home, make_peer())
    assert repairing.find(home) is None


def test_a_list_is_taken_on_as_the_newest(home: Home, trusting: bytes) -> None:
    running = home  # it has seen the newest list
    finder = anew(home)
    seen = repairing.find(finder)
    assert seen is not None
    assert seen.newest == instant(LATER)
    assert [device.friendly_name for device in seen.allow_list.devices] == [STOLEN]
    repairing.take_on(finder, seen, NOW)  # the clock is still before the mark
    assert running.allow_list().updated_at == instant(LATER + 0.001) == remembered(home)
    assert [device.friendly_name for device in anew(home).allow_list().devices] == [STOLEN]
    # The list that was put back is now the older one.
    list_of(home).write_bytes(trusting)
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def test_a_broken_mark_is_mended(home: Home) -> None:
    record(home, make_peer())
    mark_of(home).write_bytes(b"{}")
    seen = repairing.find(anew(home))
    assert seen is not None
    assert seen.newest is None
    repairing.take_on(anew(home), seen, LATER)
    assert remembered(home) == instant(LATER)
    assert len(anew(home).allow_list().devices) == 1


def test_a_list_that_is_not_ours_is_never_taken_on(home: Home, trusting: bytes) -> None:
    seen = repairing.find(anew(home))
    assert seen is not None
    forged = trusting.replace(STOLEN.encode(), b"honest laptop")
    list_of(home).write_bytes(forged)
    with pytest.raises(AllowListTampered):
        repairing.find(anew(home))
    with pytest.raises(AllowListTampered):
        repairing.take_on(anew(home), seen, LATER)
    assert list_of(home).read_bytes() == forged
    assert remembered(home) == instant(LATER)


def test_only_what_a_person_saw_is_taken_on(home: Home, trusting: bytes) -> None:
    seen = repairing.find(anew(home))
    assert seen is not None
    write_as_node(home, make_peer("somebody else"), now=NOW + 1)
    with pytest.raises(HomeBusy):
        repairing.take_on(anew(home), seen, LATER)
    with pytest.raises(HomeBusy):
        repairing.take_on(anew(home), dataclasses.replace(seen, newest=None), LATER)
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def test_killed_while_taking_on(home: Home, trusting: bytes) -> None:
    before = snapshot(home.directory)
    seen = repairing.find(anew(home))
    assert seen is not None

    def take_on(seen: PutBack = seen) -> None:
        repairing.take_on(anew(home), seen, LATER + 1)

    for _ in each_death(take_on):
        again = repairing.find(anew(home))
        if again is not None:
            assert again == seen
        else:
            assert len(anew(home).allow_list().devices) == 1
        put_back(home.directory, before)


class TestDoctor:
    """`amesh doctor --repair`, as a person sees it."""

    def test_it_says_what_is_wrong_and_the_way_out(self, home: Home, trusting: bytes) -> None:
        done = amesh(home.directory, "doctor")
        assert "older than" in done.out
        assert "amesh doctor --repair" in done.out
        assert list_of(home).read_bytes() == trusting

    def test_no_is_the_default(self, home: Home, trusting: bytes) -> None:
        person = AtTerminal(home.directory, "doctor", "--repair")
        person.sees("older than one that was here before")
        person.sees(instant(LATER))
        person.sees(f'"{STOLEN}"  controller')
        person.sees(r"Trust these devices from now on\? \[y/N\]")
        person.types("")
        assert person.ends() == 1
        assert list_of(home).read_bytes() == trusting

    def test_yes(self, home: Home, trusting: bytes) -> None:
        person = AtTerminal(home.directory, "doctor", "--repair")
        person.sees(r"\[y/N\]")
        person.types("y")
        person.sees("counts again")
        person.sees("allow list +its seal fits")
        person.ends()
        assert list(listed(home.directory).values()) == ["controller"]

    def test_without_a_terminal_it_needs_a_flag(self, home: Home, trusting: bytes) -> None:
        done = amesh(home.directory, "doctor", "--repair")
        assert done.status == 2
        assert "--yes" in done.err
        assert list_of(home).read_bytes() == trusting
        amesh(home.directory, "doctor", "--repair", "--yes")
        assert len(listed(home.directory)) == 1

    def test_a_forged_list_is_not_asked_about(self, home: Home, trusting: bytes) -> None:
        forged = trusting.replace(STOLEN.encode(), b"honest laptop")
        list_of(home).write_bytes(forged)
        done = amesh(home.directory, "doctor", "--repair", "--yes")
        assert done.status == ROLLED_BACK
        assert "seal" in done.err
        assert list_of(home).read_bytes() == forged

    def test_files_are_closed_to_others(self, home: Home) -> None:
        key = home.directory / "keys" / f"{home.identity.device_id}.key.json"
        home.directory.chmod(0o755)
        key.chmod(0o644)
        (home.directory / ".passphrase").chmod(0o440)
        assert amesh(home.directory, "doctor", "--repair").status == 2
        assert key.stat().st_mode & 0o777 == 0o644
        done = amesh(home.directory, "doctor", "--repair", "--yes")
        assert f"{key}, mode 0644" in done.err
        assert home.directory.stat().st_mode & 0o777 == 0o700
        assert key.stat().st_mode & 0o777 == 0o600
        assert (home.directory / ".passphrase").stat().st_mode & 0o777 == 0o400
        assert opened(home.directory).identity == home.identity

    def test_nothing_to_repair(self, home: Home) -> None:
        assert "Nothing to repair" in amesh(home.directory, "doctor", "--repair").err

    def test_no_identity(self, tmp_path: Path) -> None:
        assert amesh(tmp_path / "none", "doctor", "--repair").status == 3


def test_a_child_of_a_fork_reads_as_its_parent(home: Home) -> None:
    """A worker process inherits what its parent believed."""
    before = list_of(home).read_bytes()
    record(home, make_peer(), now=LATER)
    mark_of(home).unlink()
    list_of(home).write_bytes(before)

    def read() -> None:
        with pytest.raises(AllowListRolledBack):
            home.allow_list()

    assert in_child(read) == 0


def test_every_key_store_keeps_marks_of_its_own(home: Home) -> None:
    """Two keys in one directory, as while one takes the other's place."""
    store = home.list_file()._store
    other = store.create()
    alias = crypto.sha256(other.public).hex()[:16]
    assert store.newest(other, alias) is None
    store.remember(other, alias, instant(LATER))
    assert store.newest(other, alias) == instant(LATER)
    assert remembered(home) == instant(NOW)
    with pytest.raises(AllowListMarkBroken):
        store.newest(home.key(), alias)
