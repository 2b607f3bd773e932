"""`amesh bootstrap` as a script and a person see it, and what `list` and `doctor` say of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from amesh_cli import bootstrapping, checks, listing
from amesh_cli.checks import Check, Verdict
from amesh_core import disk
from amesh_core.errors import BadToken, NotAcknowledged, NoToken, UsageError
from amesh_core.io import announcing
from amesh_core.io.bootstrapping import FoundToken, create_from
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support.bootstrap import CONTROLLER, NOWHERE, Operator, held_relay, token_of
from tests.support.cli import AtTerminal, amesh
from tests.support.home import cheap_init, make_home
from tests.support.relay import relay_process

TOKEN = "AMESH_BOOTSTRAP_TOKEN"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cheap_init(monkeypatch)
    monkeypatch.setenv("AUTH_MESH_DIR", str(tmp_path / "amesh"))
    for name in (TOKEN, "AMESH_BOOTSTRAP_TOKEN_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


def good(**options: Any) -> str:
    return token_of(now=time.time(), **options)


def made(directory: Path, **options: Any) -> Home:
    token = FoundToken(good(**options), "a test")
    return create_from(token, Settings(directory), time.time()).home


# --- as processes -----------------------------------------------------------------------


def test_from_the_token_to_the_acknowledgement(tmp_path: Path, directory: Path) -> None:
    operator = Operator.at(tmp_path / "controller")
    with relay_process() as relay:
        token = operator.provision(relay.url, "web-1")
        with operator.watching() as watch:
            done = amesh(directory, "bootstrap", "-", stdin=token + "\n")
            recorded = watch.hears("recorded")
            assert watch.ends() == 0
    assert done.status == 0, done.err
    assert 'This device is now "web-1".' in done.out
    assert recorded["deviceId"] in done.out
    assert operator.home.identity.device_id in done.out
    assert done.out.endswith("The controller has recorded this device.\n")
    assert token not in done.out + done.err
    again = amesh(directory, "bootstrap", **{TOKEN: token})
    assert again.status == 0, "a start script may run it each time"
    assert "already" in again.err
    assert operator.targets() == [recorded["deviceId"]]


def test_nobody_acknowledges(directory: Path) -> None:
    """The device is made all the same, and a script can tell."""
    done = amesh(directory, "bootstrap", "--wait", "0.1", "--json", **{TOKEN: good()})
    assert done.status == 13
    said = json.loads(done.out)
    assert said["created"] is True
    assert said["controllers"] == [Home.open(Settings(directory)).allow_list().devices[0].device_id]
    assert said["announceUntil"] is not None
    assert "error: the controller did not acknowledge this device: " in done.err
    assert "hint: " in done.err
    assert amesh(directory, "bootstrap", "--no-wait", "--json").status == 0


def test_a_person_is_told_why_it_takes_so_long(directory: Path) -> None:
    made(directory)
    person = AtTerminal(directory, "bootstrap", "--wait", "3")
    person.sees("is .*prod-server.* already")
    person.sees(f"Announcing it at {NOWHERE}, for 3 s")
    person.sees("not yet: cannot reach the relay")
    assert person.ends() == 13


def test_ctrl_c_leaves_the_announcement_for_later(directory: Path) -> None:
    with held_relay() as (url, relay):
        made(directory, relay=url)
        person = AtTerminal(directory, "bootstrap")
        relay.wait_for(1)
        person.presses_ctrl_c()
        assert person.ends() == 130
    assert "Traceback" not in person.seen
    assert (directory / "announce.json").exists()


@pytest.mark.parametrize(
    ("arguments", "token", "status", "said"),
    [
        ((), None, 2, "there is no bootstrap token"),
        (("eyJ0.eyJ1.sig",), None, 2, "does not belong on a command line"),
        (("amesh-bt-v1.eyJ0.eyJ1.sig",), None, 2, "does not belong on a command line"),
        (("missing.token",), None, 2, "there is no missing.token"),
        ((), "rubbish", 6, "(invalid_token_format)"),
        ((), token_of(), 6, "(token_expired)"),
    ],
)
def test_what_cannot_be_used_has_a_status_and_makes_nothing(
    directory: Path, arguments: tuple[str, ...], token: str | None, status: int, said: str
) -> None:
    done = amesh(directory, "bootstrap", *arguments, **({TOKEN: token} if token else {}))
    assert done.status == status
    assert said in done.err
    assert "hint: " in done.err or status == 2
    assert "Traceback" not in done.err
    assert token is None or token not in done.err
    assert not directory.exists()


# --- in this process --------------------------------------------------------------------


def run(file: str | None = None, wait_seconds: float | None = None) -> None:
    bootstrapping.bootstrap(file, wait_seconds=wait_seconds, as_json=False)


def test_no_wait_makes_and_does_not_announce(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_relay() as (url, relay):
        relay.release()
        monkeypatch.setenv(TOKEN, good(relay=url))
        run()
        assert relay.heard == []
    assert (directory / "announce.json").exists()
    assert "Not announced yet" in capsys.readouterr().err


def test_a_token_from_a_file(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"\n{good()}\n")
    run(str(file))
    Home.open(Settings(directory)).allow_list().controller(CONTROLLER.public, time.time())


def test_a_file_named_here_comes_before_the_environment(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, good())
    file = tmp_path / "token"
    file.write_text("rubbish")
    with pytest.raises(BadToken):
        run(str(file))
    with pytest.raises(NoToken):
        run(str(tmp_path / "missing"))
    with pytest.raises(UsageError):
        run(good())
    assert not directory.exists()


def test_a_device_that_is_there_needs_no_token(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = make_home(directory)
    run("missing", wait_seconds=1)
    assert there.identity.device_id in capsys.readouterr().err
    assert there.allow_list().devices == ()


def test_another_process_makes_it_in_this_moment(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN, good())
    real = disk.make_directory

    def make(path: Path) -> None:
        monkeypatch.setattr(disk, "make_directory", real)
        make_home(path, name="quicker")

    monkeypatch.setattr(disk, "make_directory", make)
    run()
    assert '"quicker"' in capsys.readouterr().err
    assert len(list((directory / "keys").glob("*.key.json"))) == 1


def test_once_recorded_there_is_nothing_to_announce(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_relay() as (url, relay):
        made(directory, relay=url)
        relay.release()
        run(wait_seconds=20)
    assert "The controller has recorded this device." in capsys.readouterr().out
    run(wait_seconds=20)
    assert "announcing" not in capsys.readouterr().err.lower()


@pytest.fixture
def _another_sees_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another process's turn, and when ours comes nothing is left to announce."""

    def taken(path: Path) -> None:
        path.unlink()

    monkeypatch.setattr(announcing, "_lock", taken)
    monkeypatch.setattr(announcing, "TURN_SECONDS", 0)


