"""The minted tokens in a directory: sealed, used once, whole after a kill at any step."""

from __future__ import annotations

import json
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from amesh_core import admission, disk, provisioning
from amesh_core.admission import Announced
from amesh_core.errors import (
    HomeBusy,
    HomeUnwritable,
    IdentityReplaced,
    NoSuchToken,
    TokenNotUsable,
    TokenRecordsBroken,
    TokenUsedTwice,
    UnsafePermissions,
)
from amesh_core.io import provisioned, staging
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire.encoding import b64
from amesh_core.wire.provisioned import Minted
from tests.support.bootstrap_target import TokenHolder
from tests.support.dying import each_death, opened, put_back, snapshot
from tests.support.home import NOW, cheap_init, make_home

LATER = NOW + 60


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "controller", name="laptop")


def given_out(home: Home, *, name: str = "prod-server", ttl_seconds: int = 3600) -> str:
    """A token that `home` minted and remembers."""
    text = provisioning.mint(
        home.key(),
        name=name,
        relay="wss://relay.example/ws",
        ttl_seconds=ttl_seconds,
        now=NOW,
        jti_random=name.encode().ljust(16, b"."),
    )
    provisioned.add(home, [admission.remember(text, for_node=False)], NOW)
    return text


def announced(home: Home, holder: TokenHolder) -> Announced:
    (minted,) = (minted for minted in provisioned.read(home) if minted.jti == holder.jti)
    return admission.verify(holder.init(), minted)


def names(home: Home) -> list[str]:
    return [device.friendly_name for device in home.allow_list().devices]


def the_token(home: Home) -> Minted:
    (minted,) = provisioned.read(home)
    return minted


# --- what lies on the disk --------------------------------------------------------------


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_a_new_identity_is_left_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    """Tokens under the old seal could never be read again, nor new ones be added to them."""
    cheap_init(monkeypatch)
    home.key()
    settings = Settings(directory=home.directory)
    with pytest.MonkeyPatch.context() as patch:
        if is_cut_off:
            patch.setattr(staging, "_move_in", lambda _: None)
        Home.create(settings, name="new", replace=True, now=LATER)
    with pytest.raises(IdentityReplaced):
        given_out(home)
    assert not (home.directory / "provisioned.json").exists()
    renewed = Home.open(settings)
    assert renewed.identity.friendly_name == "new"
    given_out(renewed)
    assert len(provisioned.read(renewed)) == 1


def test_nothing_minted_yet(home: Home) -> None:
    assert provisioned.read(home) == ()


def test_a_token_is_remembered_without_being_kept(home: Home) -> None:
    text = given_out(home)
    path = home.directory / "provisioned.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for file in home.directory.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            for part in text.split("."):
                assert part.encode() not in data, file
    assert the_token(opened(home.directory)).token_hash == provisioning.hash_of(text)


def test_tokens_add_up_and_old_ones_are_forgotten(home: Home) -> None:
    given_out(home, name="first")
    given_out(home, name="second")
    assert [minted.name for minted in provisioned.read(home)] == ["first", "second"]
    long_after = NOW + 3600 + provisioned.KEPT_AFTER_EXPIRY_SECONDS
    provisioned.add(home, [], long_after - 1)
    assert len(provisioned.read(home)) == 2
    provisioned.add(home, [], long_after)
    assert provisioned.read(home) == ()


def test_who_can_write_the_file_but_has_no_key_plants_no_token(home: Home) -> None:
    """A planted hash would be a planted device: its holder could announce itself with it."""
    given_out(home)
    path = home.directory / "provisioned.json"
    good = path.read_bytes()
    entry = json.loads(good)["tokens"][0]
    for change in (
        {"tokenHash": b64(bytes(32))},
        {"usedBy": None},
        {"expiresAt": "2099-01-01T00:00:00.000Z"},
        {"forNode": True},
        {"note": "x"},
    ):
        path.write_bytes(json.dumps(json.loads(good) | {"tokens": [entry | change]}).encode())
        if change == {"usedBy": None}:
            assert the_token(home).used_by is None  # null is what a missing one means
            continue
        with pytest.raises(TokenRecordsBroken):
            provisioned.read(home)
    for data in (b"", b"null", good[:-1], json.dumps({**json.loads(good), "x": 1}).encode()):
        path.write_bytes(data)
        with pytest.raises(TokenRecordsBroken):
            provisioned.read(home)
    path.write_bytes(good)
    assert len(provisioned.read(home)) == 1


