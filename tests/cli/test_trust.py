"""`config`, `trust`, `listen --trust-for`, and names that are in use: typed and shown."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from amesh_cli.recording import recorder
from amesh_cli.trusting import left
from amesh_core.allow_list import Device
from amesh_core.errors import TooManyControllers
from amesh_core.identity import Peer, Role
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from tests.support.cli import AtTerminal, Done
from tests.support.home import make_home, make_peer, record
from tests.support.in_process import Run, runner

DAY = 86_400


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "amesh", name="prod-api", max_controllers=3).directory


@pytest.fixture
def amesh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def laptop(home: Path, name: str = "laptop", role: Role = Role.CONTROLLER) -> Peer:
    """A device on the list of `home`, recorded now."""
    peer = make_peer(name, role)
    record(Home.open(Settings(directory=home)), peer, now=time.time())
    return peer


def device(amesh: Run, home: Path, name: str) -> dict[str, Any]:
    found = json.loads(amesh(home, "list", "--json").out)["devices"]
    (entry,) = (entry for entry in found if entry["friendlyName"] == name)
    assert isinstance(entry, dict)
    return entry


# --- config -----------------------------------------------------------------------------


def test_settings_are_shown_set_and_unset(home: Path, amesh: Run) -> None:
    shown = json.loads(amesh(home, "config", "list", "--json").out)
    assert shown == {
        "name": "prod-api",
        "max-controllers": 3,
        "relay": "wss://relay.authmesh.dev/ws",
    }
    for key, value in (
        ("name", "prod api 2"),
        ("max-controllers", "12"),
        ("relay", "wss://relay.example/ws"),
    ):
        assert amesh(home, "config", "set", key, value).out == f"{value}\n"
        assert amesh(home, "config", "get", key).out == f"{value}\n"
    table = amesh(home, "config", "list").out
    assert [line.split()[0] for line in table.splitlines()] == ["name", "max-controllers", "relay"]
    unset = amesh(home, "config", "unset", "relay")
    assert unset.out == "wss://relay.authmesh.dev/ws\n"
    assert json.loads(amesh(home, "list", "--json").out)["maxControllers"] == 12


def test_a_relay_in_the_environment_is_mentioned(
    home: Path, amesh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMESH_RELAY_URL", "ws://127.0.0.1:9/ws")
    done = amesh(home, "config", "get", "relay")
    assert done.out == "wss://relay.authmesh.dev/ws\n"
    assert "AMESH_RELAY_URL" in done.err
    assert "AMESH_RELAY_URL" not in amesh(home, "config", "get", "name").err


@pytest.mark.parametrize(
    "words",
    [
        ("get",),
        ("get", "name", "x"),
        ("set", "name"),
        ("set",),
        ("unset",),
        ("unset", "name"),
        ("list", "name"),
        ("get", "passphrase"),
        ("set", "max-controllers", "0"),
        ("set", "max-controllers", "-1"),
        ("set", "max-controllers", "1e3"),
        ("set", "max-controllers", "\u0663"),
        ("set", "max-controllers", "10001"),
        ("set", "relay", "http://relay.example"),
        ("set", "name", ""),
        ("forget", "name"),
    ],
)
def test_words_that_do_not_work_change_nothing(
    home: Path, words: tuple[str, ...], amesh: Run
) -> None:
    before = (home / "identity.json").read_bytes()
    done = amesh(home, "config", "--", *words)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert (home / "identity.json").read_bytes() == before
    assert not (home / "config.json").exists()


def test_more_controllers_than_the_new_limit(home: Path, amesh: Run) -> None:
    laptop(home, "one")
    laptop(home, "two")
    done = amesh(home, "config", "set", "max-controllers", "1")
    assert done.status == 2
    assert "2 controllers are listed" in done.err
    assert "amesh revoke" in done.err
    assert amesh(home, "revoke", "one", "--yes").status == 0
    assert amesh(home, "config", "set", "max-controllers", "1").status == 0


def test_a_number_lowered_meanwhile_counts_when_a_device_is_recorded(
    home: Path, amesh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`listen` may have been waiting since before `config set`."""
    monkeypatch.setenv("AUTH_MESH_DIR", str(home))
    waiting = recorder(Home.open(Settings(directory=home)), added_by="handshake")
    waiting(make_peer("one"))
    assert amesh(home, "config", "set", "max-controllers", "1").status == 0
    with pytest.raises(TooManyControllers):
        waiting(make_peer("two"))


