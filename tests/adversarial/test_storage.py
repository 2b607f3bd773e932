"""A process dies, a disk fills, two write at once: the directory is the old or the new, whole.

Real processes and SIGKILL. The sweeps kill before every single system call that changes
something, one after another, until the operation gets through.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from amesh_core import crypto, disk
from amesh_core.errors import (
    AllowListTampered,
    AmeshError,
    HomeUnwritable,
    IdentityReplaced,
    NoIdentity,
)
from amesh_core.identity import Peer
from amesh_core.io import identity_file, staging
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire.files import IdentityFile
from tests.support.dying import (
    before_step,
    die,
    disk_full,
    each_death,
    finish,
    in_child,
    opened,
    put_back,
    snapshot,
    start,
)
from tests.support.home import NOW, cheap_init, make_home, make_peer, peer_of, record


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


def assert_tidy(directory: Path) -> None:
    """Nothing is left of what was not finished, and one key is that of the identity."""
    home = opened(directory)
    names = {path.name for path in directory.iterdir()} - {".lock"}
    backups = {name for name in names if name.startswith("backup-")}
    assert names - backups == {".passphrase", "allow_list.json", "identity.json", "keys"}
    assert {path.name for path in (directory / "keys").iterdir()} == {
        f"{home.identity.device_id}.key.json",
        f"{home.identity.device_id}.newest.json",
    }


# --- killed while writing the list ------------------------------------------------------


def test_killed_while_recording(tmp_path: Path) -> None:
    home = make_home(tmp_path / "amesh")
    first, second = make_peer("first"), make_peer("second")
    record(home, first)
    before = snapshot(home.directory)
    outcomes = set()
    for step in each_death(lambda: record(home, second)):
        names = [device.friendly_name for device in opened(home.directory).allow_list().devices]
        assert names in (["first"], ["first", "second"]), step
        outcomes.add(len(names))
        # The next writer sweeps up.
        record(opened(home.directory), make_peer("third"))
        assert_tidy(home.directory)
        put_back(home.directory, before)
    assert outcomes == {1, 2}


def test_killed_while_revoking(tmp_path: Path) -> None:
    home = make_home(tmp_path / "amesh")
    peer = make_peer("stolen laptop")
    record(home, peer)
    before = snapshot(home.directory)

    def revoke() -> None:
        with home.editing_allow_list(NOW) as edit:
            edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(peer.device_id))

    outcomes = set()
    for _ in each_death(revoke):
        outcomes.add(len(opened(home.directory).allow_list().devices))
        assert_tidy(home.directory)
        put_back(home.directory, before)
    assert outcomes == {0, 1}


@pytest.mark.parametrize("changes", [1, 2, 3, 5, 8, 13])
def test_killed_in_the_middle_of_many_writes(tmp_path: Path, changes: int) -> None:
    """From outside and at no particular step, by a parent that only saw it getting on."""
    home = make_home(tmp_path / "amesh")
    home.key()
    reading, writing = os.pipe()

    def write_for_ever() -> NoReturn:
        while True:
            record(home, make_peer())
            os.write(writing, b".")

    child = start(write_for_ever)
    os.close(writing)
    for _ in range(changes):
        assert os.read(reading, 1) == b"."
    os.kill(child, signal.SIGKILL)
    assert finish(child) == -signal.SIGKILL
    told = changes + len(os.read(reading, 4096))
    os.close(reading)
    # What was said to be done is done; one more may have been on its way.
    assert len(opened(home.directory).allow_list().devices) in (told, told + 1)
    assert_tidy(home.directory)


# --- killed while starting --------------------------------------------------------------


def init(directory: Path, *, replace: bool = False) -> None:
    Home.create(Settings(directory=directory), name="new", now=NOW, replace=replace)


def test_killed_in_init(tmp_path: Path) -> None:
    directory = tmp_path / "amesh"
    outcomes = set()
    for _ in each_death(lambda: init(directory)):
        try:
            whole = opened(directory).identity.friendly_name == "new"
            assert_tidy(directory)
        except NoIdentity:
            whole = False
            # What it left does not stop the next one.
            init(directory)
            assert_tidy(directory)
        outcomes.add(whole)
        put_back(directory, {})
        directory.rmdir()
    assert outcomes == {True, False}


@pytest.mark.parametrize("passphrase", [None, "the operator's"])
def test_killed_in_init_force(tmp_path: Path, passphrase: str | None) -> None:
    """The old identity stays usable until the new one is, and then it is in the backup."""
    old = make_home(tmp_path / "amesh", name="old")
    directory, peer = old.directory, make_peer()
    record(old, peer)
    before = snapshot(directory)
    settings = Settings(directory=directory, passphrase=passphrase)

    outcomes = set()
    for step in each_death(lambda: Home.create(settings, name="new", now=NOW, replace=True)):
        # Whoever comes first, reader or writer, finds one identity and everything of it.
        home = Home.open(Settings(directory=directory))
        name = home.identity.friendly_name
        outcomes.add(name)
        if name == "old":
            assert opened(directory).identity == old.identity
            assert old.allow_list().find(peer.device_id).public_key == peer.public_key
            assert_tidy(directory)
            assert not list(directory.glob("backup-*")), step
        else:
            home = Home.open(settings)
            crypto.verify(home.identity.public_key, home.key().sign(b"x"), b"x")
            assert home.allow_list().devices == ()
            assert (directory / ".passphrase").exists() == (passphrase is None)
            assert {path.name for path in (directory / "keys").iterdir()} == {
                f"{home.identity.device_id}.key.json",
                f"{home.identity.device_id}.newest.json",
            }
            (backup,) = directory.glob("backup-*")
            restored = opened(backup)
            assert restored.identity == old.identity
            assert restored.allow_list().find(peer.device_id).public_key == peer.public_key
        assert {p.name for p in directory.glob(".*")} <= {".lock", ".passphrase"}
        put_back(directory, before)
    assert outcomes == {"old", "new"}


def test_killed_while_finishing_what_was_killed(tmp_path: Path) -> None:
    """The second process dies at each instant too, and a third still finishes."""
    directory = make_home(tmp_path / "amesh", name="old").directory
    before = snapshot(directory)

    def die_once_it_counts() -> None:
        pytest.MonkeyPatch().setattr(staging, "_move_in", lambda _: die(""))
        init(directory, replace=True)

    def leave_it_half_done() -> None:
        put_back(directory, before)
        assert in_child(die_once_it_counts) == -signal.SIGKILL
        assert staging.is_replacing(directory)

    leave_it_half_done()
    for _ in each_death(lambda: Home.open(Settings(directory=directory))):
        assert opened(directory).identity.friendly_name == "new"
        assert_tidy(directory)
        leave_it_half_done()


def leave_replacement_half_done(directory: Path) -> None:
    """What a process leaves that dies when the new identity counts and is not in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_move_in", lambda _: None)
        init(directory, replace=True)
    assert staging.is_replacing(directory)


