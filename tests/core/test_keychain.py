"""Keys in a keychain: a real GNOME Keyring, and a Mac's keychain below keyring's own code."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from keyring.errors import PasswordDeleteError

from amesh_core import crypto, disk, keystore
from amesh_core.errors import (
    AllowListMarkBroken,
    AllowListRolledBack,
    AmeshError,
    BackendUnavailable,
    HomeUnwritable,
    KeychainLocked,
    KeyFileDamaged,
    KeyMissing,
    KeyStoreError,
    Malformed,
    UnsafePermissions,
)
from amesh_core.identity import DeviceKey, device_id
from amesh_core.io import staging
from amesh_core.io.home import Home
from amesh_core.keystore import KeyStore, Means, keychain, keyring_items, keyring_mark
from amesh_core.keystore.keychain import KeychainStore
from amesh_core.keystore.keyring_items import Items
from amesh_core.settings import Settings
from amesh_core.wire.encoding import b64, instant
from amesh_core.wire.key_items import KeychainItem
from tests.core.test_keystore import KeyStoreContract
from tests.support.cli import environment
from tests.support.home import NOW, make_peer, record
from tests.support.mac_keychain import MacKeychain
from tests.support.secret_service import BUS_VARIABLE, SecretService, secret_service

_IGNORED: Final = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
_COLLECTED: Final = pytest.mark.usefixtures("collected")
Test = TypeVar("Test", bound=Callable[..., None])
LINUX: Final = Means(bytes, platform="linux")
MAC: Final = Means(bytes, platform="darwin")


@pytest.fixture
def service() -> Iterator[SecretService]:
    with secret_service() as running:
        yield running


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def leaves_a_socket(test: Test) -> Test:
    """keyring leaves its socket to the garbage collector when a keyring is locked or away."""
    marked: Test = _IGNORED(_COLLECTED(test))
    return marked


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> MacKeychain:
    there = MacKeychain()
    there.install(monkeypatch)
    return there


@pytest.fixture
def store(service: SecretService, tmp_path: Path) -> KeyStore:
    return keystore.open_store("keychain", tmp_path, LINUX)


class TestSecretService(KeyStoreContract):
    """The contract, in a real GNOME Keyring."""

    @pytest.fixture(autouse=True)
    def _keyring(self, service: SecretService, tmp_path: Path) -> None:
        self.directory = tmp_path

    def store(self) -> KeyStore:
        return keystore.open_store("keychain", self.directory, LINUX)


class TestMacKeychain(KeyStoreContract):
    """The contract, through keyring's macOS back end over a fake of the calls it makes."""

    @pytest.fixture(autouse=True)
    def _keychain(self, mac: MacKeychain, tmp_path: Path) -> None:
        self.directory = tmp_path

    def store(self) -> KeyStore:
        return keystore.open_store("keychain", self.directory, MAC)


# --- what is kept, and where ------------------------------------------------------------


def test_everything_is_in_the_keyring_and_nothing_in_the_directory(
    store: KeyStore, service: SecretService, tmp_path: Path
) -> None:
    key = store.create()
    alias = device_id(key.public)
    kept = service.secrets()
    assert set(kept) == {alias, f"{alias}/newest-1"}
    store.remember(key, alias, instant(5))
    assert set(service.secrets()) == {alias, f"{alias}/newest-1", f"{alias}/newest-2"}
    item = json.loads(kept[alias])
    assert set(item) == {"version", "publicKey", "privateScalar", "hmacSecret"}
    scalar = base64.b64decode(item["privateScalar"])
    assert crypto.PrivateKey.from_scalar(scalar).public == key.public
    seal_key = crypto.hkdf(
        base64.b64decode(item["hmacSecret"]),
        salt=b"amesh-allow-list-integrity-v1",
        info=alias.encode(),
    )
    assert key.mac(b"x") == crypto.hmac_sha256(seal_key, b"x")
    assert list(tmp_path.iterdir()) == []
    store.delete(alias)
    assert service.secrets() == {}


def test_no_two_keys_share_a_secret(store: KeyStore, service: SecretService) -> None:
    for _ in range(2):
        store.create()
    items = [json.loads(secret) for secret in service.secrets().values()]
    secrets = [item["hmacSecret"] for item in items if "hmacSecret" in item]
    assert len(set(secrets)) == 2