def test_the_file_of_another_device_is_not_ours(home: Home, tmp_path: Path) -> None:
    given_out(home)
    other = make_home(tmp_path / "other")
    data = (home.directory / "provisioned.json").read_bytes()
    (other.directory / "provisioned.json").touch(0o600)
    (other.directory / "provisioned.json").write_bytes(data)
    with pytest.raises(TokenRecordsBroken):
        provisioned.read(other)


def test_a_new_identity_is_not_taken_for_tampering(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a server while `amesh init --force` or `rotate` runs elsewhere."""
    cheap_init(monkeypatch)
    given_out(home)
    settings = Settings(directory=home.directory)
    after = Home.create(settings, name="new", now=NOW, replace=True).home
    assert provisioned.read(after) == ()
    given_out(after)
    with pytest.raises(IdentityReplaced):
        provisioned.read(home)


def test_a_file_open_to_others_is_refused(home: Home) -> None:
    given_out(home)
    (home.directory / "provisioned.json").chmod(0o644)
    with pytest.raises(UnsafePermissions):
        provisioned.read(home)


# --- used once --------------------------------------------------------------------------


def test_an_announcement_becomes_an_entry(home: Home) -> None:
    holder = TokenHolder(given_out(home))
    device = provisioned.admit(home, announced(home, holder), LATER)
    assert home.allow_list().devices == (device,)
    assert device.public_key == holder.key.public
    assert the_token(home).used_by == holder.key.public
    assert the_token(home).recorded_at is not None


def test_the_second_device_with_a_token_is_refused(home: Home) -> None:
    text = given_out(home)
    first, second = TokenHolder(text), TokenHolder(text)
    provisioned.admit(home, announced(home, first), LATER)
    before = snapshot(home.directory)
    with pytest.raises(TokenUsedTwice):
        provisioned.admit(home, announced(home, second), LATER)
    assert snapshot(home.directory) == before


def test_a_repetition_writes_nothing(home: Home) -> None:
    holder = TokenHolder(given_out(home))
    device = provisioned.admit(home, announced(home, holder), LATER)
    before = snapshot(home.directory)
    assert provisioned.admit(home, announced(home, holder), LATER + 60) == device
    assert snapshot(home.directory) == before


def test_a_revoked_device_does_not_come_back_by_a_repetition(home: Home) -> None:
    holder = TokenHolder(given_out(home))
    replayed = announced(home, holder)
    device = provisioned.admit(home, replayed, LATER)
    with home.editing_allow_list(LATER) as edit:
        edit.allow_list = edit.allow_list.revoke(device)
    with pytest.raises(TokenNotUsable):
        provisioned.admit(home, replayed, LATER)
    assert names(home) == []


def test_a_device_revoked_after_a_crash_does_not_come_back_either(home: Home) -> None:
    """Killed with the list written and nothing said of it; `amesh revoke` comes first then."""
    holder = TokenHolder(given_out(home))
    given_out(home, name="another")
    replayed = announced(home, holder)
    before = snapshot(home.directory)
    ends = set()
    for _ in each_death(lambda: provisioned.admit(home, replayed, LATER)):
        survivor = opened(home.directory)
        provisioned.settle(survivor, LATER)
        listed = survivor.allow_list().devices
        ends.add(len(listed))
        if listed:
            with survivor.editing_allow_list(LATER) as edit:
                edit.allow_list = edit.allow_list.revoke(listed[0])
            with pytest.raises(TokenNotUsable, match="revoked since"):
                provisioned.admit(survivor, replayed, LATER)
            assert names(survivor) == []
        else:
            # Nothing was revoked, so it is still good.
            provisioned.admit(survivor, replayed, LATER)
        assert [minted.recorded_at is None for minted in provisioned.read(survivor)] == [
            False,
            True,
        ]
        put_back(home.directory, before)
    assert ends == {0, 1}


def test_settling_writes_nothing_where_nothing_is_open(home: Home) -> None:
    provisioned.settle(home, LATER)
    assert not (home.directory / "provisioned.json").exists()
    holder = TokenHolder(given_out(home))
    given_out(home, name="another")
    provisioned.admit(home, announced(home, holder), LATER)
    before = snapshot(home.directory)
    provisioned.settle(home, LATER + 60)
    assert snapshot(home.directory) == before


def test_one_of_many_that_come_at_once(home: Home) -> None:
    text = given_out(home)
    holders = [TokenHolder(text) for _ in range(8)]
    outcomes: list[str] = []

    def come(holder: TokenHolder) -> None:
        try:
            outcomes.append(provisioned.admit(home, announced(home, holder), LATER).device_id)
        except TokenUsedTwice:
            outcomes.append("used twice")

    threads = [threading.Thread(target=come, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["used twice"] * 7
    assert [device.device_id for device in home.allow_list().devices] == sorted(outcomes)[:1]


def test_many_that_mint_at_once_lose_no_token(home: Home) -> None:
    numbers = range(12)
    threads = [
        threading.Thread(target=given_out, args=(home,), kwargs={"name": f"web-{n}"})
        for n in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {minted.name for minted in provisioned.read(home)} == {f"web-{n}" for n in numbers}


def test_minting_waits_for_whoever_holds_the_lock(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = disk.locked
    monkeypatch.setattr(disk, "locked", lambda path: locked(path, timeout_seconds=0))
    with locked(home.directory), pytest.raises(HomeBusy):
        given_out(home)
    assert provisioned.read(home) == ()


def test_a_token_this_device_does_not_know_any_more(home: Home) -> None:
    waiting = announced(home, TokenHolder(given_out(home)))
    (home.directory / "provisioned.json").unlink()
    with pytest.raises(NoSuchToken):
        provisioned.admit(home, waiting, LATER)
    assert names(home) == []


# --- cancelled --------------------------------------------------------------------------


def test_a_cancelled_token_records_nobody(home: Home) -> None:
    holder = TokenHolder(given_out(home))
    waiting = announced(home, holder)
    cancelled = provisioned.cancel(home, holder.jti, LATER)
    assert provisioned.cancel(home, holder.jti, LATER + 1) == cancelled
    with pytest.raises(TokenNotUsable):
        provisioned.admit(home, waiting, LATER)
    assert names(home) == []


def test_what_was_used_cannot_be_cancelled(home: Home) -> None:
    holder = TokenHolder(given_out(home))
    device = provisioned.admit(home, announced(home, holder), LATER)
    with pytest.raises(TokenNotUsable, match=device.device_id):
        provisioned.cancel(home, holder.jti, LATER)
    assert the_token(home).cancelled_at is None


def test_what_a_crash_cut_off_can_be_cancelled_or_is_listed(home: Home) -> None:
    """Never both uncancellable and with nothing on the list to revoke."""
    holder = TokenHolder(given_out(home))
    waiting = announced(home, holder)
    before = snapshot(home.directory)
    ends = set()
    for _ in each_death(lambda: provisioned.admit(home, waiting, LATER)):
        survivor = opened(home.directory)
        if names(survivor):
            with pytest.raises(TokenNotUsable, match=holder.device_id):
                provisioned.cancel(survivor, holder.jti, LATER)
        else:
            provisioned.cancel(survivor, holder.jti, LATER)
            with pytest.raises(TokenNotUsable, match="cancelled"):
                provisioned.admit(survivor, waiting, LATER)
            assert names(survivor) == []
        ends.add(bool(names(survivor)))
        put_back(home.directory, before)
    assert ends == {False, True}


def test_tokens_that_nobody_was_given_are_taken_back(home: Home) -> None:
    given_out(home, name="kept")
    given_out(home, name="first")
    given_out(home, name="second")
    kept, *gone = provisioned.read(home)
    provisioned.forget(home, gone)
    assert provisioned.read(home) == (kept,)


def test_a_token_is_named_by_the_beginning_of_its_id(home: Home) -> None:
    given_out(home, name="first")
    given_out(home, name="fire")
    for nothing in ("", "bt_", "bt_0", "prod-server", f"bt_{b'fi'.hex()}"):
        with pytest.raises(NoSuchToken):
            provisioned.cancel(home, nothing, LATER)
    assert provisioned.cancel(home, f"bt_{b'firs'.hex()}", LATER).name == "first"


# --- killed, full -----------------------------------------------------------------------


def test_killed_while_recording(home: Home) -> None:
    """Whenever it dies: never a listed key with a token that is good for another one."""
    text = given_out(home)
    first, second = TokenHolder(text), TokenHolder(text)
    waiting = announced(home, first)
    before = snapshot(home.directory)
    outcomes = set()
    for step in each_death(lambda: provisioned.admit(home, waiting, LATER)):
        survivor = opened(home.directory)
        used = the_token(survivor).used_by is not None
        recorded = the_token(survivor).recorded_at is not None
        listed = len(survivor.allow_list().devices)
        outcomes.add((used, listed, recorded))
        assert used or not listed, step
        if used:
            with pytest.raises(TokenUsedTwice):
                provisioned.admit(survivor, announced(survivor, second), LATER)
        # Announced again, it is completed.
        device = provisioned.admit(survivor, announced(survivor, first), LATER + 60)
        assert survivor.allow_list().devices == (device,)
        assert the_token(survivor).recorded_at is not None
        put_back(home.directory, before)
    assert outcomes == {(False, 0, False), (True, 0, False), (True, 1, False), (True, 1, True)}


def test_killed_before_the_token_was_used_it_is_good_for_another(home: Home) -> None:
    text = given_out(home)
    first, second = TokenHolder(text), TokenHolder(text)
    waiting = announced(home, first)
    for _ in each_death(lambda: provisioned.admit(home, waiting, LATER)):
        survivor = opened(home.directory)
        if the_token(survivor).used_by is None:
            device = provisioned.admit(survivor, announced(survivor, second), LATER)
            assert device.public_key == second.key.public
            break
    with pytest.raises(TokenUsedTwice):
        provisioned.admit(survivor, waiting, LATER)


def test_a_disk_that_refuses_the_list(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """`usedBy` is on disk, the entry is not: only the same key may complete it."""
    text = given_out(home)
    first, second = TokenHolder(text), TokenHolder(text)
    write = disk.replace

    def full(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        if path.name == "allow_list.json":
            raise HomeUnwritable(f"{path}: no space left on device")
        write(path, data, mode=mode)

    monkeypatch.setattr(disk, "replace", full)
    with pytest.raises(HomeUnwritable):
        provisioned.admit(home, announced(home, first), LATER)
    monkeypatch.undo()
    assert names(home) == []
    assert the_token(home).used_by == first.key.public
    with pytest.raises(TokenUsedTwice):
        provisioned.admit(home, announced(home, second), LATER)
    provisioned.admit(home, announced(home, first), LATER)
    assert names(home) == ["prod-server"]


def test_killed_while_minting_and_cancelling(home: Home) -> None:
    given_out(home, name="first")
    before = snapshot(home.directory)
    outcomes = set()
    for _ in each_death(lambda: given_out(home, name="second")):
        outcomes.add(len(provisioned.read(opened(home.directory))))
        put_back(home.directory, before)
    assert outcomes == {1, 2}


def test_a_busy_directory_waits_its_turn(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = TokenHolder(given_out(home))
    waiting = announced(home, holder)
    locked = disk.locked
    monkeypatch.setattr(disk, "locked", lambda path: locked(path, timeout_seconds=0))
    with locked(home.directory), pytest.raises(HomeBusy):
        provisioned.admit(home, waiting, LATER)
    assert the_token(home) == replace(the_token(home), used_by=None)
    assert names(home) == []
