"""init, list and revoke, run as a user or a script runs them."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from amesh_core.allow_list import AllowList, Device
from amesh_core.identity import Role
from tests.support.cli import AtTerminal, amesh, environment, listed
from tests.support.home import NOW, make_home, make_peer, record
from tests.support.in_process import Run, runner


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_init_makes_a_device_that_list_shows(home: Path) -> None:
    done = amesh(home, "init", "--name", "prod-api", "--json")
    made = json.loads(done.out)
    assert done.status == 0
    assert made["friendlyName"] == "prod-api"
    assert made["storageBackend"] == "encrypted-file"
    assert made["hardwareBound"] is False
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    shown = json.loads(amesh(home, "list", "--json").out)
    assert shown["deviceId"] == made["deviceId"]
    assert shown["devices"] == []


def test_init_tells_a_person_what_was_made_and_what_comes_next(home: Path) -> None:
    done = amesh(home, "init", "--name", "prod-api")
    assert '"prod-api"' in done.out
    assert "am_" in done.out
    assert "encrypted-file" in done.out
    assert "protected by software only" in done.err
    assert "amesh listen" in done.err


def test_an_operators_passphrase_is_used_and_written_nowhere(home: Path) -> None:
    secret = "operator's own 7f3c"
    done = amesh(home, "init", "--name", "x", AUTH_MESH_PASSPHRASE=secret)
    assert "not written anywhere" in done.err
    for path in home.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()
    without = amesh(home, "list")
    assert without.status == 4
    assert "AUTH_MESH_PASSPHRASE" in without.err
    assert amesh(home, "list", AUTH_MESH_PASSPHRASE=secret).status == 0
    wrong = amesh(home, "list", AUTH_MESH_PASSPHRASE="another")
    assert wrong.status == 4
    assert "another" not in wrong.err
    assert secret not in done.out + done.err


def test_init_does_not_replace_unasked(home: Path) -> None:
    before = make_home(home).identity.device_id
    refused = amesh(home, "init", "--name", "new")
    assert refused.status == 3
    assert "--force" in refused.err
    unasked = amesh(home, "init", "--name", "new", "--force")
    assert unasked.status == 2
    assert "--yes" in unasked.err
    assert json.loads(amesh(home, "list", "--json").out)["deviceId"] == before


def test_force_keeps_a_backup_that_works(home: Path) -> None:
    before = make_home(home)
    record(before, make_peer("laptop"))
    done = amesh(home, "init", "--name", "new", "--force", "--yes", "--json")
    made = json.loads(done.out)
    assert made["deviceId"] != before.identity.device_id
    assert listed(home) == {}
    assert len(listed(Path(made["backup"]))) == 1


def test_force_without_an_identity_is_a_plain_init(home: Path) -> None:
    assert amesh(home, "init", "--name", "x", "--force").status == 0


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 65, "a\u202eb", '"'])
def test_a_bad_name_is_refused_with_the_rule(in_process: Run, home: Path, name: str) -> None:
    done = in_process(home, "init", "--name", name)
    assert done.status == 2
    assert "name" in done.err
    assert not home.exists()


def test_without_a_terminal_init_names_the_flag(home: Path) -> None:
    done = amesh(home, "init")
    assert done.status == 2
    assert "--name" in done.err


def test_an_unknown_back_end_is_named_with_the_choices(home: Path) -> None:
    done = amesh(home, "init", "--name", "x", "--backend", "floppy")
    assert done.status == 4
    assert "encrypted-file" in done.err
    assert not (home / "identity.json").exists()


def test_commands_without_an_identity_say_what_to_do(home: Path) -> None:
    for command in (["list"], ["revoke", "x", "--yes"], ["invite", "482916", "--assume-match"]):
        done = amesh(home, *command)
        assert done.status == 3
        assert "amesh init" in done.err


def test_open_permissions_are_refused_with_the_chmod(home: Path) -> None:
    make_home(home)
    home.chmod(0o755)
    done = amesh(home, "list")
    assert done.status == 3
    assert f"chmod 700 {home}" in done.err
    home.chmod(0o700)
    assert amesh(home, "list").status == 0


def test_a_tampered_list_is_an_error_of_its_own(home: Path) -> None:
    record(make_home(home), make_peer("laptop"))
    path = home / "allow_list.json"
    path.write_text(path.read_text().replace("laptop", "laptoq"))
    done = amesh(home, "list")
    assert done.status == 8
    assert "seal" in done.err


@pytest.mark.parametrize("how", ["id", "prefix", "name"])
def test_revoke_by_id_prefix_or_name(home: Path, how: str) -> None:
    here = make_home(home)
    laptop, other = make_peer("laptop"), make_peer("other", Role.TARGET)
    record(here, laptop, other)
    named = {"id": laptop.device_id, "prefix": laptop.device_id[:8], "name": "laptop"}[how]
    done = amesh(home, "revoke", named, "--yes", "--json")
    assert done.status == 0
    assert json.loads(done.out)["revoked"] == laptop.device_id
    assert listed(home) == {other.device_id: "target"}


def test_revoke_says_what_it_does_not_do(home: Path) -> None:
    record(make_home(home), make_peer("laptop"), make_peer("server", Role.TARGET))
    assert "Other machines" in amesh(home, "revoke", "laptop", "--yes").err
    assert "still lets this device in" in amesh(home, "revoke", "server", "--yes").err


def test_revoke_asks_and_without_a_terminal_names_the_flag(home: Path) -> None:
    here = make_home(home)
    record(here, make_peer("laptop"))
    done = amesh(home, "revoke", "laptop")
    assert done.status == 2
    assert "--yes" in done.err
    assert len(listed(home)) == 1


def test_revoke_refuses_what_is_not_there_or_not_one(home: Path) -> None:
    here = make_home(home)
    record(here, make_peer("a"), make_peer("b"))
    assert amesh(home, "revoke", "c", "--yes").status == 9
    assert amesh(home, "revoke", "am_", "--yes").status == 9
    assert len(listed(home)) == 2


def test_what_a_peer_calls_itself_never_reaches_the_terminal_raw(home: Path) -> None:
    """A list written by other tools may hold a name that ours would have refused."""
    here = make_home(home)
    evil = make_peer("x")
    entry = Device(
        evil.device_id,
        evil.public_key,
        "\x1b]0;owned\x07\x1b[2J[red]",
        "2026-01-02T03:04:05.678Z",
        "handshake",
        Role.CONTROLLER,
    )
    allow_list = AllowList(here.identity.public_key, (entry,), "2026-01-02T03:04:05.678Z")
    (home / "allow_list.json").write_bytes(allow_list.stamped(NOW).encode(here.key()))
    for command in (["list"], ["list", "--json"], ["revoke", evil.device_id, "--yes"]):
        done = amesh(home, *command)
        assert done.status == 0
        assert "\x1b" not in done.out + done.err
        assert "\x07" not in done.out + done.err
        assert "\\x1b" in done.out or "\\u001b" in done.out


def test_a_device_without_a_role_is_to_be_paired_again(home: Path) -> None:
    here = make_home(home)
    peer = make_peer("old")
    entry = Device(
        peer.device_id, peer.public_key, "old", "2026-01-02T03:04:05.678Z", "handshake", None
    )
    allow_list = AllowList(here.identity.public_key, (entry,), "2026-01-02T03:04:05.678Z")
    (home / "allow_list.json").write_bytes(allow_list.stamped(NOW).encode(here.key()))
    assert "pair it again" in amesh(home, "list").out


def test_no_color_and_pipes_get_plain_text(home: Path) -> None:
    make_home(home)
    done = amesh(home, "revoke", "nobody", "--yes")
    assert "\x1b" not in done.err


def test_help_needs_neither_cryptography_nor_rich(home: Path) -> None:
    """The help text must come at once, on a small machine too."""
    program = (
        "import sys\n"
        "from amesh_cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'cryptography', 'rich', 'websockets', 'argon2', 'httpx2', 'keyring'}"
        " & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(home),
        check=True,
    )
    assert done.stderr.strip() == "[]"


def test_version_and_wrong_usage(home: Path) -> None:
    assert amesh(home, "--version").out.startswith("amesh ")
    assert amesh(home, "lisn").status == 2
    assert amesh(home, "list", "--nope").status == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_commands(home: Path, shell: str) -> None:
    """What the installed completion script asks of the program."""
    asked = {
        "bash": {"COMP_WORDS": "amesh in", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "amesh in"},
        "fish": {"_TYPER_COMPLETE_ARGS": "amesh in", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    amesh_script = Path(sys.executable).with_name("amesh")
    done = subprocess.run(
        [amesh_script],
        capture_output=True,
        text=True,
        env=environment(home, _AMESH_COMPLETE=f"complete_{shell}", **asked),
        check=False,
    )
    assert "init" in done.stdout
    assert "invite" in done.stdout
    assert "listen" not in done.stdout


@pytest.mark.parametrize("columns", ["60", "80"])
def test_the_list_of_commands_is_not_cut(home: Path, columns: str) -> None:
    shown = amesh(home, "--help", COLUMNS=columns).out
    assert "..." not in shown.partition("Commands:")[2]
    assert "an identity and an empty allow list." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= int(columns)


def test_arguments_are_named_in_the_usage_as_in_the_help(home: Path) -> None:
    assert " trust [OPTIONS] ACTION DEVICE\n" in amesh(home, "trust", "--help").out
    assert " revoke [OPTIONS] DEVICE\n" in amesh(home, "revoke").err
    assert " invite [OPTIONS] [CODE]\n" in amesh(home, "invite", "--help").out


def test_init_asks_again_for_a_name_and_not_where_there_is_one(home: Path) -> None:
    command = AtTerminal(home, "init", "--backend", "encrypted-file")
    command.sees("show this one")
    command.types("a  b")
    command.sees("double space")
    command.sees("show this one")
    command.types("prod-api")
    assert command.ends() == 0
    assert json.loads((home / "identity.json").read_bytes())["friendlyName"] == "prod-api"
    again = AtTerminal(home, "init")
    assert again.ends() == 3
    assert "amesh init --force" in again.seen
    assert "show this one" not in again.seen


@pytest.mark.parametrize("code", ["482916", "482 916", "482-916", " 482916 "])
def test_a_code_may_be_typed_in_groups(home: Path, code: str) -> None:
    make_home(home)
    done = amesh(home, "invite", code, "--assume-match", "--relay", "ws://127.0.0.1:1/ws")
    assert done.status == 5, done.err  # it is a code, and nothing answers there


def test_a_code_is_asked_for_until_it_is_one(home: Path) -> None:
    make_home(home)
    command = AtTerminal(home, "invite", "--relay", "ws://127.0.0.1:1/ws")
    for wrong in ("48291", "", "the code"):
        command.sees("The code that the target shows:")
        command.types(wrong)
        command.sees("! six digits")
    command.types("482 916")
    assert command.ends() == 5
