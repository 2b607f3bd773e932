"""The directory: opening, passphrases, init, the allow list on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from amesh_core import crypto, disk, keystore
from amesh_core.errors import (
    AllowListMissing,
    AllowListRolledBack,
    AllowListTampered,
    AmeshError,
    BackendUnavailable,
    HomeBusy,
    HomeUnwritable,
    IdentityDamaged,
    IdentityExists,
    IdentityReplaced,
    KeyMissing,
    NoIdentity,
    NoPassphrase,
    UnknownDevice,
    UnsafePermissions,
    UsageError,
    WrongPassphrase,
)
from amesh_core.identity import device_id
from amesh_core.io import passphrase
from amesh_core.io.home import Created, Home
from amesh_core.settings import Settings
from tests.support.home import NOW, PASSPHRASE, cheap_init, make_home, make_peer, record

LATER: Final = NOW + 60


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


@pytest.fixture
def home(directory: Path) -> Home:
    return make_home(directory)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


def at(directory: Path, **more: Any) -> Settings:
    return Settings(directory=directory, **more)


def create(directory: Path, **more: Any) -> Created:
    options: dict[str, Any] = {"name": "prod-api", "now": NOW}
    return Home.create(more.pop("settings", at(directory)), **options | more)


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a directory, with its mode; the lock file is nobody's."""
    return {
        str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def assert_unlocks(settings: Settings) -> None:
    home = Home.open(settings)
    assert home.key().public == home.identity.public_key


def edit_json(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


# --- opening ----------------------------------------------------------------------------


def test_an_identity_is_opened(directory: Path) -> None:
    made = make_home(directory, name="prod-api", max_controllers=3)
    home = Home.open(at(directory))
    assert home.identity == made.identity
    assert home.identity.friendly_name == "prod-api"
    assert home.identity.device_id == device_id(home.key().public)
    assert (home.backend, home.max_controllers) == ("encrypted-file", 3)
    assert home.created_at == "2026-01-02T03:04:05.678Z"
    assert home.directory == directory
    crypto.verify(home.identity.public_key, home.key().sign(b"x"), b"x")
    assert home.allow_list().devices == ()


def test_opening_writes_nothing(home: Home) -> None:
    before = sorted(home.directory.rglob("*"))
    Home.open(at(home.directory)).allow_list()
    assert sorted(home.directory.rglob("*")) == before


def test_no_directory(directory: Path) -> None:
    with pytest.raises(NoIdentity) as raised:
        Home.open(at(directory))
    assert raised.value.directory == str(directory)
    assert not directory.exists()


def test_only_identity_json_means_an_identity(home: Home) -> None:
    (home.directory / "identity.json").unlink()
    with pytest.raises(NoIdentity):
        Home.open(at(home.directory))


def test_a_file_is_no_directory(directory: Path) -> None:
    directory.write_text("")
    directory.chmod(0o600)
    with pytest.raises(HomeUnwritable, match="not a directory"):
        Home.open(at(directory))
    with pytest.raises(HomeUnwritable):
        Home.open(at(directory / "below"))
    for place in (directory, directory / "below"):
        with pytest.raises(HomeUnwritable, match=f"{directory}: not a directory"):
            create(place)


@pytest.mark.parametrize("name", ["AUTH_MESH_DIR", "AMESH_PASSPHRASE_FILE"])
def test_the_home_directory_of_nobody(name: str) -> None:
    with pytest.raises(UsageError, match="~no-such-user/x"):
        Settings.from_env({name: "~no-such-user/x"})


def test_a_user_without_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""

    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UsageError, match="AUTH_MESH_DIR"):
        Settings.from_env({})


def test_a_symbolic_link_to_the_directory(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.directory)
    linked = Home.open(at(tmp_path / "link"))
    record(linked, make_peer())
    assert len(home.allow_list().devices) == 1


@pytest.mark.parametrize("text", ["", "{", "null", "{}", '{"version": "2.0.0"}'])
def test_a_damaged_identity_is_not_a_missing_one(home: Home, text: str) -> None:
    """LESSONS: any load error says "No identity found" there."""
    (home.directory / "identity.json").write_text(text)
    with pytest.raises(IdentityDamaged, match=r"identity\.json"):
        Home.open(at(home.directory))


def test_an_identity_under_the_id_of_another(home: Home) -> None:
    edit_json(home.directory / "identity.json", deviceId="am_AAAAAAAAAAAAAAAA")
    with pytest.raises(IdentityDamaged, match="deviceId"):
        Home.open(at(home.directory))


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o710, 0o720, 0o777])
def test_a_directory_open_to_others_is_refused(home: Home, mode: int) -> None:
    home.directory.chmod(mode)
    for use in (Home.open, lambda settings: create(home.directory, replace=True)):
        with pytest.raises(UnsafePermissions) as raised:
            use(at(home.directory))
        error = raised.value
        assert (error.path, error.mode, error.wanted) == (str(home.directory), mode, 0o700)
    assert stat.S_IMODE(home.directory.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644])