def test_the_secrets_are_in_no_file_no_log_and_no_argument(
    service: SecretService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    home = Home.create(at(tmp_path / "home"), name="x", backend="keychain", now=NOW).home
    record(home, make_peer("laptop"))
    item = KeychainItem.parse(service.secrets()[home.identity.device_id].decode())
    assert item.scalar is not None
    assert item.hmac_secret is not None
    shown = caplog.text + repr(item) + repr(home.key()) + " ".join(_arguments())
    files = [path for path in (*tmp_path.rglob("*"), *service.data.rglob("*")) if path.is_file()]
    assert any(path.suffix == ".keyring" for path in files)
    for secret in (item.scalar, item.hmac_secret):
        for form in (secret, secret.hex().encode(), b64(secret).encode()):
            assert form.decode("latin-1") not in shown
            for path in files:
                assert form not in path.read_bytes(), path


def _arguments() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text("latin-1")
        except OSError:  # it ended meanwhile
            continue


def test_a_key_is_never_overwritten(
    store: KeyStore, service: SecretService, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = crypto.PrivateKey.generate()
    monkeypatch.setattr(crypto.PrivateKey, "generate", lambda: key)
    store.create()
    before = service.secrets()
    with pytest.raises(KeyStoreError, match="already"):
        store.create()
    assert service.secrets() == before


def test_the_back_end_of_keyring_is_named_and_not_looked_for(
    store: KeyStore, service: SecretService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keyring itself would choose may keep secrets in plain text, or nowhere."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    store.create()
    assert len(service.secrets()) == 2
    modules = {each.module for each in keyring_items.KEYCHAINS.values()}
    assert modules == {"keyring.backends.macOS", "keyring.backends.SecretService"}


def test_a_keychain_that_keeps_nothing_is_found_out(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyring.backends.SecretService.Keyring.set_password", lambda *_: None)
    with pytest.raises(KeyStoreError, match="did not keep"):
        store.create()


def test_an_item_that_cannot_be_deleted_is_said_to_be_there(
    store: KeyStore, service: SecretService, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = device_id(store.create().public)

    def refuse(*_: object) -> None:
        raise PasswordDeleteError("not now")

    monkeypatch.setattr("keyring.backends.SecretService.Keyring.delete_password", refuse)
    with pytest.raises(KeyStoreError, match="deleted"):
        store.delete(alias)
    assert alias in service.secrets()


@pytest.mark.parametrize("refused", [1, 2])
def test_a_key_that_cannot_be_kept_whole_is_not_kept(
    store: KeyStore, service: SecretService, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    write, written = Items.write, []

    def fail_at(items: Items, account: str, text: str) -> None:
        written.append(account)
        if len(written) == refused:
            raise KeyStoreError("the keyring is full")
        write(items, account, text)

    monkeypatch.setattr(Items, "write", fail_at)
    with pytest.raises(KeyStoreError, match="full"):
        store.create()
    assert len(written) == refused
    assert service.secrets() == {}


# --- what is in the way -----------------------------------------------------------------


@leaves_a_socket
def test_a_locked_keyring_says_how_to_unlock_it(
    store: KeyStore, service: SecretService, tmp_path: Path
) -> None:
    key = store.create()
    alias = device_id(key.public)
    service.lock()
    attempts: list[Callable[[], object]] = [
        lambda: store.load(alias, key.public),
        store.create,
        lambda: store.delete(alias),
        lambda: store.newest(key, alias),
        lambda: store.remember(key, alias, instant(1)),
    ]
    for attempt in attempts:
        with pytest.raises(KeychainLocked, match="locked") as raised:
            attempt()
        assert "gnome-keyring-daemon" in raised.value.remedy
    assert keychain.why_not(LINUX) is None  # it is there, and its owner can open it
    service.kill_keyring()
    service.start_keyring()
    assert store.load(alias, key.public).mac(b"x") == key.mac(b"x")
    assert len(service.secrets()) == 2


@leaves_a_socket
def test_a_keyring_without_a_collection(store: KeyStore, service: SecretService) -> None:
    service.forget_everything()
    with pytest.raises(KeyStoreError, match="cannot be read: Failed to create the collection"):
        store.create()


@leaves_a_socket
def test_a_keyring_that_dies_and_comes_back(store: KeyStore, service: SecretService) -> None:
    key = store.create()
    alias = device_id(key.public)
    service.kill_keyring()
    assert "neither running nor activatable" in (keychain.why_not(LINUX) or "")
    with pytest.raises(KeyStoreError, match="Secret Service"):
        store.load(alias, key.public)
    crypto.verify(key.public, key.sign(b"x"), b"x")  # what is unlocked stays so
    service.start_keyring()
    assert store.load(alias, key.public).public == key.public


@leaves_a_socket
@pytest.mark.parametrize("bus", [None, "unix:path=/nonexistent/bus", "nonsense"])
def test_without_a_bus_nothing_else_is_tried(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bus: str | None
) -> None:
    key = store.create()
    with monkeypatch.context() as patched:  # over before the keyring's own fixture is
        if bus is None:
            patched.delenv(BUS_VARIABLE)
        else:
            patched.setenv(BUS_VARIABLE, bus)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            keystore.open_store("keychain", tmp_path, LINUX)
        with pytest.raises(KeyStoreError):
            store.load(device_id(key.public), key.public)


def test_a_platform_without_a_keychain_that_we_know() -> None:
    assert "win32" in (keychain.why_not(Means(bytes, platform="win32")) or "")


def test_a_mac_is_not_this_machine() -> None:
    assert "macOS" in (keychain.why_not(MAC) or "")


def test_keyring_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring.backends.SecretService", None)
    assert "is not installed" in (keychain.why_not(LINUX) or "")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(-128, KeychainLocked), (-25308, KeychainLocked), (-25293, KeyStoreError)],
)
def test_what_a_mac_says_no_with(
    mac: MacKeychain, tmp_path: Path, status: int, expected: type[KeyStoreError]
) -> None:
    store = keystore.open_store("keychain", tmp_path, MAC)
    key = store.create()
    alias = device_id(key.public)
    mac.status = status
    for attempt in (lambda: store.load(alias, key.public), lambda: store.delete(alias)):
        with pytest.raises(KeyStoreError) as raised:
            attempt()
        assert type(raised.value) is expected
    if expected is KeychainLocked:
        assert "security unlock-keychain" in vars(raised.value)["remedy"]
    mac.status = 0
    assert store.load(alias, key.public).public == key.public


# --- what an item may be ----------------------------------------------------------------

OTHER: Final = crypto.PrivateKey.generate()
SECRET: Final = bytes(range(32))


@pytest.fixture
def in_memory(mac: MacKeychain, tmp_path: Path) -> KeyStore:
    return keystore.open_store("keychain", tmp_path, MAC)


def test_another_key_in_the_place_of_ours(in_memory: KeyStore, mac: MacKeychain) -> None:
    key = in_memory.create()
    alias = device_id(key.public)
    mac.items["amesh", alias] = KeychainItem(OTHER.public, OTHER.scalar(), SECRET).encode()
    with pytest.raises(KeyFileDamaged, match="is that of another key"):
        in_memory.load(alias, key.public)


def test_another_key_under_the_name_of_ours(in_memory: KeyStore, mac: MacKeychain) -> None:
    key = in_memory.create()
    alias = device_id(key.public)
    mac.items["amesh", alias] = KeychainItem(key.public, OTHER.scalar(), SECRET).encode()
    with pytest.raises(KeyFileDamaged, match="than it says"):
        in_memory.load(alias, key.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"version": None},
        {"publicKey": "AA=="},
        {"privateScalar": None},
        {"privateScalar": b64(bytes(32))},
        {"privateScalar": b64(bytes(31))},
        {"hmacSecret": b64(bytes(16))},
        {"hmacSecret": 7},
    ],
    ids=str,
)
def test_a_damaged_item(in_memory: KeyStore, mac: MacKeychain, changes: dict[str, Any]) -> None:
    key = in_memory.create()
    alias = device_id(key.public)
    item = json.loads(mac.items["amesh", alias]) | changes
    kept = {name: value for name, value in item.items() if value is not None}
    mac.items["amesh", alias] = json.dumps(kept)
    with pytest.raises(KeyFileDamaged):
        in_memory.load(alias, key.public)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"version":"1"}', "\N{SNOWMAN}"])
def test_an_item_that_is_none_of_ours(in_memory: KeyStore, mac: MacKeychain, text: str) -> None:
    key = in_memory.create()
    mac.items["amesh", device_id(key.public)] = text
    with pytest.raises(KeyFileDamaged):
        in_memory.load(device_id(key.public), key.public)


def test_an_item_that_is_no_text(store: KeyStore, service: SecretService) -> None:
    """As another program may keep under any name: found out, and deleted like any other."""
    key, alias = marked(store, 5)
    for account in (alias, keyring_mark.accounts(alias)[0]):
        service.put(account, b"\xff\xfe\0")
    with pytest.raises(KeyFileDamaged, match="is no key"):
        store.load(alias, key.public)
    with pytest.raises(AllowListMarkBroken, match="is no mark"):
        store.newest(key, alias)
    store.remember(key, alias, instant(6))
    assert store.newest(key, alias) == instant(6)
    store.delete(alias)
    assert service.secrets() == {}


@pytest.mark.parametrize("text", ["\ud800", '{"version":"\ud800"}'])
def test_an_item_that_is_no_unicode(text: str) -> None:
    with pytest.raises(Malformed):
        KeychainItem.parse(text)


def test_an_item_survives_its_text() -> None:
    for item in (
        KeychainItem(OTHER.public, OTHER.scalar(), SECRET),
        KeychainItem(OTHER.public, None, SECRET),
        KeychainItem(OTHER.public, OTHER.scalar(), None),
    ):
        assert KeychainItem.parse(item.encode()) == item
        assert OTHER.scalar().hex() not in repr(item)


def test_a_list_that_node_sealed(store: KeyStore, tmp_path: Path) -> None:
    """Node's secret counts for a key that has none, and never in the place of one."""
    text = KeychainItem(OTHER.public, OTHER.scalar(), None).encode()
    alias = device_id(OTHER.public)
    Items("linux").write(alias, text)
    with pytest.raises(KeyMissing, match="seals the allow list"):
        store.load(alias, OTHER.public)
    own = store.create()
    disk.make_directory(tmp_path / "keys")
    for name in (alias, device_id(own.public)):
        disk.write_new(tmp_path / "keys" / f"{name}.hmac", SECRET)
    seal_key = crypto.hkdf(SECRET, salt=b"amesh-allow-list-integrity-v1", info=alias.encode())
    key = store.load(alias, OTHER.public)
    assert key.mac(b"x") == crypto.hmac_sha256(seal_key, b"x")
    assert store.load(device_id(own.public), own.public).mac(b"x") == own.mac(b"x")
    (tmp_path / "keys" / f"{alias}.hmac").chmod(0o640)
    with pytest.raises(UnsafePermissions):
        store.load(alias, OTHER.public)
    (tmp_path / "keys" / f"{alias}.hmac").chmod(0o600)
    (tmp_path / "keys" / f"{alias}.hmac").write_bytes(SECRET[1:])
    with pytest.raises(KeyFileDamaged, match="31 bytes"):
        store.load(alias, OTHER.public)


# --- the mark of the newest allow list --------------------------------------------------


def marked(store: KeyStore, *seconds: float) -> tuple[DeviceKey, str]:
    """A key with a mark, and its alias."""
    key = store.create()
    for moment in seconds:
        store.remember(key, device_id(key.public), instant(moment))
    return key, device_id(key.public)


@pytest.mark.parametrize("remembered", [(), (5.0,), (5.0, 6.0)])
def test_a_mark_that_is_gone_is_not_one_that_never_was(
    store: KeyStore, remembered: tuple[float, ...]
) -> None:
    key, alias = marked(store, *remembered)
    items = Items("linux")
    for account in keyring_mark.accounts(alias):
        items.delete(account)
    with pytest.raises(AllowListMarkBroken, match="lost"):
        store.newest(key, alias)
    store.remember(key, alias, instant(7))  # which is what `amesh doctor --repair` does
    assert store.newest(key, alias) == instant(7)


def test_a_mark_that_nobody_sealed(store: KeyStore, service: SecretService) -> None:
    key, alias = marked(store, 5, 6)
    _, other = marked(store, 9)
    kept = service.secrets()
    forged = json.loads(kept[f"{alias}/newest-1"]) | {"updatedAt": instant(0)}
    texts = (json.dumps(forged), kept[f"{other}/newest-2"].decode(), "{}", "")
    for account in keyring_mark.accounts(alias):
        for text in texts:
            Items("linux").write(account, text)
            with pytest.raises(AllowListMarkBroken):
                store.newest(key, alias)
        Items("linux").write(account, kept[account].decode())
    assert store.newest(key, alias) == instant(6)


def test_a_broken_mark_is_written_anew_when_asked(store: KeyStore) -> None:
    key, alias = marked(store, 5)
    Items("linux").write(f"{alias}/newest-2", "{}")
    store.remember(key, alias, instant(3))
    assert store.newest(key, alias) == instant(3)


def test_an_older_list_changes_no_mark(in_memory: KeyStore, mac: MacKeychain) -> None:
    key, alias = marked(in_memory, 4, 5)
    before = dict(mac.items)
    for moment in (0, 4, 4.5, 5):
        in_memory.remember(key, alias, instant(moment))
    assert mac.items == before


@pytest.mark.parametrize("already", [0, 1, 2, 3, 4])
def test_a_kill_while_a_mark_is_written_leaves_the_old_one(
    mac: MacKeychain, tmp_path: Path, already: int
) -> None:
    """A Mac deletes before it adds."""
    store = keystore.open_store("keychain", tmp_path, MAC)
    key, alias = marked(store, *range(1, already + 1))
    newest = store.newest(key, alias)

    def die() -> None:
        raise KeyboardInterrupt

    mac.between = die
    with pytest.raises(KeyboardInterrupt):
        store.remember(key, alias, instant(already + 1))
    assert len(mac.accounts()) == 2  # key and one mark; the one that was being written is gone
    assert store.newest(key, alias) == newest
    mac.between = lambda: None
    store.remember(key, alias, instant(already + 1))
    store.remember(key, alias, instant(already + 2))
    assert store.newest(key, alias) == instant(already + 2)
    assert len(mac.accounts()) == 3


# --- a directory whose key is in a keychain ---------------------------------------------


def at(directory: Path) -> Settings:
    return Settings(directory=directory)


def test_a_device_in_a_keychain(service: SecretService, tmp_path: Path) -> None:
    created = Home.create(at(tmp_path), name="x", backend="keychain", now=NOW)
    assert not created.hardware_bound
    assert not created.passphrase_generated
    record(created.home, make_peer("laptop"))
    again = Home.open(at(tmp_path))
    assert again.backend == "keychain"
    assert again.passphrase_source() is None
    assert len(again.allow_list().devices) == 1
    assert not (tmp_path / ".passphrase").exists()


def test_an_older_list_is_known_after_a_restart(service: SecretService, tmp_path: Path) -> None:
    home = Home.create(at(tmp_path), name="x", backend="keychain", now=NOW).home
    record(home, make_peer("laptop"))
    older = (tmp_path / "allow_list.json").read_bytes()
    record(home, make_peer("server"), now=NOW + 1)
    (tmp_path / "allow_list.json").write_bytes(older)
    with pytest.raises(AllowListRolledBack):
        Home.open(at(tmp_path)).allow_list()


def test_a_replaced_identity_still_works_from_its_backup(
    service: SecretService, tmp_path: Path
) -> None:
    home = Home.create(at(tmp_path), name="x", backend="keychain", now=NOW).home
    record(home, make_peer("laptop"))
    made = Home.create(at(tmp_path), name="y", backend="keychain", replace=True, now=NOW)
    assert made.backup is not None
    assert len(Home.open(at(made.backup)).allow_list().devices) == 1
    assert Home.open(at(tmp_path)).allow_list().devices == ()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("allow_list.json", HomeUnwritable("the disk is full")),
        ("identity.json", KeyboardInterrupt()),
        ("discard.json", HomeUnwritable("the disk is full")),
    ],
)
def test_an_init_that_fails_leaves_nothing_in_the_keychain(
    service: SecretService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: BaseException,
) -> None:
    write = disk.write_new

    def fail_at(path: Path, data: bytes, *, mode: int = disk.PRIVATE_FILE) -> None:
        if path.name == name:
            assert len(service.secrets()) in (2, 3)  # without or with the mark of the first list
            raise error
        write(path, data, mode=mode)

    monkeypatch.setattr(disk, "write_new", fail_at)
    with pytest.raises(type(error)):
        Home.create(at(tmp_path), name="x", backend="keychain", now=NOW)
    assert service.secrets() == {}
    assert not (tmp_path / "identity.json").exists()