def test_an_old_process_cannot_write_into_a_half_done_replacement(tmp_path: Path) -> None:
    """Its entry would be gone as soon as somebody finished the replacement."""
    old = make_home(tmp_path / "amesh", name="old")
    old.allow_list()
    leave_replacement_half_done(old.directory)
    with pytest.raises(IdentityReplaced):
        record(old, make_peer())
    assert opened(old.directory).allow_list().devices == ()
    assert_tidy(old.directory)


def test_a_list_that_arrived_before_its_identity_is_not_called_tampered(tmp_path: Path) -> None:
    old = make_home(tmp_path / "amesh", name="old")
    old.allow_list()
    leave_replacement_half_done(old.directory)
    (old.directory / ".ready" / "allow_list.json").replace(old.directory / "allow_list.json")
    with pytest.raises(IdentityReplaced):
        old.allow_list()


def test_init_force_finishes_a_half_done_one_first(tmp_path: Path) -> None:
    directory = make_home(tmp_path / "amesh", name="old").directory
    leave_replacement_half_done(directory)
    init(directory, replace=True)
    backups = [opened(path).identity.friendly_name for path in directory.glob("backup-*")]
    assert sorted(backups) == ["new", "old"]
    assert_tidy(directory)


def test_an_identity_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_home(tmp_path / "amesh", name="old").directory
    read, names = identity_file.read, []

    def read_slowly(path: Path) -> IdentityFile | None:
        file = read(path)
        if file is not None:
            names.append(file.friendly_name)
        if names == ["old"]:
            leave_replacement_half_done(directory)
        return file

    monkeypatch.setattr(identity_file, "read", read_slowly)
    assert Home.open(Settings(directory=directory)).identity.friendly_name == "new"
    assert names == ["old", "new"]


