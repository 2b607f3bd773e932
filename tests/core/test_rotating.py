"""Rotating on the device: a key that waits, that takes over, and the old one destroyed."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from amesh_core import crypto, keystore, rotation
from amesh_core.errors import (
    AllowListRolledBack,
    AmeshError,
    BackendUnavailable,
    BadStatement,
    HomeUnwritable,
    IdentityReplaced,
    KeyStoreError,
    NewKeyUnusable,
    NoNewKey,
    RotationFileDamaged,
    TokensOutstanding,
    UsageError,
)
from amesh_core.identity import device_id
from amesh_core.io import configuration, provisioned, rekeying, rotating, staging
from amesh_core.io.home import Home
from amesh_core.keystore import KeyStore, Means
from amesh_core.keystore.encrypted_file import EncryptedFileStore
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from amesh_core.wire.provisioned import Minted
from amesh_core.wire.rotation import OtherKey, Pending, Retiring
from amesh_sdk import autopair
from amesh_sdk.opened import LOOK_SECONDS, OpenHome
from tests.sdk.clock import Clock
from tests.support.dying import each_death, killed_at, put_back, snapshot
from tests.support.home import CHEAP, NOW, cheap_init, make_home, make_peer, record

LATER: Final = NOW + 60
CHIP: Final = "chip"


class Chip(ModuleType):
    """A back end that keeps its keys outside the directory, as a keychain and a TPM do."""

    def __init__(self, place: Path) -> None:
        super().__init__(CHIP)
        self.place = place

    def why_not(self, means: Means) -> str | None:
        return None

    def open_store(self, directory: Path, means: Means) -> KeyStore:
        return EncryptedFileStore(self.place, b"of the chip".strip, CHEAP)

    @property
    def keys(self) -> set[str]:
        return {path.name.split(".")[0] for path in self.place.glob("keys/*.key.json")}


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


@pytest.fixture
def chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chip:
    module = Chip(tmp_path / CHIP)
    module.place.mkdir()
    monkeypatch.setitem(sys.modules, "tests.support.chip", module)
    table = {CHIP: "tests.support.chip", **keystore.BACKENDS}
    monkeypatch.setattr(keystore, "BACKENDS", table)
    return module


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = make_home(tmp_path / "amesh", name="laptop", max_controllers=3)
    path = home.directory / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mine": [1]}))
    (home.directory / "config.json").write_text('{"relay": "ws://localhost/ws"}')
    record(home, make_peer("peer"))
    return anew(home)


def anew(home: Home) -> Home:
    return Home.open(home.settings)


def begin(home: Home, backend: str | None = None, now: float = NOW) -> rotating.Waiting:
    return rotating.begin(home, backend=backend, now=now)


def finish(home: Home, *, force: bool = False, now: float = LATER) -> Home:
    return rotating.finish(home, force=force, now=now)


def keys_of(home: Home) -> set[str]:
    return {path.name.split(".")[0] for path in (home.directory / "keys").glob("*.key.json")}


def names(home: Home) -> set[str]:
    return {path.name for path in home.directory.iterdir()} - {".lock"}


def assert_works(home: Home) -> None:
    """Sign, read the list with its peer, and write it."""
    crypto.verify(home.identity.public_key, home.key().sign(b"x"), b"x")
    assert [device.friendly_name for device in home.allow_list().devices][:1] == ["peer"]


# --- the key that waits -----------------------------------------------------------------


def test_the_old_key_goes_on(home: Home) -> None:
    waiting = begin(home)
    assert waiting.is_new
    assert not waiting.passphrase_generated
    statement = waiting.statement
    rotation.check(statement, NOW)
    assert statement.old_key == home.identity.public_key
    assert statement.friendly_name == "laptop"
    again = anew(home)
    assert again.identity == home.identity
    assert_works(again)
    record(again, make_peer("another"))
    assert keys_of(home) == {device_id(statement.old_key), device_id(statement.new_key)}


def test_the_same_statement_again(home: Home) -> None:
    first = begin(home)
    second = begin(anew(home), now=LATER)
    assert second.statement == first.statement
    assert not second.is_new
    assert begin(home, "encrypted-file").statement == first.statement


def test_another_back_end_needs_the_first_dropped(home: Home, chip: Chip) -> None:
    begin(home)
    with pytest.raises(UsageError, match="--abort"):
        begin(home, CHIP)
    assert chip.keys == set()


def test_a_key_that_waits_too_long(home: Home) -> None:
    begin(home)
    much_later = NOW + rotation.MAX_AGE_SECONDS + 1
    with pytest.raises(BadStatement):
        begin(home, now=much_later)
    with pytest.raises(BadStatement):
        finish(home, now=much_later)
    rotating.abort(home)
    assert begin(home, now=much_later).is_new


def test_a_back_end_that_is_not_there(home: Home) -> None:
    before = snapshot(home.directory)
    with pytest.raises(BackendUnavailable):
        begin(home, "abacus")
    assert snapshot(home.directory) == before


def test_dropped(home: Home) -> None:
    waiting = begin(home)
    dropped = rotating.abort(home)
    assert dropped.new.public_key == waiting.statement.new_key
    assert keys_of(home) == {home.identity.device_id}
    assert rotating.find(home) is None
    assert_works(anew(home))
    with pytest.raises(NoNewKey):
        rotating.abort(home)
    with pytest.raises(NoNewKey):
        finish(home)


def test_a_key_that_was_not_spoken_for_is_not_used(home: Home) -> None:
    """Who can write the directory puts a key of his in the place of the one that waits."""
    theirs = EncryptedFileStore(home.directory, (home.directory / ".passphrase").read_bytes, CHEAP)
    planted, another = theirs.create(), theirs.create()
    begin(home)
    path = home.directory / "rotation.json"
    document = json.loads(path.read_text())
    forged = rotation.state(another, planted, "laptop", NOW)
    for change in (
        {"publicKey": forged.entry()["newKey"], "keyAlias": device_id(planted.public)},
        {"statement": document["statement"] | {"newKey": forged.entry()["newKey"]}},
        {
            "publicKey": forged.entry()["newKey"],
            "keyAlias": device_id(planted.public),
            "statement": document["statement"]
            | {"newKey": forged.entry()["newKey"], "newSig": forged.entry()["newSig"]},
        },
        {
            "publicKey": forged.entry()["newKey"],
            "keyAlias": device_id(planted.public),
            "statement": forged.entry(),
        },
        {"keyAlias": device_id(planted.public)},
    ):
        path.write_text(json.dumps(document | change))
        before = snapshot(home.directory)
        for act in (begin, finish):
            with pytest.raises((BadStatement, NewKeyUnusable)):
                act(anew(home))
        assert snapshot(home.directory) == before


def test_a_damaged_file(home: Home) -> None:
    (home.directory / "rotation.json").write_text("{}")
    for act in (begin, finish, rotating.abort):
        with pytest.raises(RotationFileDamaged, match=r"rotation\.json"):
            act(home)
    assert_works(anew(home))


def test_init_force_takes_the_key_that_waits_along(home: Home) -> None:
    waiting = begin(home)
    created = Home.create(home.settings, name="new", now=LATER, replace=True)
    assert rotating.find(created.home) is None
    assert keys_of(created.home) == {created.home.identity.device_id}
    assert created.backup is not None
    backup = Home.open(Settings(directory=created.backup))
    assert begin(backup, now=LATER).statement == waiting.statement


# --- taking over ------------------------------------------------------------------------


def test_the_new_key_takes_over(home: Home) -> None:
    before = json.loads((home.directory / "identity.json").read_text())
    new_key = begin(home).statement.new_key
    renewed = finish(home)
    assert renewed.identity.public_key == new_key
    assert_works(renewed)
    assert_works(anew(home))
    after = json.loads((home.directory / "identity.json").read_text())
    assert after == before | {
        "deviceId": device_id(new_key),
        "keyAlias": device_id(new_key),
        "publicKey": after["publicKey"],
    }
    assert renewed.relay_url == "ws://localhost/ws"
    assert keys_of(renewed) == {device_id(new_key)}
    assert names(renewed) == {
        *(".passphrase", "allow_list.json", "config.json", "identity.json", "keys"),
    }
    record(renewed, make_peer("another"), now=LATER)
    assert len(anew(home).allow_list().devices) == 2


def test_what_was_changed_meanwhile_stays_changed(home: Home) -> None:
    """identity.json is taken as it is, not as it was when the directory was opened."""
    begin(home)
    configuration.set_name(anew(home), "new name")
    configuration.set_max_controllers(anew(home), 7)
    renewed = finish(home)
    assert renewed.identity.friendly_name == "new name"
    assert renewed.max_controllers == 7


def test_what_the_old_key_had_to_announce_is_not_announced_any_more(home: Home) -> None:
    path = home.directory / "announce.json"
    begin(home)
    path.write_text("of the old key")
    finish(home)
    assert not path.exists()


def test_the_list_stays_the_newest(home: Home) -> None:
    """Sealed by the new key, its time grows, whatever the clock says."""
    older = (home.directory / "allow_list.json").read_bytes()
    begin(home)
    renewed = finish(home, now=NOW - 10)
    assert renewed.list_file().mark() == instant(NOW + 0.002)
    assert renewed.allow_list().updated_at == instant(NOW + 0.002)
    between = (home.directory / "allow_list.json").read_bytes()
    record(renewed, make_peer("another"))
    for data in (older, between):
        (home.directory / "allow_list.json").write_bytes(data)
        with pytest.raises(AmeshError):
            anew(home).allow_list()
    with pytest.raises(AllowListRolledBack):
        anew(home).allow_list()


def test_a_list_that_was_put_back_is_not_carried_over(home: Home) -> None:
    begin(home)
    older = (home.directory / "allow_list.json").read_bytes()
    record(home, make_peer("another"))
    (home.directory / "allow_list.json").write_bytes(older)
    with pytest.raises(AllowListRolledBack):
        finish(anew(home))
    assert anew(home).identity == home.identity


def test_to_another_back_end(home: Home, chip: Chip) -> None:
    waiting = begin(home, CHIP)
    assert chip.keys == {device_id(waiting.statement.new_key)}
    renewed = finish(home)
    assert renewed.backend == CHIP
    assert_works(anew(home))
    assert keys_of(renewed) == set()
    # Nothing needs it any more.
    assert ".passphrase" not in names(renewed)


def test_and_back_to_a_file(home: Home, chip: Chip) -> None:
    begin(home, CHIP)
    renewed = finish(home)
    waiting = begin(renewed, "encrypted-file")
    assert waiting.passphrase_generated
    assert (home.directory / ".passphrase").stat().st_mode & 0o777 == 0o400
    assert not begin(anew(home)).is_new
    rotating.abort(renewed)
    assert ".passphrase" not in names(renewed)
    begin(renewed, "encrypted-file")
    again = finish(renewed)
    assert again.backend == "encrypted-file"
    assert chip.keys == set()
    assert_works(anew(home))


def test_an_own_passphrase_is_that_of_the_new_key(home: Home) -> None:
    rekeying.change(home, b"my own")
    settings = Settings(home.directory, passphrase="my own")
    mine = Home.open(settings)
    assert not begin(mine).passphrase_generated
    renewed = finish(mine)
    assert ".passphrase" not in names(renewed)
    assert_works(Home.open(settings))


@pytest.mark.parametrize("next_step", [finish, begin])
def test_an_old_key_that_cannot_be_destroyed_yet(
    home: Home, chip: Chip, next_step: Callable[[Home], object]
) -> None:
    begin(home, CHIP)
    on_chip = finish(home)
    begin(on_chip, "encrypted-file")

    def refuse(store: KeyStore, alias: str) -> None:
        raise KeyStoreError("the chip refuses")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncryptedFileStore, "delete", refuse)
        with pytest.raises(KeyStoreError, match="refuses"):
            finish(on_chip)
    renewed = anew(home)
    assert renewed.backend == "encrypted-file"
    assert_works(renewed)
    assert isinstance(rotating.find(renewed), Retiring)
    assert len(chip.keys) == 1
    next_step(renewed)
    assert chip.keys == set()
    assert not isinstance(rotating.find(renewed), Retiring)


@pytest.mark.parametrize("state", ["pending", "retiring"])
def test_a_file_of_a_backup_does_not_destroy_the_present_key(home: Home, state: str) -> None:
    """It was right when the present key was still to come, or is of somebody who may write here."""
    path = home.directory / "rotation.json"
    begin(home)
    before = path.read_bytes()
    renewed = finish(home)
    if state == "retiring":
        key = OtherKey(renewed.identity.device_id, renewed.identity.public_key, "encrypted-file")
        before = Retiring(key).encode()
    path.write_bytes(before)
    for act in (begin, finish, rotating.abort):
        with pytest.raises(RotationFileDamaged, match="is the present one"):
            act(anew(home))
    assert_works(anew(home))
    path.unlink()
    assert begin(anew(home), now=LATER).is_new


# --- bootstrap tokens -------------------------------------------------------------------


def minted(jti: str, expires_at: float) -> Minted:
    return Minted(
        jti=f"bt_{jti * 32}",
        token_hash=bytes(32),
        name="server",
        relay="ws://localhost/ws",
        minted_at=instant(NOW),
        expires_at=instant(expires_at),
    )


def test_outstanding_tokens_stop_it(home: Home) -> None:
    """The old key signed them, and alone can acknowledge who uses them."""
    good, ended = minted("a", LATER + 1), minted("b", LATER - 1)
    provisioned.add(home, [good, ended], NOW)
    begin(home)
    with pytest.raises(TokensOutstanding, match=good.jti) as raised:
        finish(home)
    assert ended.jti not in str(raised.value)
    assert anew(home).identity == home.identity
    renewed = finish(home, force=True)
    tokens = {token.jti: token for token in provisioned.read(renewed)}
    assert tokens[good.jti].cancelled_at == instant(LATER)
    assert tokens[ended.jti] == ended


def test_tokens_of_the_past_are_carried_over(home: Home) -> None:
    ended = minted("b", LATER - 1)
    provisioned.add(home, [ended], NOW)
    begin(home)
    assert provisioned.read(finish(home)) == (ended,)


# --- killed, refused --------------------------------------------------------------------


def test_killed_while_beginning(home: Home, chip: Chip) -> None:
    before, outcomes = snapshot(home.directory), set()
    for _ in each_death(lambda: begin(anew(home))):
        again = anew(home)
        assert again.identity == home.identity
        assert_works(again)
        file = rotating.find(again)
        outcomes.add(type(file))
        if file is None:
            assert keys_of(home) == {home.identity.device_id}
        assert begin(again).is_new == (file is None)
        assert_works(finish(again))
        put_back(home.directory, before)
    assert outcomes == {type(None), Pending}


@pytest.mark.parametrize("backend", ["encrypted-file", CHIP])
def test_killed_while_finishing(home: Home, chip: Chip, backend: str) -> None:
    """At every step the old key or the new one, with its list, and the same command ends it."""
    new_id = device_id(begin(home, backend).statement.new_key)
    before, on_chip, outcomes = snapshot(home.directory), snapshot(chip.place), set()
    for _ in each_death(lambda: finish(anew(home))):
        again = anew(home)
        outcomes.add(again.identity.device_id)
        assert_works(again)
        file = rotating.find(again)
        if again.identity.device_id == home.identity.device_id:
            assert isinstance(file, Pending)
        if file is not None:
            # By a clock that was set back: the mark of the new key may be ahead by now.
            assert finish(again, now=NOW - 10).identity.device_id == new_id
        done = anew(home)
        assert_works(done)
        assert keys_of(done) == ({new_id} if backend != CHIP else set())
        assert chip.keys == ({new_id} if backend == CHIP else set())
        assert rotating.find(done) is None
        assert not list(home.directory.glob(".[nrt]*"))
        put_back(home.directory, before)
        put_back(chip.place, on_chip)
    assert outcomes == {home.identity.device_id, new_id}


def test_killed_while_dropping(home: Home, chip: Chip) -> None:
    begin(home, CHIP)
    before, on_chip = snapshot(home.directory), snapshot(chip.place)
    step = 1
    while killed_at(step, lambda: rotating.abort(anew(home))):
        assert_works(anew(home))
        if rotating.find(home) is not None:
            rotating.abort(anew(home))
        assert chip.keys == set()
        put_back(home.directory, before)
        put_back(chip.place, on_chip)
        step += 1
    assert step > 3


def test_a_key_that_cannot_be_recorded_is_not_left_behind(
    home: Home, chip: Chip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise HomeUnwritable("full")

    before = snapshot(home.directory)
    monkeypatch.setattr(staging, "amend", refuse)
    with pytest.raises(HomeUnwritable):
        begin(home, CHIP)
    assert chip.keys == set()
    assert snapshot(home.directory) == before


def test_a_key_that_counts_already_is_kept_when_the_rest_fails(
    home: Home, chip: Chip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the rename on the next command goes on, and needs the key."""

    def full(directory: Path) -> None:
        raise HomeUnwritable(f"{directory}: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_move_in", full)
        with pytest.raises(HomeUnwritable):
            begin(home, CHIP)
    waiting = begin(home, CHIP)
    assert not waiting.is_new
    assert chip.keys == {device_id(waiting.statement.new_key)}


