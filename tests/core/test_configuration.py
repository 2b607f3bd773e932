"""Settings of a device that exists: what is refused, and what a change leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from amesh_core import disk
from amesh_core.errors import HomeBusy, IdentityReplaced, NoIdentity, UsageError
from amesh_core.identity import Role
from amesh_core.io import configuration
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support.cli import environment
from tests.support.home import make_home, make_peer, record


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "home", max_controllers=3)


def reopened(home: Home) -> Home:
    return Home.open(Settings(directory=home.directory))


def files(home: Home) -> dict[str, bytes]:
    found = (path for path in home.directory.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in found if path.name != disk.LOCK_FILE}


def test_the_limit_is_moved_down_to_what_is_listed_and_no_further(home: Home) -> None:
    record(home, make_peer("one"), make_peer("two"), make_peer("called", Role.TARGET))
    configuration.set_max_controllers(home, 2)
    assert reopened(home).max_controllers == 2
    before = files(home)
    with pytest.raises(UsageError, match="2 controllers are listed"):
        configuration.set_max_controllers(home, 1)
    assert files(home) == before


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_impossible_limits(home: Home, limit: int) -> None:
    before = files(home)
    with pytest.raises(UsageError):
        configuration.set_max_controllers(home, limit)
    assert files(home) == before


@pytest.mark.parametrize("name", ["", " x", 'a"b', "\x1b[2J", "a" * 65])
def test_bad_names(home: Home, name: str) -> None:
    before = files(home)
    with pytest.raises(UsageError):
        configuration.set_name(home, name)
    assert files(home) == before


@pytest.mark.parametrize("url", ["http://x/ws", "ws://", "wss://u:p@h/ws", "x", "wss://h/ws#f"])
def test_urls_of_no_relay(home: Home, url: str) -> None:
    with pytest.raises(UsageError):
        configuration.set_relay(home, url)
    assert not (home.directory / "config.json").exists()


def test_the_relay_is_set_and_unset(home: Home) -> None:
    configuration.set_relay(home, "wss://relay.example/ws")
    assert reopened(home).relay_url == "wss://relay.example/ws"
    assert (home.directory / "config.json").stat().st_mode & 0o777 == 0o600
    configuration.set_relay(home, None)
    assert reopened(home).relay_url is None


def test_a_config_that_is_no_json_is_not_overwritten(home: Home) -> None:
    path = home.directory / "config.json"
    path.write_text('{"relay": ')
    with pytest.raises(UsageError, match=r"config\.json"):
        configuration.set_relay(home, "wss://relay.example/ws")
    assert path.read_text() == '{"relay": '


def test_a_bad_relay_that_was_there_can_be_mended(home: Home) -> None:
    path = home.directory / "config.json"
    path.write_text('{"relay": 5, "theme": "dark"}')
    configuration.set_relay(home, "wss://relay.example/ws")
    assert json.loads(path.read_text()) == {"relay": "wss://relay.example/ws", "theme": "dark"}


def test_another_identity_is_not_changed(home: Home, tmp_path: Path) -> None:
    other = make_home(tmp_path / "other")
    data = (other.directory / "identity.json").read_bytes()
    disk.replace(home.directory / "identity.json", data)
    with pytest.raises(IdentityReplaced):
        configuration.set_name(home, "mine")
    assert (home.directory / "identity.json").read_bytes() == data
    (home.directory / "identity.json").unlink()
    with pytest.raises(NoIdentity):
        configuration.set_name(home, "mine")


def test_changes_wait_for_the_lock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(home)
    monkeypatch.setattr(disk, "locked", partial(disk.locked, timeout_seconds=0))
    changes: tuple[Callable[[], None], ...] = (
        lambda: configuration.set_name(home, "mine"),
        lambda: configuration.set_max_controllers(home, 5),
        lambda: configuration.set_relay(home, "wss://relay.example/ws"),
    )
    with disk.locked(home.directory):
        for change in changes:
            with pytest.raises(HomeBusy):
                change()
    assert files(home) == before


def test_parallel_changes_all_arrive(home: Home) -> None:
    """Two settings of one file and one of another, by processes that do not wait for each other."""
    changes = [
        subprocess.Popen(
            [sys.executable, "-m", "amesh_cli", "config", "set", *change],
            env=environment(home.directory),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for change in (
            ("name", "new name"),
            ("max-controllers", "7"),
            ("relay", "wss://relay.example/ws"),
        )
    ]
    assert [process.wait(60) for process in changes] == [0, 0, 0]
    after = reopened(home)
    assert after.identity.friendly_name == "new name"
    assert after.max_controllers == 7
    assert after.relay_url == "wss://relay.example/ws"