def test_a_passphrase_open_to_others_is_refused(home: Home, mode: int) -> None:
    path = home.directory / ".passphrase"
    path.chmod(mode)
    with pytest.raises(UnsafePermissions) as raised:
        Home.open(at(home.directory)).key()
    assert (raised.value.path, raised.value.mode, raised.value.wanted) == (str(path), mode, 0o400)


def test_a_back_end_that_is_not_here(home: Home) -> None:
    edit_json(home.directory / "identity.json", storageBackend="secure-enclave")
    with pytest.raises(BackendUnavailable):
        Home.open(at(home.directory)).key()


def test_a_missing_key_is_not_a_missing_identity(home: Home) -> None:
    shutil.rmtree(home.directory / "keys")
    with pytest.raises(KeyMissing):
        Home.open(at(home.directory)).key()


# --- passphrases ------------------------------------------------------------------------


def test_the_passphrase_beside_the_key_is_found(home: Home) -> None:
    """LESSONS: the SDK there never reads .passphrase."""
    assert Home.open(at(home.directory)).key().public == home.identity.public_key


def sources(tmp_path: Path, secrets: list[str]) -> list[dict[str, Any]]:
    """Settings for each operator's source, best first, each with its own passphrase."""
    (tmp_path / "named").write_text(secrets[1])
    (tmp_path / "amesh-passphrase").write_text(secrets[2])
    return [
        {"passphrase": secrets[0]},
        {"passphrase_file": tmp_path / "named"},
        {"credentials_directory": tmp_path},
    ]


@pytest.mark.parametrize("right", range(4))
def test_the_order_of_the_sources(home: Home, tmp_path: Path, right: int) -> None:
    """The first source that is there decides; the right passphrase further back is not used."""
    secrets = [PASSPHRASE if place == right else "wrong" for place in range(3)]
    available = sources(tmp_path, secrets)[right:]
    settings = at(home.directory, **{k: v for source in available for k, v in source.items()})
    assert Home.open(settings).key().public == home.identity.public_key
    if right > 0:
        better = sources(tmp_path, ["wrong"] * 3)[right - 1]
        with pytest.raises(WrongPassphrase):
            Home.open(at(home.directory, **better)).key()


@pytest.mark.parametrize(
    ("place", "name"), [(0, "AUTH_MESH_PASSPHRASE"), (1, "named"), (2, "amesh-passphrase")]
)
def test_a_wrong_passphrase_says_where_it_came_from(
    home: Home, tmp_path: Path, place: int, name: str
) -> None:
    settings = at(home.directory, **sources(tmp_path, ["hunter2"] * 3)[place])
    with pytest.raises(WrongPassphrase, match=name) as raised:
        Home.open(settings).key()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("text", [PASSPHRASE, PASSPHRASE + "\n", PASSPHRASE + "\r\n"])
def test_one_line_end_in_a_file_is_not_the_passphrase(
    home: Home, tmp_path: Path, text: str
) -> None:
    (tmp_path / "named").write_bytes(text.encode())
    settings = at(home.directory, passphrase_file=tmp_path / "named")
    assert_unlocks(settings)


@pytest.mark.parametrize("text", [PASSPHRASE + "\n\n", PASSPHRASE + " ", PASSPHRASE + "\r"])
def test_anything_more_is_the_passphrase(home: Home, tmp_path: Path, text: str) -> None:
    (tmp_path / "named").write_bytes(text.encode())
    settings = at(home.directory, passphrase_file=tmp_path / "named")
    with pytest.raises(WrongPassphrase):
        Home.open(settings).key()