def test_identity_json_is_the_last_to_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order a directory lists its names."""
    moved: list[str] = []
    move, names = disk.move, staging._names

    def noting(source: Path, target: Path) -> None:
        moved.append(target.name)
        move(source, target)

    monkeypatch.setattr(disk, "move", noting)
    monkeypatch.setattr(staging, "_names", lambda path: names(path)[::-1])
    init(tmp_path / "amesh")
    assert moved[0] == ".ready"
    keys, rest = sorted(moved[1:3]), sorted(moved[3:5])
    assert [name.split(".", 1)[1] for name in keys] == ["key.json", "newest.json"]
    assert rest == [".passphrase", "allow_list.json"]
    assert moved[5:] == ["identity.json"]


def test_killed_in_the_move_of_an_old_passphrase(tmp_path: Path) -> None:
    directory = make_home(tmp_path / "amesh").directory
    secret = (directory / ".passphrase").read_text()
    (directory / ".passphrase").unlink()
    text = (directory / "identity.json").read_text()
    (directory / "identity.json").write_text(text.replace("{", f'{{"passphrase": "{secret}",', 1))
    before = snapshot(directory)
    for _ in each_death(lambda: Home.open(Settings(directory=directory))):
        opened(directory)
        assert secret not in (directory / "identity.json").read_text()
        assert_tidy(directory)
        put_back(directory, before)


# --- the power fails --------------------------------------------------------------------


def order_of_events(action: Callable[[], object]) -> list[str]:
    """What was forced to the disk, and what was renamed, in order."""
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("directory" if is_directory else "file")
        fsync(descriptor)

    def noting_rename(source: Path, target: Path) -> None:
        events.append(f"-> {target.name}")
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", noting_fsync)
        patch.setattr(os, "replace", noting_rename)
        action()
    return events


def test_a_list_is_on_the_disk_before_its_name(tmp_path: Path) -> None:
    """A kill keeps what the kernel has; a loss of power keeps what the disk has."""
    home = make_home(tmp_path / "amesh")
    assert order_of_events(lambda: record(home, make_peer())) == [
        *("file", "-> allow_list.json", "directory"),
        # Then the mark, which may be behind but never ahead.
        *("file", f"-> {home.identity.device_id}.newest.json", "directory"),
    ]


def test_an_identity_is_on_the_disk_before_it_counts(tmp_path: Path) -> None:
    events = order_of_events(lambda: init(tmp_path / "amesh"))
    key = next(event for event in events if event.endswith(".key.json"))
    mark = next(event for event in events if event.endswith(".newest.json"))
    assert events == [
        *("file", "directory"),  # the key, in its directory
        *("file", "file"),  # passphrase, list
        *("file", mark, "directory"),
        "file",  # identity
        *("file", "directory"),  # what to discard; all the names
        *("-> .ready", "directory"),
        *(key, mark, "directory"),
        *("-> .passphrase", "-> allow_list.json", "directory"),
        *("-> identity.json", "directory"),
        "directory",  # .ready is gone
    ]


# --- the disk refuses -------------------------------------------------------------------


def refused_at(step: int, action: Callable[[], object]) -> bool:
    """Whether `action`, its `step`-th change refused, said so; False when it got through."""
    with pytest.MonkeyPatch.context() as patch:
        steps = before_step(patch, step, disk_full, half_write=True)
        said = []
        try:
            action()
        except HomeUnwritable as error:
            said.append(str(error))
        assert all("No space left on device" in text for text in said)
        # A refusal may only pass unnoticed where nothing depends on it: tidying up.
        return steps() >= step


@pytest.mark.parametrize("operation", ["record", "init", "force"])
def test_a_disk_that_refuses(tmp_path: Path, operation: str) -> None:
    directory = tmp_path / "amesh"
    before: dict[str, bytes] = {}
    if operation != "init":
        record(make_home(directory, name="old"), make_peer())
        before = snapshot(directory)
    actions: dict[str, Callable[[], object]] = {
        "record": lambda: record(opened(directory), make_peer()),
        "init": lambda: init(directory),
        "force": lambda: init(directory, replace=True),
    }
    step = 1
    while refused_at(step, actions[operation]):
        try:
            name = opened(directory).identity.friendly_name
            assert name in ("old", "new")
            assert_tidy(directory)
        except NoIdentity:
            assert operation == "init"
        if directory.exists():
            put_back(directory, before)
        step += 1
    assert step > 5
    assert_tidy(directory)


def test_what_was_changed_is_not_called_unchanged(tmp_path: Path) -> None:
    """The very last step fails: the device is trusted by now, and its person has to know."""
    home = make_home(tmp_path / "amesh")
    peer = make_peer()

    def broken(path: Path) -> NoReturn:
        raise HomeUnwritable(f"{path}: Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "sync_directory", broken)
        with pytest.raises(HomeUnwritable, match=r"allow_list\.json was changed, but may not"):
            record(home, peer)
    (device,) = opened(home.directory).allow_list().devices
    assert device.public_key == peer.public_key


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS server without locks: readers go on, and nothing is written without one."""
    home = make_home(tmp_path / "amesh")
    record(home, make_peer("first"))
    (home.directory / ".tmp-0123456789abcdef").touch()
    before = snapshot(home.directory)

    def no_locks(_descriptor: int, _operation: int) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert [d.friendly_name for d in opened(home.directory).allow_list().devices] == ["first"]
    with pytest.raises(HomeUnwritable, match=r"\.lock: No locks available"):
        record(home, make_peer("second"))
    assert snapshot(home.directory) == before


