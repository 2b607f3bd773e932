"""`amesh rotate` and `amesh accept-rotation`, as people and scripts see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from amesh_core.identity import Peer, Role
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.core.test_rotating import minted
from tests.support.cli import AtTerminal, Done
from tests.support.dying import snapshot
from tests.support.home import cheap_init, make_home, record
from tests.support.in_process import Run, runner

FAR: Final = 4_000_000_000.0  # a token that outlives these tests


@dataclass(frozen=True)
class Mesh:
    """A laptop that calls a server."""

    laptop: Path
    server: Path
    statement: Path
    run: Run

    def rotate(self, *options: str) -> Done:
        return self.run(self.laptop, "rotate", *options)

    def accept(self, *options: str) -> Done:
        return self.run(self.server, "accept-rotation", str(self.statement), *options)


@pytest.fixture
def mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mesh:
    cheap_init(monkeypatch)
    laptop = make_home(tmp_path / "laptop", name="laptop")
    server = make_home(tmp_path / "server", name="server")
    introduce(server, laptop, Role.CONTROLLER)
    introduce(laptop, server, Role.TARGET)
    run = runner(monkeypatch, capsys)
    return Mesh(laptop.directory, server.directory, tmp_path / "statement", run)


def introduce(to: Home, who: Home, role: Role) -> None:
    me = who.identity
    record(to, Peer(me.device_id, me.public_key, me.friendly_name, role))


def listed(directory: Path) -> dict[str, str]:
    """Device id -> role of everything on the allow list of `directory`."""
    devices = Home.open(Settings(directory)).allow_list().devices
    return {device.device_id: str(device.role) for device in devices}


def id_of(directory: Path) -> str:
    return str(json.loads((directory / "identity.json").read_text())["deviceId"])


@pytest.fixture
def stated(mesh: Mesh) -> Mesh:
    mesh.statement.write_text(mesh.rotate().out)
    return mesh


def test_the_statement_is_all_that_is_on_stdout(mesh: Mesh) -> None:
    done = mesh.rotate()
    assert done.status == 0
    assert json.loads(done.out)["type"] == "amesh-rotation"
    assert done.out.count("\n") == 1
    assert f"still signs as {id_of(mesh.laptop)}" in done.err
    assert "amesh accept-rotation FILE" in done.err
    again = mesh.rotate()
    assert again.out == done.out
    assert "has been waiting" in again.err


def test_accepting_as_a_person(stated: Mesh) -> None:
    fingerprint = [line for line in stated.rotate().err.splitlines() if line.count(" ") == 7]
    assert len(fingerprint) == 4
    before = listed(stated.server)
    person = AtTerminal(stated.server, "accept-rotation", str(stated.statement))
    person.sees(r'"laptop" \(am_.{16}\) moves on to a new key')
    for line in fingerprint:
        person.sees(line.strip())
    person.sees(r"The old key would be let in until \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    person.sees(r"Shall the new key take its place\? \[y/N\]")
    person.types("")
    assert person.ends() == 1
    assert listed(stated.server) == before
    person = AtTerminal(stated.server, "accept-rotation", str(stated.statement))
    person.sees(r"\[y/N\]")
    person.types("y")
    person.sees(f"has taken the place of {id_of(stated.laptop)}")
    person.sees("The old key is let in, too, until")
    assert person.ends() == 0
    assert len(listed(stated.server)) == 2


def test_accepting_as_a_script(stated: Mesh) -> None:
    done = stated.run(
        stated.server,
        *("accept-rotation", "-", "--yes", "--json", "--overlap", "0"),
        stdin=stated.statement.read_text(),
    )
    result = json.loads(done.out)
    assert result["oldDeviceId"] == id_of(stated.laptop)
    assert result["oldKeyUntil"] is None
    assert listed(stated.server) == {result["deviceId"]: "controller"}


def test_what_the_list_shows(stated: Mesh) -> None:
    stated.accept("--yes", "--overlap", "36h")
    old, new = id_of(stated.laptop), json.loads(stated.run(stated.server, "list", "--json").out)
    assert [device["rotatedTo"] for device in new["devices"]] == [
        None,
        new["devices"][0]["deviceId"],
    ]
    shown = stated.run(stated.server, "list").out
    assert f'{old}  "laptop"  may call this device, former key of am_' in shown
    assert "36 hours left" in shown or "2 days left" in shown
    done = stated.run(stated.server, "doctor")
    assert "devices that may call this one: 1," in done.out


def test_revoking_takes_both_keys(stated: Mesh) -> None:
    old = id_of(stated.laptop)
    stated.accept("--yes")
    done = stated.run(stated.server, "revoke", "laptop", "--yes")
    assert f"Nor is the key that it had before: {old}." in done.err
    assert listed(stated.server) == {}
    again = stated.accept("--yes")
    assert again.status == 9
    assert "it was revoked, or never paired here" in again.err


def test_accepting_twice(stated: Mesh) -> None:
    stated.accept("--yes")
    before = snapshot(stated.server)
    done = stated.accept("--yes")
    assert done.status == 9
    assert f"{id_of(stated.laptop)} gave its place to am_" in done.err
    assert snapshot(stated.server) == before


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ((), 2, "--yes"),
        (("--yes", "--overlap", "soon"), 2, "--overlap: a duration"),
        (("--yes", "--overlap", "31d"), 2, "no longer than 30d"),
    ],
)
def test_accepting_wrongly(stated: Mesh, options: tuple[str, ...], status: int, says: str) -> None:
    before = snapshot(stated.server)
    done = stated.accept(*options)
    assert done.status == status
    assert says in done.err
    assert snapshot(stated.server) == before


@pytest.mark.parametrize("text", ["", "{}", "x" * 10_000, None])
def test_what_is_no_statement(stated: Mesh, text: str | None) -> None:
    if text is None:
        stated.statement.unlink()
    else:
        stated.statement.write_text(text)
    done = stated.accept("--yes")
    assert done.status == (2 if text is None else 9)
    assert "No such file" in done.err if text is None else "amesh rotate" in done.err


def test_a_forged_name_never_reaches_the_terminal_raw(stated: Mesh) -> None:
    """It is signed by both keys of a device that was trusted, and may yet be hostile."""
    home = make_home(stated.laptop.parent / "evil", name="evil")
    other = make_home(stated.server.parent / "other")
    introduce(other, home, Role.CONTROLLER)
    path = home.directory / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"friendlyName": "a\x1b[31m\u202e"}))
    stated.statement.write_text(stated.run(home.directory, "rotate").out)
    person = AtTerminal(other.directory, "accept-rotation", str(stated.statement))
    person.sees(r'It calls itself "a\\x1b\[31m\\u202e"')
    person.presses_ctrl_c()
    person.ends()
    assert "\x1b[31ma" not in person.seen


def test_finishing_as_a_person(stated: Mesh) -> None:
    old = id_of(stated.laptop)
    person = AtTerminal(stated.laptop, "rotate", "--finish")
    person.sees(f"the old key, {old}, will be destroyed")
    person.sees(r"Have all of them accepted it\? \[y/N\]")
    person.types("n")
    assert person.ends() == 1
    assert id_of(stated.laptop) == old
    person = AtTerminal(stated.laptop, "rotate", "--finish")
    person.sees(r"\[y/N\]")
    person.types("y")
    person.sees("The old key is destroyed")
    assert person.ends() == 0
    assert id_of(stated.laptop) != old
    assert listed(stated.laptop) == {id_of(stated.server): "target"}


def test_finishing_without_a_terminal(stated: Mesh) -> None:
    old = id_of(stated.laptop)
    done = stated.rotate("--finish")
    assert done.status == 2
    assert "--yes" in done.err
    assert id_of(stated.laptop) == old
    assert stated.rotate("--finish", "--yes").status == 0
    assert stated.rotate("--finish", "--yes").status == 9


def test_tokens_are_named(stated: Mesh) -> None:
    token = minted("a", FAR)
    provisioned.add(Home.open(Settings(stated.laptop)), [token], 0)
    done = stated.rotate("--finish", "--yes")
    assert done.status == 9
    assert token.jti in done.err
    assert "amesh provision --cancel" in done.err
    assert stated.rotate("--finish", "--yes", "--force").status == 0


def test_dropping(stated: Mesh) -> None:
    old = id_of(stated.laptop)
    # Who has accepted the key already would be locked out, so nobody drops it unasked.
    refused = stated.rotate("--abort")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert (stated.laptop / "rotation.json").exists()
    done = stated.rotate("--abort", "--yes")
    assert "Dropped the new key, am_" in done.out
    assert id_of(stated.laptop) == old
    assert stated.rotate("--abort", "--yes").status == 9


@pytest.mark.parametrize(
    ("lost", "way_out"),
    [("keys/{}.key.json", "`amesh rotate --abort` drops the new one"), ("", "delete it")],
    ids=["key", "rotation.json"],
)
def test_the_way_out_never_costs_the_present_key(stated: Mesh, lost: str, way_out: str) -> None:
    path = stated.laptop / "rotation.json"
    if lost:
        alias = json.loads(path.read_text())["keyAlias"]
        (stated.laptop / lost.format(alias)).unlink()
    else:
        path.write_text("{")
    for options in ((), ("--finish", "--yes")):
        done = stated.rotate(*options)
        assert done.status == 9
        assert way_out in done.err
        assert "init" not in done.err
    if lost:
        assert stated.rotate("--abort", "--yes").status == 0
    else:
        path.unlink()
    assert stated.rotate().status == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--finish", "--abort"),
        ("--backend", "encrypted-file", "--finish"),
        ("--backend", "encrypted-file", "--abort"),
        ("--force",),
        ("--abort", "--force"),
    ],
)
def test_options_that_exclude_each_other(mesh: Mesh, options: tuple[str, ...]) -> None:
    before = snapshot(mesh.laptop)
    assert mesh.rotate(*options).status == 2
    assert snapshot(mesh.laptop) == before


def test_doctor_names_a_key_that_waits(stated: Mesh) -> None:
    done = stated.run(stated.laptop, "doctor")
    assert "waits to take over since" in done.out
    stated.rotate("--finish", "--yes")
    assert "rotation" not in stated.run(stated.laptop, "doctor").out