def test_in_the_environment_a_line_end_counts(home: Home) -> None:
    with pytest.raises(WrongPassphrase):
        Home.open(at(home.directory, passphrase=PASSPHRASE + "\n")).key()


def test_without_a_passphrase_every_source_is_named(home: Home) -> None:
    (home.directory / ".passphrase").unlink()
    with pytest.raises(NoPassphrase) as raised:
        Home.open(at(home.directory)).key()
    for source in (
        "AUTH_MESH_PASSPHRASE",
        "AMESH_PASSPHRASE_FILE",
        "amesh-passphrase",
        str(home.directory / ".passphrase"),
    ):
        assert source in str(raised.value)


def test_a_named_file_that_is_not_there_is_not_passed_over(home: Home, tmp_path: Path) -> None:
    settings = at(home.directory, passphrase_file=tmp_path / "nowhere")
    with pytest.raises(NoPassphrase, match="nowhere"):
        Home.open(settings).key()


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_passphrase_is_none(home: Home, tmp_path: Path, text: str) -> None:
    (tmp_path / "named").write_text(text)
    for more in ({"passphrase_file": tmp_path / "named"}, {"passphrase": ""}):
        with pytest.raises(NoPassphrase, match="empty"):
            Home.open(at(home.directory, **more)).key()


def test_a_mounted_secret_may_have_any_mode(home: Home, tmp_path: Path) -> None:
    (tmp_path / "named").write_text(PASSPHRASE)
    (tmp_path / "named").chmod(0o444)
    assert_unlocks(at(home.directory, passphrase_file=tmp_path / "named"))


def test_a_passphrase_need_not_be_utf8(directory: Path, tmp_path: Path) -> None:
    """Python hands bytes of the environment over as lone surrogates."""
    (tmp_path / "named").write_bytes(b"p\xe4ss\n")
    create(directory, settings=at(directory, passphrase_file=tmp_path / "named"))
    assert_unlocks(at(directory, passphrase="p\udce4ss"))