def test_a_disk_that_cannot_force_a_directory(tmp_path: Path) -> None:
    """Shared folders of virtual machines answer EINVAL; every change used to be an error there."""
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", only_files)
        init(tmp_path / "amesh")
        record(opened(tmp_path / "amesh"), make_peer())
    assert len(opened(tmp_path / "amesh").allow_list().devices) == 1


def test_a_file_size_limit_is_no_traceback(tmp_path: Path) -> None:
    """The kernel's own refusal, in the middle of a write."""
    home = make_home(tmp_path / "amesh")
    record(home, make_peer())
    before = snapshot(home.directory)

    def write_against_the_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        with pytest.raises(HomeUnwritable, match=r"amesh/\.tmp-.*File too large"):
            record(home, make_peer())

    assert in_child(write_against_the_limit) == 0
    assert snapshot(home.directory) == before


def as_ordinary_user(directory: Path, action: Callable[[Path], object]) -> int:
    """Run `action` on a directory that is this process's own, but with no power to override."""
    if os.geteuid() == 0:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, 65534, 65534)

    def run() -> None:
        # By its own name `.`: what is above it may be root's alone.
        os.chdir(directory)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        action(Path())

    return in_child(run)


def test_a_read_only_directory_is_read(tmp_path: Path) -> None:
    directory = make_home(tmp_path / "amesh").directory
    directory.chmod(0o500)

    def use(here: Path) -> None:
        home = opened(here)
        assert home.allow_list_stamp() is not None
        with pytest.raises(HomeUnwritable, match="Permission denied"):
            record(home, make_peer())
        with pytest.raises(HomeUnwritable, match="Permission denied"):
            init(here, replace=True)

    assert as_ordinary_user(directory, use) == 0
    assert sorted(path.name for path in directory.iterdir()) == [
        ".passphrase",
        "allow_list.json",
        "identity.json",
        "keys",
    ]