# --- trust with an end ------------------------------------------------------------------


def extend(amesh: Run, home: Path, *options: str) -> Done:
    return amesh(home, "trust", "extend", "laptop", *options)


def test_the_end_is_set_moved_and_taken_away(home: Path, amesh: Run) -> None:
    laptop(home)
    now = time.time()
    done = extend(amesh, home, "--for", "90d", "--json")
    expires_at = json.loads(done.out)["expiresAt"]
    assert device(amesh, home, "laptop")["expiresAt"] == expires_at
    expected = time.strftime("%Y-%m-%d", time.gmtime(now + 90 * DAY))
    assert expires_at[:10] >= expected
    assert "may call this device, 90 days left" in amesh(home, "list").out

    done = extend(amesh, home, "--for", "90m")
    assert "90 minutes" in done.out
    assert "90 days" in done.err  # what it was before
    assert "90 minutes left" in amesh(home, "list").out

    done = extend(amesh, home, "--until", "2099-01-31")
    assert "on 2099-01-31 at 00:00 UTC" in done.out
    assert device(amesh, home, "laptop")["expiresAt"] == "2099-01-31T00:00:00.000Z"

    done = extend(amesh, home, "--forever")
    assert "has no end" in done.out
    assert device(amesh, home, "laptop")["expiresAt"] is None
    assert "left" not in amesh(home, "list").out


@pytest.mark.parametrize("away", [-0.001, 0.0, 0.001])
@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (59, "1 minute"),
        (61, "2 minutes"),
        (90 * 60, "90 minutes"),
        (2 * 3600, "2 hours"),
        (24 * 3600, "24 hours"),
        (36 * 3600, "36 hours"),
        (2 * DAY, "2 days"),
        (90 * DAY, "90 days"),
    ],
)
def test_how_long_is_left_does_not_hang_on_a_thousandth(
    seconds: int, away: float, shown: str
) -> None:
    peer, now = make_peer("laptop"), 1795435200.0
    entry = Device(
        peer.device_id,
        peer.public_key,
        "laptop",
        instant(now),
        "handshake",
        Role.CONTROLLER,
        expires_at=instant(now + seconds),
    )
    assert left(entry, now + away) == shown


def test_an_expired_entry_is_shown_as_expired_and_comes_back(home: Path, amesh: Run) -> None:
    laptop(home)
    over = time.time() - 1
    with Home.open(Settings(directory=home)).editing_allow_list(time.time()) as edit:
        edit.allow_list = edit.allow_list.extended(edit.allow_list.find("laptop"), over)
    assert device(amesh, home, "laptop")["expired"] is True
    shown = amesh(home, "list").out
    assert "expired" in shown
    assert "may call" not in shown
    done = extend(amesh, home, "--for", "1d")
    assert "the end was in the past" in done.err
    assert device(amesh, home, "laptop")["expired"] is False


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--for", "1d", "--forever"),
        ("--for", "1d", "--until", "2099-01-01"),
        ("--for", "0d"),
        ("--for", "1w"),
        ("--for", "-1d"),
        ("--for", "99999999d"),
        ("--until", "2020-01-01"),
        ("--until", "tomorrow"),
        ("--until", "2099-02-30"),
        ("--until", "2099-1-1"),
        ("--until", "20000-01-01"),
        ("--until", "2299-01-01"),  # as far off as --for does not go either
        ("--until", "9999-12-31"),
    ],
)
def test_ends_that_are_none(home: Path, options: tuple[str, ...], amesh: Run) -> None:
    laptop(home)
    before = (home / "allow_list.json").read_bytes()
    done = extend(amesh, home, *options)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert (home / "allow_list.json").read_bytes() == before


