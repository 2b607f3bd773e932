"""A device made from a token: what is made, what is refused, and what is never half there."""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amesh_core import disk
from amesh_core.errors import (
    BadToken,
    HomeUnwritable,
    IdentityDamaged,
    IdentityExists,
    NoToken,
    UnsafePermissions,
)
from amesh_core.identity import Role, device_id
from amesh_core.io import announcing
from amesh_core.io.bootstrapping import FoundToken, as_text, create_from, find_token, open_or_create
from amesh_core.io.home import Home
from amesh_core.provisioning import Announcement, accept, check_announcement, hash_of
from amesh_core.settings import Settings
from amesh_core.wire.token import OLD_PREFIX, TokenCode
from tests.support import vectors
from tests.support.bootstrap import CONTROLLER, END, NOW, token_of
from tests.support.dying import before_step, disk_full, each_death, finish, opened, start
from tests.support.home import cheap_init, make_home
from tests.support.swtpm import software_tpm

VECTORS: list[dict[str, Any]] = vectors.load("bootstrap.json")["cases"]
SOURCE = "AMESH_BOOTSTRAP_TOKEN"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


def found(text: str) -> FoundToken:
    return FoundToken(text, SOURCE)


def at(directory: Path, **more: Any) -> Settings:
    return Settings(directory=directory, **more)


# --- where the token is -----------------------------------------------------------------


def test_the_environment_comes_before_the_file_and_the_file_before_the_credential(
    tmp_path: Path,
) -> None:
    file, credentials = tmp_path / "token", tmp_path / "credentials"
    file.write_text(" from the file\n")
    credentials.mkdir()
    (credentials / "amesh-bootstrap-token").write_text("from systemd\r\n")
    everything = {
        "bootstrap_token": "from the environment",
        "bootstrap_token_file": file,
        "credentials_directory": credentials,
    }
    assert find_token(at(tmp_path, **everything)) == FoundToken("from the environment", SOURCE)
    del everything["bootstrap_token"]
    assert find_token(at(tmp_path, **everything)) == FoundToken("from the file", str(file))
    del everything["bootstrap_token_file"]
    assert find_token(at(tmp_path, **everything)) == FoundToken(
        "from systemd", str(credentials / "amesh-bootstrap-token")
    )
    assert find_token(at(tmp_path)) is None
    assert find_token(at(tmp_path, credentials_directory=tmp_path)) is None


def test_who_names_a_file_means_that_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "amesh-bootstrap-token").write_text("from systemd")
    missing = tmp_path / "missing"
    with pytest.raises(NoToken, match="missing"):
        find_token(at(tmp_path, bootstrap_token_file=missing, credentials_directory=credentials))


def test_the_permissions_of_a_file_are_its_owners_business(tmp_path: Path) -> None:
    """A secret that a container is given is 0444."""
    file = tmp_path / "token"
    file.write_text("text")
    file.chmod(0o444)
    assert find_token(at(tmp_path, bootstrap_token_file=file)) == FoundToken("text", str(file))


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(HomeUnwritable):
        find_token(at(tmp_path, bootstrap_token_file=tmp_path))


def test_a_token_does_not_print() -> None:
    assert "eyJ" not in repr(found(token_of()))
    assert "eyJ" not in repr(at(Path(), bootstrap_token=token_of()))


# --- what is made -----------------------------------------------------------------------


def test_a_device_that_accepts_its_controller_and_has_something_to_announce(
    directory: Path,
) -> None:
    token = token_of(name="web-1")
    home = create_from(found(token), at(directory), NOW).home
    assert home.identity.friendly_name == "web-1"
    reopened = opened(directory)
    listed = reopened.allow_list().controller(CONTROLLER.public, NOW)
    assert (listed.device_id, listed.role) == (device_id(CONTROLLER.public), Role.CONTROLLER)
    assert (listed.added_by, listed.pairing) == ("bootstrap", "bootstrap")
    assert len(reopened.allow_list().devices) == 1
    file = announcing.read(directory)
    assert file is not None
    announcement = Announcement.parse(file.frame)
    assert announcement.target_public_key == home.identity.public_key
    check_announcement(announcement, hash_of(token))
    assert file.controller_public_key == CONTROLLER.public
    assert not file.is_expired(END - 1)