def test_force_with_keys_that_cannot_be_added_to_leaves_the_old_identity(tmp_path: Path) -> None:
    old = make_home(tmp_path / "amesh", name="old")
    (old.directory / "keys").chmod(0o500)

    def use(here: Path) -> None:
        with pytest.raises(HomeUnwritable, match="keys"):
            init(here, replace=True)
        assert opened(here).identity == old.identity

    assert as_ordinary_user(old.directory, use) == 0


def test_leftovers_do_not_stop_a_reader_that_cannot_remove_them(tmp_path: Path) -> None:
    directory = make_home(tmp_path / "amesh").directory
    (directory / ".new-0123456789abcdef").mkdir()
    (directory / ".tmp-0123456789abcdef").touch()
    directory.chmod(0o500)
    assert as_ordinary_user(directory, opened) == 0


def test_a_half_replaced_identity_on_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    """Neither identity can be had whole without writing, so there is none to be had."""
    directory = make_home(tmp_path / "amesh").directory
    leave_replacement_half_done(directory)
    directory.chmod(0o500)

    def use(here: Path) -> None:
        with pytest.raises(HomeUnwritable):
            Home.open(Settings(directory=here))

    assert as_ordinary_user(directory, use) == 0
    directory.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(directory, 0, 0)
    assert opened(directory).identity.friendly_name == "new"


