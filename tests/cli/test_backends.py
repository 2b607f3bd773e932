"""Where a key is: what init, list and doctor say of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from amesh_cli import listing, making
from amesh_core import keystore
from amesh_core.errors import AllowListRolledBack
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support.apple_security import FakeSecurity
from tests.support.cli import AtTerminal, amesh, environment
from tests.support.home import NOW, PASSPHRASE, make_home, make_peer, record
from tests.support.mac_keychain import MacKeychain
from tests.support.secret_service import SecretService, secret_service

BETTER = list(keystore.BACKENDS)[:-1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


@pytest.fixture
def keyring() -> Iterator[SecretService]:
    with secret_service() as running:
        yield running


def examined(home: Path, *options: str, **env: str) -> str:
    """What doctor finds, of this device only."""
    return amesh(home, "doctor", *options, AMESH_RELAY_URL="ws://127.0.0.1:1/ws", **env).out


# --- detection --------------------------------------------------------------------------


def test_init_says_why_each_better_back_end_is_not_it(home: Path) -> None:
    said = amesh(home, "init", "--name", "x").err.splitlines()
    reasons = [line for line in said if line.startswith("not ")]
    assert [line.split(":")[0] for line in reasons] == [f"not {name}" for name in BETTER]
    assert "not secure-enclave: this is not a Mac" in reasons
    assert any(line.startswith("not tpm2: ") and "/dev/no-such-tpm" in line for line in reasons)
    assert any("only with `--backend keychain`" in line for line in reasons)


def test_init_says_it_to_a_script(home: Path) -> None:
    made = json.loads(amesh(home, "init", "--name", "x", "--json").out)
    assert list(made["notChosen"]) == BETTER
    assert made["storageBackend"] == "encrypted-file"


def test_a_back_end_that_was_asked_for_is_not_weighed_against_others(home: Path) -> None:
    done = amesh(home, "init", "--name", "x", "--backend", "encrypted-file")
    assert "not secure-enclave" not in done.err
    assert done.status == 0


@pytest.mark.parametrize(
    ("backend", "reason"),
    [("secure-enclave", "this is not a Mac"), ("tpm2", "/dev/no-such-tpm"), ("keychain", "bus")],
)
def test_a_back_end_that_cannot_be_used_is_not_replaced_by_another(
    home: Path, backend: str, reason: str
) -> None:
    nowhere = f"unix:path={home.parent / 'no-such-bus'}"
    done = amesh(
        home, "init", "--name", "x", "--backend", backend, DBUS_SESSION_BUS_ADDRESS=nowhere
    )
    assert done.status == 4
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith(f"error: the {backend} back end cannot be used: ")
    assert reason in error or "No such file" in error
    assert "takes the best one that works" in hint
    assert not (home / "identity.json").exists()
    assert not (home / "keys").exists()


def test_the_help_text_lists_the_back_ends(home: Path) -> None:
    words = " ".join(amesh(home, "init", "--help").out.split())
    assert f"Where the key lives: {', '.join(keystore.BACKENDS)}." in words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_back_ends(home: Path, shell: str) -> None:
    typed = "amesh init --backend "
    asked = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": "3"},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = subprocess.run(
        [Path(sys.executable).with_name("amesh")],
        capture_output=True,
        text=True,
        env=environment(home, _AMESH_COMPLETE=f"complete_{shell}", **asked),
        check=False,
    )
    for name in keystore.BACKENDS:
        assert name in done.stdout


# --- a key in a keychain ----------------------------------------------------------------


def test_a_key_in_the_keychain(home: Path, keyring: SecretService) -> None:
    done = amesh(home, "init", "--name", "x", "--backend", "keychain")
    assert done.status == 0
    assert "keychain, protected by software" in done.out
    assert "programs that run as you may get it" in done.err
    assert "passphrase" not in done.err
    assert len(keyring.secrets()) == 3
    assert {path.name for path in home.iterdir()} == {"identity.json", "allow_list.json", ".lock"}
    assert "keychain, protected by software" in amesh(home, "list").out
    listed = json.loads(amesh(home, "list", "--json").out)
    assert (listed["storageBackend"], listed["hardwareBound"]) == ("keychain", False)
    checks = json.loads(examined(home, "--json"))["checks"]
    said = {check["name"]: (check["verdict"], check["message"]) for check in checks}
    assert said["back end"] == ("ok", "keychain, protected by software")
    assert said["passphrase"] == ("ok", "none is needed")
    assert said["key"][0] == "ok"


def test_a_keychain_that_goes_away_is_an_error_and_never_another_key(
    home: Path, keyring: SecretService
) -> None:
    amesh(home, "init", "--name", "x", "--backend", "keychain")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    keyring.lock()
    locked = amesh(home, "list")
    assert locked.status == 4
    assert "is locked" in locked.err
    assert "hint: unlock it" in locked.err
    keyring.kill_keyring()
    for command in (["list"], ["revoke", "x", "--yes"], ["fetch", "http://127.0.0.1:1/"]):
        away = amesh(home, *command, AUTH_MESH_PASSPHRASE="of no use here")
        assert away.status == 4
        assert "the keychain back end cannot be used" in away.err
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    keyring.start_keyring()
    assert amesh(home, "list").status == 0


def test_an_item_that_was_deleted(home: Path, keyring: SecretService) -> None:
    amesh(home, "init", "--name", "x", "--backend", "keychain")
    keyring.forget_everything()
    keyring.kill_keyring()
    keyring.start_keyring()
    done = amesh(home, "list")
    assert done.status == 4
    assert "has no item am_" in done.err
    assert "another user or machine" in done.err


def test_ctrl_c_at_init_leaves_nothing(home: Path, keyring: SecretService) -> None:
    asked = AtTerminal(home, "init", "--backend", "keychain")
    asked.sees("other devices")
    asked.presses_ctrl_c()
    assert asked.ends() == 130
    assert keyring.secrets() == {}


# --- a Mac, as far as one can be had here -----------------------------------------------


def test_a_key_in_the_enclave_of_a_mac(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MacKeychain().install(monkeypatch)
    monkeypatch.setitem(sys.modules, "Security", FakeSecurity())
    monkeypatch.setattr(keystore, "Means", partial(keystore.Means, platform="darwin"))
    made = Home.create(Settings(directory=home), name="x", now=NOW)
    assert made.home.backend == "secure-enclave"
    assert made.hardware_bound
    making.show(made, as_json=False)
    shown = capsys.readouterr()
    assert "secure-enclave, hardware-bound" in shown.out
    assert "has not been run on a Mac yet" in shown.err
    assert "no backup of the key" in shown.err
    assert "passphrase" not in shown.err
    record(made.home, make_peer("laptop"))
    older = (home / "allow_list.json").read_bytes()
    record(made.home, make_peer("server"), now=NOW + 1)
    again = Home.open(Settings(directory=home))
    listing.as_json(again, again.allow_list(), NOW)
    listed = json.loads(capsys.readouterr().out)
    assert (listed["storageBackend"], listed["hardwareBound"]) == ("secure-enclave", True)
    (home / "allow_list.json").write_bytes(older)
    with pytest.raises(AllowListRolledBack):
        Home.open(Settings(directory=home)).allow_list()


# --- a key in a file --------------------------------------------------------------------


def init(home: Path, **env: str) -> str:
    """What init tells a person."""
    return amesh(home, "init", "--name", "x", "--force", "--yes", **env).err


def test_a_generated_passphrase_lies_beside_the_key(home: Path) -> None:
    said = init(home)
    assert "who can copy this directory has it\n" in said
    assert f"lies beside it, in {home / '.passphrase'}." in said
    assert "amesh passphrase change --new-passphrase-file" in said


def test_a_file_in_the_directory_lies_beside_the_key(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "secret").write_text(PASSPHRASE)
    (tmp_path / "link").symlink_to(home)
    for path in (home / "secret", tmp_path / "link" / "secret"):
        said = init(home, AMESH_PASSPHRASE_FILE=str(path))
        assert f"lies beside it, in {path}." in said
        assert "move that file elsewhere" in said
        assert "generated" not in said


def test_a_file_elsewhere_does_not(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    (tmp_path / "secret").write_text(PASSPHRASE)
    (home / "link").symlink_to(tmp_path / "secret")
    for path in (tmp_path / "secret", home / "link"):
        said = init(home, AMESH_PASSPHRASE_FILE=str(path))
        assert "beside" not in said
        assert "once the passphrase is guessed" in said
        assert "not written anywhere" in said


@pytest.mark.parametrize("beside", [True, False])
def test_a_script_hears_where_the_passphrase_lies(home: Path, beside: bool) -> None:
    env = {} if beside else {"AUTH_MESH_PASSPHRASE": PASSPHRASE}
    made = json.loads(amesh(home, "init", "--name", "x", "--json", **env).out)
    assert made["passphraseBesideKey"] is beside


def test_doctor_says_where_the_passphrase_lies(home: Path, tmp_path: Path) -> None:
    make_home(home)
    assert "beside the key" in examined(home)
    (home / "secret").write_text(PASSPHRASE)
    assert "beside the key" in examined(home, AMESH_PASSPHRASE_FILE=str(home / "secret"))
    (tmp_path / "secret").write_text(PASSPHRASE)
    apart = examined(home, AMESH_PASSPHRASE_FILE=str(tmp_path / "secret"))
    assert f"from {tmp_path / 'secret'}" in apart
    assert "beside the key" not in apart
    assert "encrypted-file, protected by software" in apart