def test_the_key_of_an_identity_that_counts_is_never_taken_back(
    service: SecretService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the one rename on, the next one to open the directory finishes it."""
    before = Home.create(at(tmp_path), name="x", backend="keychain", now=NOW).home.identity
    move = disk.move

    def fail_after_the_rename(source: Path, target: Path) -> None:
        if target.name == "allow_list.json":
            raise HomeUnwritable("the disk is full")
        move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "move", fail_after_the_rename)
        with pytest.raises(HomeUnwritable):
            Home.create(at(tmp_path), name="y", backend="keychain", replace=True, now=NOW)
    assert staging.is_replacing(tmp_path)
    assert len(service.secrets()) == 6
    home = Home.open(at(tmp_path))
    assert home.identity.friendly_name == "y"
    assert home.allow_list().devices == ()
    assert home.identity.device_id != before.device_id


def test_the_key_of_an_identity_in_its_place_is_never_taken_back(
    service: SecretService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, synced = disk.sync_directory, []

    def fail_at_the_end(path: Path) -> None:
        sync(path)
        synced.append(path)
        if (tmp_path / "identity.json").exists() and not (tmp_path / ".ready").exists():
            raise HomeUnwritable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "sync_directory", fail_at_the_end)
        with pytest.raises(HomeUnwritable):
            Home.create(at(tmp_path), name="x", backend="keychain", now=NOW)
    assert synced
    assert Home.open(at(tmp_path)).allow_list().devices == ()


@leaves_a_socket
def test_nothing_falls_back_when_the_keychain_is_away(
    service: SecretService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Home.create(at(tmp_path), name="x", backend="keychain", now=NOW)
    # Whatever another back end would want is there.
    disk.write_new(tmp_path / ".passphrase", b"secret", mode=0o400)
    service.kill()
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="keychain"):
            Home.open(at(tmp_path)).key()
    assert sorted(tmp_path.rglob("*")) == before
    service.start()  # for the fixture, which ends what it started


# --- several at once --------------------------------------------------------------------


def test_eight_threads(store: KeyStore, tmp_path: Path) -> None:
    key, alias = marked(store, 1)
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        mine = keystore.open_store("keychain", tmp_path, LINUX)
        loaded = mine.load(alias, key.public)
        for turn in range(10):
            message = b"%d %d" % (number, turn)
            crypto.verify(key.public, loaded.sign(message), message)
            assert loaded.mac(message) == key.mac(message)
        assert mine.newest(loaded, alias) == instant(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_two_processes(service: SecretService, tmp_path: Path) -> None:
    """One adds to the list, the other finds it; each opens the keychain for itself."""
    home = Home.create(at(tmp_path), name="x", backend="keychain", now=NOW).home
    program = (
        "import sys; from pathlib import Path\n"
        "from amesh_core.settings import Settings; from amesh_core.io.home import Home\n"
        "from tests.support.home import make_peer, record\n"
        "home = Home.open(Settings(directory=Path(sys.argv[1])))\n"
        "record(home, make_peer(sys.argv[2]), now=float(sys.argv[3]))\n"
    )
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), f"peer {number}", str(NOW + number)],
            env=environment(tmp_path) | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        )
        for number in (1, 2)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    names = {device.friendly_name for device in home.allow_list().devices}
    assert names == {"peer 1", "peer 2"}
    newest = keystore.open_store("keychain", tmp_path, LINUX).newest(
        home.key(), home.identity.device_id
    )
    assert newest == home.allow_list().updated_at


def test_every_error_of_the_keychain_is_one_of_ours(store: KeyStore) -> None:
    """What keyring lets through of the libraries below it is named in the table, and exists."""
    for each in keyring_items.KEYCHAINS.values():
        for module, name in each.errors:
            assert issubclass(getattr(__import__(module, fromlist=[name]), name), Exception)
    assert isinstance(store, KeychainStore)
    assert issubclass(KeychainLocked, AmeshError)