@pytest.mark.parametrize("name", ["identity.json", "allow_list.json", ".passphrase", "keys"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    directory = make_home(tmp_path / "amesh").directory
    (directory / name).chmod(0)

    def use(here: Path) -> None:
        with pytest.raises(HomeUnwritable, match=name):
            opened(here)

    assert as_ordinary_user(directory, use) == 0


# --- many at once -----------------------------------------------------------------------


def all_at_once(actions: list[Callable[[], object]]) -> list[int]:
    """Run each action in a process of its own, all let go at the same moment."""
    reading, writing = os.pipe()

    def when_let_go(action: Callable[[], object]) -> None:
        os.close(writing)
        os.read(reading, 1)  # returns when the parent closes the other end
        action()

    children = [start(partial(when_let_go, action)) for action in actions]
    os.close(reading)
    os.close(writing)
    return [finish(child) for child in children]


def test_twenty_writers_keep_twenty_entries(tmp_path: Path) -> None:
    """LESSONS: 20 parallel writers keep 1 entry of 20."""
    directory = make_home(tmp_path / "amesh").directory
    peers = [make_peer(f"peer {number}") for number in range(20)]

    def writer(peer: Peer) -> Callable[[], object]:
        return lambda: record(Home.open(Settings(directory=directory)), peer)

    assert all_at_once([writer(peer) for peer in peers]) == [0] * 20
    allow_list = opened(directory).allow_list()
    assert {device.device_id for device in allow_list.devices} == {peer.device_id for peer in peers}
    # Twenty writes at one and the same instant, twenty different times.
    assert allow_list.updated_at == "2026-01-02T03:04:05.698Z"
    assert_tidy(directory)


def test_writers_who_revoke_and_record(tmp_path: Path) -> None:
    home = make_home(tmp_path / "amesh")
    leaving = [make_peer(f"old {number}") for number in range(8)]
    coming = [make_peer(f"new {number}") for number in range(8)]
    record(home, *leaving)

    def revoke(peer: Peer) -> None:
        with home.editing_allow_list(NOW) as edit:
            edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(peer.device_id))

    actions: list[Callable[[], object]] = [partial(revoke, peer) for peer in leaving]
    actions += [partial(record, home, peer) for peer in coming]
    assert all_at_once(actions) == [0] * 16
    assert {device.device_id for device in opened(home.directory).allow_list().devices} == {
        peer.device_id for peer in coming
    }


def test_two_who_start_together_make_one_identity(tmp_path: Path) -> None:
    directory = tmp_path / "amesh"
    results = all_at_once([lambda: init(directory)] * 6)
    assert sorted(results) == [0, 1, 1, 1, 1, 1]
    assert_tidy(directory)


def test_a_reader_never_sees_half_a_replacement(tmp_path: Path) -> None:
    """Opened and used without a pause while another process replaces it, twenty times."""
    directory = make_home(tmp_path / "amesh").directory
    go_out, go_in = os.pipe()

    def replace_when_told() -> None:
        os.close(go_in)
        while os.read(go_out, 1):
            init(directory, replace=True)

    child = start(replace_when_told)
    os.close(go_out)
    seen = [opened(directory).identity.device_id]
    for _ in range(20):
        os.write(go_in, b"!")
        while True:
            try:
                device = opened(directory).identity.device_id
            except IdentityReplaced:
                continue
            if device != seen[-1]:
                break
        seen.append(device)
    os.close(go_in)
    assert finish(child) == 0
    assert len(set(seen)) == 21
    assert_tidy(directory)


# --- somebody writes who may not --------------------------------------------------------


def test_who_can_write_the_list_but_has_no_key_lets_nobody_in(tmp_path: Path) -> None:
    """The whole file is at an attacker's disposal, its own device's seal included."""
    home, attacker = make_home(tmp_path / "amesh"), make_home(tmp_path / "evil")
    record(attacker, peer_of(crypto.PrivateKey.generate()))
    path = home.directory / "allow_list.json"
    path.write_bytes((attacker.directory / "allow_list.json").read_bytes())
    with pytest.raises(AllowListTampered):
        home.allow_list()


def test_another_key_under_the_name_of_ours_is_not_used(tmp_path: Path) -> None:
    home, attacker = make_home(tmp_path / "amesh"), make_home(tmp_path / "evil")
    (theirs,) = (attacker.directory / "keys").glob("*.key.json")
    ours = home.directory / "keys" / f"{home.identity.device_id}.key.json"
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(AmeshError) as raised:
        Home.open(Settings(directory=home.directory)).key()
    assert raised.value.code == "key_file_damaged"


def test_a_planted_alias_opens_no_file_elsewhere(tmp_path: Path) -> None:
    home, other = make_home(tmp_path / "amesh"), make_home(tmp_path / "other")
    identity = home.directory / "identity.json"
    alias = f"../../other/keys/{other.identity.device_id}"
    assert (home.directory / "keys" / f"{alias}.key.json").exists()
    text = identity.read_text()
    identity.write_text(text.replace(f'Alias": "{home.identity.device_id}', f'Alias": "{alias}'))
    with pytest.raises(AmeshError) as raised:
        Home.open(Settings(directory=home.directory))
    assert raised.value.code == "identity_damaged"


def test_files_of_ours_are_never_open_to_others(tmp_path: Path) -> None:
    """Not even for the moment between being made and being full."""
    directory, modes = tmp_path / "amesh", set()
    real_write, real_fsync = os.write, os.fsync

    def note(descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            modes.add(stat.S_IMODE(found.st_mode))

    def write(descriptor: int, data: bytes) -> int:
        note(descriptor)
        return real_write(descriptor, data)

    def fsync(descriptor: int) -> None:
        note(descriptor)
        real_fsync(descriptor)

    before = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", write)
            patch.setattr(os, "fsync", fsync)
            init(directory)
            record(opened(directory), make_peer())
    finally:
        os.umask(before)
    assert modes == {0o600, 0o400}