def test_the_token_itself_is_nowhere(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = token_of()
    create_from(found(token), at(directory), NOW)
    parts = token.split(".")
    for path in directory.rglob("*"):
        if path.is_file():
            assert not any(part.encode() in path.read_bytes() for part in parts), path
    assert not any(part in caplog.text for part in parts)


@pytest.mark.parametrize("dress", ["{}", " {}\n", OLD_PREFIX + "{}", "\t{}\r\n"])
def test_a_token_as_people_copy_it(directory: Path, dress: str) -> None:
    token = token_of()
    create_from(found(dress.format(token)), at(directory), NOW)
    file = announcing.read(directory)
    assert file is not None
    check_announcement(Announcement.parse(file.frame), hash_of(token))


@pytest.mark.parametrize(
    ("host", "shown"), [("vm-7", "vm-7"), ("", "prod-server"), ("\x1b[2J", "prod-server")]
)
def test_the_machine_is_shown_to_the_operator_by_its_own_name(
    directory: Path, host: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    create_from(found(token_of()), at(directory), NOW)
    file = announcing.read(directory)
    assert file is not None
    assert file.frame.friendly_name == shown
    assert Home.open(at(directory)).identity.friendly_name == "prod-server"


def test_the_operators_passphrase_protects_the_key(directory: Path) -> None:
    settings = at(directory, passphrase="from the operator")
    create_from(found(token_of()), settings, NOW)
    assert not (directory / ".passphrase").exists()
    Home.open(settings).key()


# --- what is refused --------------------------------------------------------------------


def verdict(token: str, now: float) -> str | None:
    """What `provisioning`, whose own tests compare it with the vectors, says to a token."""
    try:
        accept(token, now)
    except BadToken as error:
        return error.token_code
    return None


def assert_untouched(directory: Path) -> None:
    assert not directory.exists()


REFUSED = [case for case in VECTORS if verdict(case["token"], case["now"]) is not None]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_every_bad_token_has_its_code_and_makes_nothing(
    directory: Path, case: dict[str, Any]
) -> None:
    with pytest.raises(BadToken) as caught:
        create_from(found(case["token"]), at(directory), case["now"])
    assert caught.value.token_code == verdict(case["token"], case["now"])
    assert caught.value.token_code in str(caught.value)
    assert_untouched(directory)


def test_there_are_vectors_for_most_codes() -> None:
    codes = {verdict(case["token"], case["now"]) for case in REFUSED}
    assert len(codes) > 8


@pytest.mark.parametrize(
    ("ahead_seconds", "code"),
    [(-120, TokenCode.NOT_YET_VALID), (-61, TokenCode.NOT_YET_VALID), (3600, TokenCode.EXPIRED)],
)
def test_a_clock_that_is_off_is_named_with_how_much(
    directory: Path, ahead_seconds: int, code: TokenCode
) -> None:
    token = token_of(now=int(NOW))
    with pytest.raises(BadToken) as caught:
        create_from(found(token), at(directory), int(NOW) + ahead_seconds)
    assert caught.value.token_code == code
    off_by = -ahead_seconds if ahead_seconds < 0 else ahead_seconds - 3600
    assert f"{off_by} s" in str(caught.value)
    assert "clock" in str(caught.value)
    assert_untouched(directory)


@pytest.mark.parametrize("ahead_seconds", [-60, 0, 3599])
def test_a_clock_that_is_off_by_less_is_good_enough(directory: Path, ahead_seconds: int) -> None:
    create_from(found(token_of(now=int(NOW))), at(directory), int(NOW) + ahead_seconds)
    opened(directory)


def test_an_existing_device_is_left_alone(directory: Path) -> None:
    home = make_home(directory)
    before = (directory / "identity.json").read_bytes()
    with pytest.raises(IdentityExists):
        create_from(found(token_of()), at(directory), NOW)
    assert open_or_create(found(token_of()), at(directory), NOW).identity == home.identity
    assert (directory / "identity.json").read_bytes() == before
    assert home.allow_list().devices == ()
    assert not (directory / "announce.json").exists()


def test_a_damaged_device_is_left_alone(directory: Path) -> None:
    make_home(directory)
    (directory / "identity.json").write_text("{}")
    with pytest.raises(IdentityDamaged):
        open_or_create(found(token_of()), at(directory), NOW)
    assert (directory / "identity.json").read_text() == "{}"


def test_a_directory_that_others_may_read_gets_no_key(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with pytest.raises(UnsafePermissions):
        create_from(found(token_of()), at(directory), NOW)
    assert list(directory.iterdir()) == []


GOOD = token_of()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_a_fuzzed_token_gets_a_code(tmp_path: Path, data: st.DataObject) -> None:
    """Cut, doubled, exchanged and foreign characters; from a file, as any bytes can be in one."""
    raw = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at_ = data.draw(st.integers(0, len(raw)))
        length = data.draw(st.integers(0, 40))
        raw[at_ : at_ + length] = data.draw(st.binary(max_size=40))
    text = as_text(bytes(raw))
    if text == GOOD:
        return
    directory = tmp_path / "amesh"
    with pytest.raises(BadToken) as caught:
        create_from(found(text), at(directory), NOW)
    assert caught.value.token_code in set(TokenCode)
    assert_untouched(directory)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(text=st.text() | st.text(st.characters()).map(lambda t: f"{t}.{t}.{t}"))
def test_any_text_gets_a_code(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadToken) as caught:
        create_from(found(text), at(tmp_path / "amesh"), NOW)
    assert caught.value.token_code in set(TokenCode)
    assert_untouched(tmp_path / "amesh")


# --- many at once, and none to the end --------------------------------------------------


def test_of_many_processes_one_makes_the_device(directory: Path) -> None:
    token = token_of()

    def worker() -> None:
        home = open_or_create(found(token), at(directory), NOW)
        (directory / f"seen-{threading.get_native_id()}").write_text(home.identity.device_id)

    assert [finish(child) for child in [start(worker) for _ in range(6)]] == [0] * 6
    ids = {path.read_text() for path in directory.glob("seen-*")}
    assert len(list(directory.glob("seen-*"))) == 6
    assert ids == {opened(directory).identity.device_id}
    assert len(list((directory / "keys").glob("*.key.json"))) == 1
    file = announcing.read(directory)
    assert file is not None


def whole(directory: Path) -> bool:
    """Whether there is a device; if so, all of it is there."""
    if not (directory / "identity.json").exists() and not (directory / ".ready").exists():
        return False
    home = opened(directory)
    (listed,) = home.allow_list().devices
    assert listed.public_key == CONTROLLER.public
    file = announcing.read(directory)
    assert file is not None
    assert Announcement.parse(file.frame).target_public_key == home.identity.public_key
    return True


@pytest.fixture
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, or a full disk, loses nothing that the kernel has; it is still a step."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
def test_killed_at_every_step(directory: Path) -> None:
    """Key, list, announce.json and identity.json come into being together, or not at all."""
    token = found(token_of())
    made = set()
    for _ in each_death(lambda: create_from(token, at(directory), NOW)):
        made.add(whole(directory))
        # The next start goes on with the same token, and there is one key.
        open_or_create(token, at(directory), NOW)
        assert whole(directory)
        assert len(list((directory / "keys").glob("*.key.json"))) == 1
        clear(directory)
    assert made == {False, True}


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
def test_a_disk_that_refuses_at_every_step(directory: Path) -> None:
    """The start fails, or a device that is whole comes of it; the next start is not disturbed."""
    token = found(token_of())
    step, was_reached = 0, True
    while was_reached:
        step += 1
        with pytest.MonkeyPatch.context() as patch:
            count = before_step(patch, step, disk_full, half_write=True)
            with suppress(HomeUnwritable):
                create_from(token, at(directory), NOW)
            was_reached = count() >= step
        open_or_create(token, at(directory), NOW)
        assert whole(directory)
        clear(directory)
    assert step > 5


def clear(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_identity_json_is_the_last_to_arrive(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    move = disk.move

    def noting(source: Path, target: Path) -> None:
        moved.append(target.name)
        move(source, target)

    monkeypatch.setattr(disk, "move", noting)
    create_from(found(token_of()), at(directory), NOW)
    assert "announce.json" in moved
    assert moved[-1] == "identity.json"


def test_init_force_takes_the_announcement_of_the_old_device_away(directory: Path) -> None:
    create_from(found(token_of()), at(directory), NOW)
    created = Home.create(at(directory), name="new", replace=True, now=NOW)
    assert not (directory / "announce.json").exists()
    assert created.backup is not None
    text = (created.backup / "announce.json").read_text()
    assert json.loads(text)["frame"]["type"] == "bootstrap_init"


# --- where the key is -------------------------------------------------------------------


def test_a_machine_with_a_tpm_keeps_the_key_there(directory: Path) -> None:
    """As with `amesh init`: the best back end that works, and no passphrase in a file."""
    with software_tpm() as tpm:
        there, token = at(directory, tpm_tcti=tpm.tcti), token_of()
        created = create_from(found(token), there, NOW)
        assert (created.home.backend, created.hardware_bound) == ("tpm2", True)
        assert not (directory / ".passphrase").exists()
        Home.open(there).allow_list().controller(CONTROLLER.public, NOW)
    file = announcing.read(directory)
    assert file is not None
    check_announcement(Announcement.parse(file.frame), hash_of(token))