@pytest.mark.usefixtures("_another_sees_the_end")
def test_it_ends_when_another_process_has_announced_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(directory)
    run(wait_seconds=20)
    assert "The controller has recorded this device." in capsys.readouterr().out


@pytest.mark.usefixtures("_another_sees_the_end")
def test_nobody_is_said_to_have_recorded_it_when_the_token_ended_there(directory: Path) -> None:
    made(directory)
    end_now(directory)
    with pytest.raises(NotAcknowledged, match="its token has ended"):
        run(wait_seconds=20)


def end_now(directory: Path) -> None:
    """Its end comes in an hour, which no test waits for: let the file say that it has come."""
    text = (directory / "announce.json").read_text()
    end = json.loads(text)["expiresAt"]
    (directory / "announce.json").write_text(text.replace(end, "2026-01-02T03:04:05.000Z"))


def test_an_announcement_whose_token_has_ended(directory: Path) -> None:
    made(directory)
    end_now(directory)
    with pytest.raises(NotAcknowledged, match="its token has ended"):
        run(wait_seconds=1)
    assert not (directory / "announce.json").exists()


# --- what list and doctor say -----------------------------------------------------------


def of_bootstrap(home: Home) -> list[Check]:
    return [
        check for check in checks.of_device(Settings(home.directory)) if check.name == "bootstrap"
    ]


def test_doctor_and_list_say_what_is_not_acknowledged(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = made(directory)
    until = json.loads((directory / "announce.json").read_text())["expiresAt"]
    (check,) = of_bootstrap(home)
    assert check.verdict is Verdict.WARN
    assert f"has not acknowledged this device yet; it is announced at {NOWHERE} until {until}" in (
        check.message
    )
    assert "amesh bootstrap" in check.hint
    listing.as_table(home, home.allow_list(), time.time())
    assert until in capsys.readouterr().err
    listing.as_json(home, home.allow_list(), time.time())
    assert json.loads(capsys.readouterr().out)["announceUntil"] == until


def test_and_nothing_of_a_device_that_has_nothing_to_say(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(directory)
    assert of_bootstrap(home) == []
    listing.as_table(home, home.allow_list(), time.time())
    assert "bootstrap" not in capsys.readouterr().err
    listing.as_json(home, home.allow_list(), time.time())
    assert json.loads(capsys.readouterr().out)["announceUntil"] is None


def test_the_token_has_ended_and_nobody_knows(directory: Path) -> None:
    home = made(directory)
    end_now(directory)
    (check,) = of_bootstrap(home)
    assert "never acknowledged this device; it was announced until 2026-01-02" in check.message


def test_a_damaged_announcement(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = made(directory)
    (directory / "announce.json").write_text("{")
    (check,) = of_bootstrap(home)
    assert (check.verdict, "announce.json" in check.message) == (Verdict.WARN, True)
    listing.as_table(home, home.allow_list(), time.time())
    assert "may call this device" in capsys.readouterr().out