def test_a_target_has_no_trust_to_end(home: Path, amesh: Run) -> None:
    laptop(home, role=Role.TARGET)
    done = extend(amesh, home, "--for", "1d")
    assert done.status == 9
    assert "not a controller" in done.err


def test_trust_for_wants_a_duration_before_anything_else(home: Path, amesh: Run) -> None:
    done = amesh(home, "listen", "--digits-stdin", "--trust-for", "soon")
    assert done.status == 2
    assert "90s, 30m" in done.err


@pytest.mark.parametrize("columns", [80, 60])
def test_ids_and_dates_are_whole_in_a_narrow_terminal(home: Path, columns: int) -> None:
    peer = laptop(home, "the laptop of the whole night shift")
    with Home.open(Settings(directory=home)).editing_allow_list(time.time()) as edit:
        entry = edit.allow_list.find(peer.device_id)
        edit.allow_list = edit.allow_list.extended(entry, time.time() + 90 * DAY)
    command = AtTerminal(home, "list", COLUMNS=str(columns))
    assert command.ends() == 0
    assert peer.device_id in command.seen
    assert entry.added_at[:10] in command.seen
    assert "\u2026" not in command.seen
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", command.seen).splitlines()[2:])) <= columns


# --- names that are in use --------------------------------------------------------------


def card_of(amesh: Run, directory: Path) -> Path:
    """The card of a new device that calls itself laptop."""
    other = make_home(directory / "other", name="laptop").directory
    path = directory / "card"
    path.write_text(amesh(other, "export").out)
    return path


def start_import(home: Path, card: Path) -> AtTerminal:
    laptop(home)
    command = AtTerminal(home, "import", str(card), "--role", "controller")
    command.sees(r"\[y/N\]")
    command.types("y")
    command.sees("is another device's here")
    return command


def test_a_name_in_use_is_kept_with_the_id_at_enter(home: Path, tmp_path: Path, amesh: Run) -> None:
    command = start_import(home, card_of(amesh, tmp_path))
    proposed = command.sees(r"\[(laptop \(am_.{16}\))\]")
    command.types("")
    assert command.ends() == 0
    assert device(amesh, home, proposed)["role"] == "controller"


def test_another_name_is_taken_once_it_can_be(home: Path, tmp_path: Path, amesh: Run) -> None:
    command = start_import(home, card_of(amesh, tmp_path))
    for refused, why in (("laptop", "another device is called"), ("a  b", "double space")):
        command.sees(r"\[laptop \(am_.{16}\)\]")
        command.types(refused)
        command.sees(why)
    command.types("new laptop")
    assert command.ends() == 0
    assert device(amesh, home, "new laptop")["role"] == "controller"
    assert '"new laptop" (am_' in command.seen


def test_interrupted_there_the_device_is_recorded_all_the_same(
    home: Path, tmp_path: Path, amesh: Run
) -> None:
    command = start_import(home, card_of(amesh, tmp_path))
    proposed = command.sees(r"\[(laptop \(am_.{16}\))\]")
    command.presses_ctrl_c()
    assert command.ends() == 130
    assert device(amesh, home, proposed)["role"] == "controller"


def test_a_script_is_not_asked(home: Path, tmp_path: Path, amesh: Run) -> None:
    card = card_of(amesh, tmp_path)
    laptop(home)
    digits = "".join(
        re.findall(
            r"^    ((?:[0-9a-f]{4} ?){4})$", amesh(tmp_path / "other", "export").err, re.MULTILINE
        )
    )
    done = amesh(home, "import", str(card), "--role", "controller", "--fingerprint", digits)
    assert done.status == 0
    assert re.search(r'"laptop \(am_.{16}\)"', done.out)