def test_a_key_that_waits_and_is_gone(home: Home, chip: Chip) -> None:
    begin(home, CHIP)
    for path in chip.place.glob("keys/*"):
        path.unlink()
    for act in (begin, finish):
        with pytest.raises(NewKeyUnusable, match=r"there is no .*\.key\.json"):
            act(anew(home))
    rotating.abort(home)
    assert_works(anew(home))


def test_another_identity_meanwhile(home: Home) -> None:
    home.key()
    Home.create(home.settings, name="new", now=NOW, replace=True)
    for act in (begin, finish, rotating.abort):
        with pytest.raises(IdentityReplaced):
            act(home)


# --- a service that runs ----------------------------------------------------------------


def test_a_verifier_goes_on_with_the_new_key(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    service = OpenHome(home.settings)
    service.allow_list()
    begin(home)
    renewed = finish(home)
    with caplog.at_level(logging.WARNING, "amesh.keystore"):
        devices = service.allow_list().devices
    assert [device.friendly_name for device in devices] == ["peer"]
    assert service.key().public == renewed.identity.public_key
    assert caplog.text.count("goes on as") == 1
    record(renewed, make_peer("another"), now=LATER)
    assert len(service.allow_list().devices) == 2


def test_a_program_that_starts_in_this_moment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read identity.json, and then the key that it names is no more."""
    begin(home)
    real, opened = autopair.open_home, list[Home]()

    def open_home(settings: Settings) -> Home:
        opened.append(real(settings))
        if len(opened) == 1:
            finish(home)
        return opened[-1]

    monkeypatch.setattr(autopair, "open_home", open_home)
    assert OpenHome(home.settings).key().public == anew(home).identity.public_key
    assert len(opened) == 2


def test_a_client_looks_once_a_second(home: Home) -> None:
    clock = Clock()
    client = OpenHome(home.settings, monotonic=clock)
    old = client.key().public
    begin(home)
    renewed = finish(home)
    assert client.key().public == old
    clock.now += LOOK_SECONDS
    assert client.key().public == renewed.identity.public_key


def test_threads_of_a_client_unlock_once(home: Home, derivations: list[int]) -> None:
    clock = Clock()
    client = OpenHome(home.settings, monotonic=clock)
    client.key()
    begin(home)
    renewed = finish(home)
    clock.now += LOOK_SECONDS
    derivations.clear()
    threads = [threading.Thread(target=client.key) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(derivations) == 1
    assert client.key().public == renewed.identity.public_key


def test_a_new_key_that_cannot_be_opened(
    home: Home, caplog: pytest.LogCaptureFixture, derivations: list[int]
) -> None:
    """The old one goes on, and the new one is tried again, but not at every request."""
    clock = Clock()
    client = OpenHome(home.settings, monotonic=clock)
    old = client.key()
    begin(home)
    renewed = finish(home)
    secret = home.directory / ".passphrase"
    aside = home.directory / "aside"
    secret.rename(aside)
    clock.now += LOOK_SECONDS
    assert all(client.key() is old for _ in range(5))
    for _ in range(5):
        with pytest.raises(AmeshError):
            client.allow_list()
    assert caplog.text.count("cannot be opened") == 1
    aside.rename(secret)
    clock.now += LOOK_SECONDS
    assert client.key().public == renewed.identity.public_key
    assert len(client.allow_list().devices) == 1


def test_another_setting_of_the_same_identity(home: Home, derivations: list[int]) -> None:
    clock = Clock()
    client = OpenHome(home.settings, monotonic=clock)
    key = client.key()
    derivations.clear()
    path = home.directory / "identity.json"
    path.write_text(path.read_text().replace('"maxControllers": 3', '"maxControllers": 4'))
    clock.now += LOOK_SECONDS
    assert client.key() is key
    assert derivations == []


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every Argon2 of this process."""
    counted: list[int] = []
    real = crypto.argon2id

    def counting(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        counted.append(t)
        return real(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", counting)
    return counted