def test_the_key_is_unlocked_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """LESSONS: there, at every single call."""
    unlocked: list[int] = []
    argon2id = crypto.argon2id

    def counted(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        unlocked.append(threading.get_ident())
        return argon2id(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", counted)
    home = Home.open(at(home.directory))
    assert unlocked == []
    threads = [threading.Thread(target=home.allow_list) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record(home, make_peer())
    assert home.key() is home.key()
    assert len(unlocked) == 1


def test_a_home_prints_no_secret(home: Home) -> None:
    settings = at(home.directory, passphrase="hunter2")
    found = passphrase.find(settings, home.directory)
    assert found.secret == b"hunter2"
    assert "hunter2" not in f"{settings!r} {found!r} {Home.open(settings)!r} {home.key()!r}"


# --- a passphrase in identity.json ------------------------------------------------------


@pytest.fixture
def old(home: Home) -> Path:
    """A directory as an early Node release left it."""
    (home.directory / ".passphrase").unlink()
    edit_json(home.directory / "identity.json", passphrase=PASSPHRASE, future=[1])
    return home.directory


def test_it_is_moved_out_once(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert_unlocks(at(old))
    assert [(entry.name, entry.levelname) for entry in caplog.records] == [
        ("amesh.keystore", "WARNING")
    ]
    assert (old / ".passphrase").read_text() == PASSPHRASE
    assert stat.S_IMODE((old / ".passphrase").stat().st_mode) == 0o400
    identity = json.loads((old / "identity.json").read_text())
    assert "passphrase" not in identity
    assert identity["future"] == [1]
    assert PASSPHRASE not in caplog.text

    caplog.clear()
    assert_unlocks(at(old))
    assert caplog.records == []


def test_half_moved_it_is_moved_the_rest(old: Path) -> None:
    (old / ".passphrase").write_text(PASSPHRASE)
    (old / ".passphrase").chmod(0o400)
    Home.open(at(old))
    assert PASSPHRASE not in (old / "identity.json").read_text()


def test_of_two_passphrases_none_is_lost(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    (old / ".passphrase").write_text("another")
    (old / ".passphrase").chmod(0o400)
    before = contents(old)
    with pytest.raises(WrongPassphrase):
        Home.open(at(old)).key()
    assert contents(old) == before
    assert "different passphrases" in caplog.text


def test_on_a_read_only_disk_it_is_used_where_it_is(
    old: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(old)
    real_open = os.open

    def read_only(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert_unlocks(at(old))
    assert contents(old) == before
    assert "cannot be moved out" in caplog.text


# --- init -------------------------------------------------------------------------------


def test_init(directory: Path) -> None:
    created = create(directory, name="prod-api", max_controllers=2)
    assert [*created.reasons, created.home.backend] == list(keystore.BACKENDS)
    assert not created.hardware_bound
    assert created.passphrase_generated
    assert created.backup is None
    home = created.home
    assert home.identity.friendly_name == "prod-api"
    alias = home.identity.device_id
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {name: mode for name, (mode, _) in contents(directory).items()} == {
        ".passphrase": 0o400,
        "allow_list.json": 0o600,
        "identity.json": 0o600,
        f"keys/{alias}.key.json": 0o600,
        f"keys/{alias}.newest.json": 0o600,
    }
    assert stat.S_IMODE((directory / "keys").stat().st_mode) == 0o700
    assert json.loads((directory / "identity.json").read_text()) == {
        "version": "2.0.0",
        "deviceId": alias,
        "keyAlias": alias,
        "publicKey": json.loads((directory / "keys" / f"{alias}.key.json").read_text())[
            "publicKey"
        ],
        "friendlyName": "prod-api",
        "createdAt": "2026-01-02T03:04:05.678Z",
        "storageBackend": "encrypted-file",
        "maxControllers": 2,
    }
    again = Home.open(at(directory))
    assert again.identity == home.identity
    assert again.key().public == home.key().public
    assert again.allow_list() == home.allow_list()
    assert again.allow_list().devices == ()


def test_init_is_private_under_any_umask(directory: Path) -> None:
    before = os.umask(0)
    try:
        create(directory / "deep" / "er")
    finally:
        os.umask(before)
    for path in (directory / "deep" / "er").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("place", range(3))
def test_the_operators_passphrase_is_never_written(
    directory: Path, tmp_path: Path, place: int
) -> None:
    """LESSONS: `init` writes an operator's AUTH_MESH_PASSPHRASE to disk there."""
    settings = at(directory, **sources(tmp_path, ["hunter-two-and-a-half"] * 3)[place])
    created = create(directory, settings=settings)
    assert not created.passphrase_generated
    assert not (directory / ".passphrase").exists()
    for data in directory.rglob("*"):
        assert data.is_dir() or b"hunter-two-and-a-half" not in data.read_bytes()
    assert_unlocks(settings)
    with pytest.raises(NoPassphrase):
        Home.open(at(directory)).key()


def test_the_operators_passphrase_beside_the_key_is_not_deleted(directory: Path) -> None:
    """`.passphrase` is of the old identity, or nobody's, unless its operator names it."""
    directory.mkdir(0o700)
    beside = directory / ".passphrase"
    beside.write_text("hunter-two-and-a-half")
    beside.chmod(0o400)
    settings = at(directory, passphrase_file=directory / "." / ".passphrase")
    for _ in range(2):
        create(directory, settings=settings, replace=True)
        assert beside.read_text() == "hunter-two-and-a-half"
        assert_unlocks(settings)
        assert_unlocks(at(directory))


def test_init_with_an_unusable_passphrase_leaves_nothing(directory: Path) -> None:
    with pytest.raises(NoPassphrase):
        create(directory, settings=at(directory, passphrase_file=directory / "nowhere"))
    assert contents(directory) == {}
    with pytest.raises(NoIdentity):
        Home.open(at(directory))


@pytest.mark.parametrize("name", ["", " x", "a\x1b[31m", "x" * 65, 'a"b'])
def test_init_takes_only_a_good_name(directory: Path, name: str) -> None:
    with pytest.raises(UsageError):
        create(directory, name=name)
    assert not directory.exists()


def test_init_needs_room_for_a_controller(directory: Path) -> None:
    with pytest.raises(UsageError):
        create(directory, max_controllers=0)
    assert not directory.exists()


def test_init_with_an_unknown_back_end(directory: Path) -> None:
    with pytest.raises(BackendUnavailable):
        create(directory, backend="abacus")
    assert contents(directory) == {}


def test_an_identity_is_not_replaced_unasked(home: Home) -> None:
    before = contents(home.directory)
    with pytest.raises(IdentityExists) as raised:
        create(home.directory)
    assert raised.value.device_id == home.identity.device_id
    assert contents(home.directory) == before


def test_a_damaged_identity_is_not_replaced_unasked(home: Home) -> None:
    (home.directory / "identity.json").write_text("{")
    before = contents(home.directory)
    with pytest.raises(IdentityDamaged):
        create(home.directory)
    assert contents(home.directory) == before
    create(home.directory, replace=True)
    assert_unlocks(at(home.directory))


def test_an_interrupted_start_is_replaced(home: Home) -> None:
    """What lies there without identity.json is no identity, whatever it is."""
    (home.directory / "identity.json").unlink()
    (home.directory / "announce.json").write_text("{}")
    (home.directory / "config.json").write_text('{"relay": "ws://localhost/ws"}')
    created = create(home.directory)
    assert created.backup is None
    assert created.home.relay_url == "ws://localhost/ws"
    assert set(contents(home.directory)) == {
        ".passphrase",
        "allow_list.json",
        "config.json",
        "identity.json",
        f"keys/{created.home.identity.device_id}.key.json",
        f"keys/{created.home.identity.device_id}.newest.json",
    }
    assert Home.open(at(home.directory)).allow_list().devices == ()


# --- init --force -----------------------------------------------------------------------


def test_force_keeps_a_backup_that_works(home: Home) -> None:
    peer = make_peer()
    record(home, peer)
    (home.directory / "config.json").write_text("{}")
    (home.directory / "config.json").chmod(0o644)
    (home.directory / "provisioned.json").write_text("[]")
    (home.directory / "notes").mkdir()
    (home.directory / "notes" / "mine.txt").write_text("x")
    (home.directory / "nowhere").symlink_to("dangling")
    (home.directory / "loop").symlink_to(home.directory)
    before = {name: data for name, (_, data) in contents(home.directory).items()}
    created = create(home.directory, name="second", replace=True, now=NOW)

    assert created.backup == home.directory / "backup-20260102T030405Z"
    assert {name: data for name, (_, data) in contents(created.backup).items()} == before
    assert stat.S_IMODE(created.backup.stat().st_mode) == 0o700
    assert {mode for mode, _ in contents(created.backup).values()} == {0o400, 0o600}
    restored = Home.open(at(created.backup))
    assert restored.identity == home.identity
    assert restored.allow_list().find(peer.device_id).public_key == peer.public_key

    now = Home.open(at(home.directory))
    assert now.identity == created.home.identity != home.identity
    assert now.identity.friendly_name == "second"
    assert now.allow_list().devices == ()
    left = {name for name in contents(home.directory) if not name.startswith("backup-")}
    assert left == {
        ".passphrase",
        "allow_list.json",
        "config.json",
        "identity.json",
        "notes/mine.txt",
        f"keys/{now.identity.device_id}.key.json",
        f"keys/{now.identity.device_id}.newest.json",
    }


def test_backups_of_one_second_do_not_meet(home: Home) -> None:
    backups = [create(home.directory, replace=True).backup for _ in range(3)]
    assert len(set(backups)) == 3
    for backup in backups:
        assert backup is not None
        assert_unlocks(at(backup))
        assert not list(backup.glob("backup-*"))


def test_force_with_an_operators_passphrase_leaves_no_old_one(home: Home) -> None:
    """The old .passphrase would be taken for that of the new key."""
    created = create(
        home.directory, settings=at(home.directory, passphrase="hunter2"), replace=True
    )
    assert created.backup is not None
    assert not (home.directory / ".passphrase").exists()
    assert_unlocks(at(home.directory, passphrase="hunter2"))
    assert_unlocks(at(created.backup))


@pytest.mark.parametrize("name", ["allow_list.json", "keys", ".passphrase"])
def test_force_over_an_obstacle_leaves_the_old_identity(home: Home, name: str) -> None:
    record(home, make_peer())
    path = home.directory / name
    if name == "keys":
        shutil.rmtree(path)
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    before = contents(home.directory)
    with pytest.raises(HomeUnwritable, match=name):
        create(home.directory, replace=True)
    assert contents(home.directory) == before
    assert Home.open(at(home.directory)).identity == home.identity


def test_a_running_process_learns_that_its_identity_was_replaced(home: Home) -> None:
    fresh = Home.open(at(home.directory))
    home.key()
    home.allow_list()
    create(home.directory, replace=True)
    for stale in (fresh, home):
        with pytest.raises(IdentityReplaced):
            stale.allow_list()
    with pytest.raises(IdentityReplaced), home.editing_allow_list(LATER) as edit:
        edit.allow_list = edit.allow_list.stamped(LATER)
    assert Home.open(at(home.directory)).allow_list().devices == ()


def test_a_running_process_learns_that_its_directory_is_gone(home: Home) -> None:
    home.allow_list()
    shutil.rmtree(home.directory)
    with pytest.raises(NoIdentity):
        home.allow_list()


# --- the lock ---------------------------------------------------------------------------


def test_a_lock_that_is_held_is_not_waited_for_for_ever(home: Home) -> None:
    with disk.locked(home.directory):
        with pytest.raises(HomeBusy), disk.locked(home.directory, timeout_seconds=0.02):
            raise AssertionError("two at once")
        # Reading needs no lock.
        assert Home.open(at(home.directory)).allow_list().devices == ()
    with disk.locked(home.directory, timeout_seconds=0):
        pass


def test_a_lock_is_given_back_after_an_error(home: Home) -> None:
    with pytest.raises(RuntimeError), disk.locked(home.directory):
        raise RuntimeError
    with disk.locked(home.directory, timeout_seconds=0):
        pass


def test_a_directory_that_vanished_cannot_be_locked(home: Home) -> None:
    home.key()
    shutil.rmtree(home.directory)
    with pytest.raises(HomeUnwritable, match=str(home.directory)):
        record(home, make_peer())


# --- the allow list ---------------------------------------------------------------------


def test_a_change_is_on_disk_for_everybody(home: Home) -> None:
    peer = make_peer("laptop")
    other = Home.open(at(home.directory))
    record(home, peer, now=LATER)
    assert other.allow_list().controller(peer.public_key, LATER).friendly_name == "laptop"
    assert other.allow_list().updated_at == "2026-01-02T03:05:05.678Z"
    with other.editing_allow_list(LATER) as edit:
        edit.allow_list = edit.allow_list.revoke(edit.allow_list.find("laptop"))
    with pytest.raises(UnknownDevice):
        home.allow_list().controller(peer.public_key, LATER)
    # The clock stood still; the list did not.
    assert home.allow_list().updated_at == "2026-01-02T03:05:05.679Z"
    assert stat.S_IMODE((home.directory / "allow_list.json").stat().st_mode) == 0o600


def test_an_error_inside_writes_nothing(home: Home) -> None:
    before = contents(home.directory)

    def fail() -> None:
        with home.editing_allow_list(LATER) as edit:
            edit.allow_list = edit.allow_list.stamped(LATER)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(home.directory) == before


def test_no_change_writes_nothing(home: Home) -> None:
    stamp = home.allow_list_stamp()
    with home.editing_allow_list(LATER):
        pass
    assert home.allow_list_stamp() == stamp


def test_a_tampered_list(home: Home) -> None:
    record(home, make_peer("laptop"))
    path = home.directory / "allow_list.json"
    path.write_text(path.read_text().replace("laptop", "Laptop"))
    before = contents(home.directory)
    with pytest.raises(AllowListTampered):
        home.allow_list()
    with pytest.raises(AllowListTampered):
        record(home, make_peer())
    assert contents(home.directory) == before


def test_an_older_list_put_back_revokes_nobody_again(home: Home) -> None:
    """LESSONS: an older sealed allow list put back un-revokes a device."""
    peer = make_peer()
    path = home.directory / "allow_list.json"
    record(home, peer)
    trusting = path.read_bytes()
    with home.editing_allow_list(LATER) as edit:
        edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(peer.device_id))
    path.write_bytes(trusting)
    with pytest.raises(AllowListRolledBack):
        home.allow_list()
    with pytest.raises(AllowListRolledBack):
        record(home, make_peer())
    assert path.read_bytes() == trusting


def test_a_reader_remembers_too(home: Home) -> None:
    reader = Home.open(at(home.directory))
    path = home.directory / "allow_list.json"
    before = path.read_bytes()
    record(home, make_peer())
    reader.allow_list()
    path.write_bytes(before)
    with pytest.raises(AllowListRolledBack):
        reader.allow_list()


def test_a_vanished_list_is_not_an_empty_one(home: Home) -> None:
    (home.directory / "allow_list.json").unlink()
    with pytest.raises(AllowListMissing):
        home.allow_list()
    with pytest.raises(AllowListMissing):
        record(home, make_peer())
    assert not (home.directory / "allow_list.json").exists()


def test_threads_never_see_a_rollback_that_is_none(home: Home) -> None:
    """What one thread read before another wrote must not be judged after it."""
    home.key()
    peers = [make_peer(f"peer {number}") for number in range(20)]
    errors: list[AmeshError] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() and not errors:
            try:
                home.allow_list()
            except AmeshError as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for peer in peers:
        record(home, peer)
    done.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert len(home.allow_list().devices) == 20


def test_a_list_is_read_and_judged_in_one_step(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, without luck: while one thread reads, no other can accept a newer list."""
    guard = home.list_file()._guard
    free: list[bool] = []
    read = disk.read_own

    def read_and_try(path: Path) -> bytes | None:
        other = threading.Thread(target=lambda: free.append(guard.acquire(blocking=False)))
        other.start()
        other.join()
        return read(path)

    monkeypatch.setattr(disk, "read_own", read_and_try)
    home.allow_list()
    assert free == [False, False]  # the mark, the list


def test_nobody_waits_for_the_unlocking_of_a_key(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[bool] = []
    argon2id = crypto.argon2id

    def unlock(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        with disk.locked(home.directory, timeout_seconds=0):
            free.append(True)
        return argon2id(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", unlock)
    record(Home.open(at(home.directory)), make_peer())
    assert free == [True]


def test_a_link_to_the_list_is_followed_not_replaced(home: Home, tmp_path: Path) -> None:
    path = home.directory / "allow_list.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    record(home, make_peer())
    assert path.is_symlink()
    assert len(home.allow_list().devices) == 1


def test_the_stamp_changes_with_the_list(home: Home) -> None:
    first = home.allow_list_stamp()
    assert first == home.allow_list_stamp() is not None
    record(home, make_peer())
    second = home.allow_list_stamp()
    assert second != first
    (home.directory / "allow_list.json").unlink()
    assert home.allow_list_stamp() is None


def test_the_stamp_changes_when_a_link_is_exchanged(home: Home, tmp_path: Path) -> None:
    """A Kubernetes ConfigMap changes by exchanging the link to a whole directory."""
    path = home.directory / "allow_list.json"
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        shutil.copy2(path, tmp_path / version / "allow_list.json")
    path.unlink()
    (tmp_path / "data").symlink_to("one")
    path.symlink_to(tmp_path / "data" / "allow_list.json")
    before = home.allow_list_stamp()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    assert home.allow_list_stamp() != before


# --- config.json ------------------------------------------------------------------------


def test_the_relay_of_the_config(home: Home) -> None:
    assert home.relay_url is None
    (home.directory / "config.json").write_text('{"relay": "wss://relay.example/ws"}')
    assert home.relay_url == "wss://relay.example/ws"


@pytest.mark.parametrize("text", ["", "[]", '{"relay": "https://relay.example"}', '{"relay": 1}'])
def test_a_config_that_cannot_work(home: Home, text: str) -> None:
    (home.directory / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        _ = home.relay_url


# --- root -------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "given"), [(0, True), (1000, False)])
def test_what_root_writes_belongs_to_the_owner_of_the_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch, user: int, given: bool
) -> None:
    """`sudo amesh revoke` must not leave a list that the service cannot read."""
    make_home(directory)
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name in ("fchown", "lchown"):
        monkeypatch.setattr(os, name, lambda path, uid, gid: owners.append((uid, gid)))
    record(Home.open(at(directory)), make_peer())
    create(directory, replace=True)
    owner = directory.stat()
    assert set(owners) == ({(owner.st_uid, owner.st_gid)} if given else set())
