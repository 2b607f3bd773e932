"""`amesh passphrase change`: the key stays, what opens it changes, at every instant one does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from amesh_core import crypto
from amesh_core.errors import (
    HomeBusy,
    IdentityReplaced,
    NoPassphrase,
    UsageError,
    WrongPassphrase,
)
from amesh_core.io import passphrase, rekeying
from amesh_core.io.home import Home
from amesh_core.keystore import encrypted_file
from amesh_core.settings import Settings
from amesh_core.wire.files import Argon2Cost, KeyFile
from tests.support.cli import AtTerminal, amesh
from tests.support.dying import each_death, opened, put_back, snapshot
from tests.support.home import CHEAP, NOW, PASSPHRASE, cheap_init, make_home, make_peer, record

NEW: Final = b"a new passphrase"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = make_home(tmp_path / "amesh")
    record(home, make_peer())
    return home


def beside(home: Home) -> Path:
    return home.directory / ".passphrase"


def key_file(home: Home) -> Path:
    return home.directory / "keys" / f"{home.identity.device_id}.key.json"


def anew(home: Home, **more: Any) -> Home:
    return Home.open(Settings(directory=home.directory, **more))


def assert_opens(home: Home, **more: Any) -> None:
    again = anew(home, **more)
    crypto.verify(home.identity.public_key, again.key().sign(b"x"), b"x")
    assert len(again.allow_list().devices) == 1


# --- from one place to another ----------------------------------------------------------


def test_from_a_generated_to_an_own_one(home: Home) -> None:
    changed = rekeying.change(home, NEW)
    assert changed == rekeying.Changed(was_beside_key=True, to_change=None)
    assert not beside(home).exists()
    assert_opens(home, passphrase=NEW.decode())
    with pytest.raises(NoPassphrase):
        anew(home).key()
    with pytest.raises(WrongPassphrase):
        anew(home, passphrase=PASSPHRASE).key()


def test_back_to_a_generated_one(home: Home, tmp_path: Path) -> None:
    rekeying.change(home, NEW)
    file = tmp_path / "secret"
    file.write_bytes(NEW + b"\n")
    changed = rekeying.change(anew(home, passphrase_file=file), None)
    assert changed == rekeying.Changed(was_beside_key=False, to_change=str(file))
    assert beside(home).stat().st_mode & 0o777 == 0o400
    assert len(bytes.fromhex(beside(home).read_text())) == 32
    assert_opens(home)
    with pytest.raises(WrongPassphrase):
        anew(home, passphrase=NEW.decode()).key()


def test_a_new_generated_one(home: Home) -> None:
    changed = rekeying.change(home, None)
    assert changed == rekeying.Changed(was_beside_key=True, to_change=None)
    assert beside(home).read_bytes() != PASSPHRASE.encode()
    assert_opens(home)


def test_between_two_of_the_operator(home: Home) -> None:
    rekeying.change(home, NEW)
    changed = rekeying.change(anew(home, passphrase=NEW.decode()), b"another")
    assert changed == rekeying.Changed(was_beside_key=False, to_change="AUTH_MESH_PASSPHRASE")
    assert_opens(home, passphrase="another")
    # The one that was generated once is of no use to anybody, and is not left behind.
    assert not beside(home).exists()


def test_the_same_one_again(home: Home) -> None:
    """Which raises the parameters, and leaves nothing to be set."""
    rekeying.change(home, NEW)
    before = key_file(home).read_bytes()
    changed = rekeying.change(anew(home, passphrase=NEW.decode()), NEW)
    assert changed == rekeying.Changed(was_beside_key=False, to_change=None)
    assert key_file(home).read_bytes() != before
    assert_opens(home, passphrase=NEW.decode())


@pytest.mark.parametrize("new", [NEW, None], ids=["own", "generated"])
def test_from_the_file_beside_the_key_that_was_named(home: Home, new: bytes | None) -> None:
    """It goes, or holds the new one: neither is a failure, nor the old one still in its place."""
    changed = rekeying.change(anew(home, passphrase_file=beside(home)), new)
    assert changed == rekeying.Changed(was_beside_key=True, to_change=None)
    assert beside(home).exists() is (new is None)


def test_it_is_written_nowhere(home: Home) -> None:
    rekeying.change(home, NEW)
    assert not any(NEW in data for data in snapshot(home.directory).values())


def test_parameters_are_raised_and_never_lowered(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ours, wanted in (
        (Argon2Cost(t=2, m=16, p=1), Argon2Cost(t=2, m=16, p=1)),
        (CHEAP, Argon2Cost(t=2, m=16, p=1)),
        (Argon2Cost(t=1, m=32, p=1), Argon2Cost(t=2, m=32, p=1)),
    ):
        monkeypatch.setattr(encrypted_file, "COST", ours)
        before = KeyFile.parse(key_file(home).read_bytes())
        rekeying.change(anew(home), None)
        after = KeyFile.parse(key_file(home).read_bytes())
        assert after.cost == wanted
        assert not {after.salt, after.nonce, after.ciphertext} & {
            before.salt,
            before.nonce,
            before.ciphertext,
        }


def test_what_a_very_old_file_still_holds_goes_too(home: Home) -> None:
    """Two passphrases, so that the one in identity.json was not moved."""
    path = home.directory / "identity.json"
    document = json.loads(path.read_text()) | {"passphrase": "of old", "mine": 1}
    path.write_text(json.dumps(document))
    rekeying.change(anew(home), NEW)
    after = json.loads(path.read_text())
    assert "passphrase" not in after
    assert after["mine"] == 1
    assert_opens(home, passphrase=NEW.decode())


# --- what is refused --------------------------------------------------------------------


def assert_refused(home: Home, error: type[Exception], new: bytes | None = NEW) -> None:
    before = snapshot(home.directory)
    with pytest.raises(error):
        rekeying.change(home, new)
    assert snapshot(home.directory) == before


def test_an_empty_one(home: Home) -> None:
    assert_refused(home, UsageError, b"")


def test_without_the_old_one(home: Home) -> None:
    assert_refused(anew(home, passphrase="wrong"), WrongPassphrase)
    beside(home).unlink()
    assert_refused(anew(home), NoPassphrase)


def test_a_back_end_without_one(home: Home) -> None:
    home.backend = "tpm2"
    assert_refused(home, UsageError)


def test_while_a_new_key_waits(home: Home) -> None:
    (home.directory / "rotation.json").write_text("{}")
    assert_refused(home, UsageError)


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Do something after the key was decrypted and before the lock is taken."""
    real = encrypted_file.EncryptedFileStore.under_another

    def slowly(self: Any, alias: str, public: bytes, secret: bytes) -> bytes:
        data = real(self, alias, public, secret)
        monkeypatch.undo()
        action()
        return data

    monkeypatch.setattr(encrypted_file.EncryptedFileStore, "under_another", slowly)


def test_two_changes_at_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would tell its person that its own passphrase counts."""
    meanwhile(monkeypatch, lambda: rekeying.change(anew(home), b"the first"))
    with pytest.raises(HomeBusy):
        rekeying.change(home, NEW)
    assert_opens(home, passphrase="the first")


def test_an_identity_that_was_replaced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace() -> None:
        cheap_init(monkeypatch)
        Home.create(home.settings, name="new", now=NOW, replace=True)

    meanwhile(monkeypatch, replace)
    with pytest.raises(IdentityReplaced):
        rekeying.change(home, NEW)
    assert opened(home.directory).identity.friendly_name == "new"


def test_a_rotation_that_began_meanwhile(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, lambda: (home.directory / "rotation.json").write_text("{}"))
    with pytest.raises(UsageError):
        rekeying.change(home, NEW)
    assert_opens(home)


# --- dying, and reading meanwhile -------------------------------------------------------


@pytest.mark.parametrize("new", [NEW, None], ids=["own", "generated"])
def test_killed_at_any_instant(home: Home, new: bytes | None) -> None:
    """What lies there opens the key, or what the operator has does."""
    before = snapshot(home.directory)
    outcomes = set()
    started = anew(home)  # before the kill
    for _ in each_death(lambda: rekeying.change(anew(home), new)):
        if new is None:
            crypto.verify(home.identity.public_key, started.key().sign(b"x"), b"x")
        again = anew(home)  # whoever comes next finishes what counts
        if new is not None and not beside(again).exists():
            assert_opens(again, passphrase=NEW.decode())
            outcomes.add("new")
        else:
            assert_opens(again)
            is_old = beside(again).read_bytes() == PASSPHRASE.encode()
            outcomes.add("old" if is_old else "new")
        assert {path.name for path in (home.directory / "keys").iterdir()} == {
            key_file(home).name,
            f"{home.identity.device_id}.newest.json",
        }
        assert not (home.directory / ".ready").exists()
        put_back(home.directory, before)
        started = anew(home)
    assert outcomes == {"old", "new"}


def test_a_process_that_starts_between_the_two_files(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the old key file and the new passphrase."""
    starting = anew(home)
    find = passphrase.find
    is_first = True

    def find_after_change(*arguments: Any) -> passphrase.Found:
        nonlocal is_first
        if is_first:
            is_first = False
            rekeying.change(anew(home), None)
        return find(*arguments)

    monkeypatch.setattr(passphrase, "find", find_after_change)
    crypto.verify(home.identity.public_key, starting.key().sign(b"x"), b"x")
    assert not is_first


def test_a_wrong_passphrase_is_not_tried_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bytes] = []
    argon2id = crypto.argon2id

    def counted(secret: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        tries.append(secret)
        return argon2id(secret, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", counted)
    with pytest.raises(WrongPassphrase, match="AUTH_MESH_PASSPHRASE"):
        anew(home, passphrase="wrong").key()
    assert tries == [b"wrong"]


def test_a_running_process_keeps_its_key(home: Home) -> None:
    home.key()
    rekeying.change(anew(home), NEW)
    record(home, make_peer("another"))
    assert len(home.allow_list().devices) == 2


def test_a_copy_from_before_opens_with_the_old_one(home: Home, tmp_path: Path) -> None:
    """Said in the manual: changing the passphrase takes nothing back."""
    copy = tmp_path / "copy"
    shutil.copytree(home.directory, copy)
    rekeying.change(home, NEW)
    assert opened(copy).identity == home.identity


# --- as a person sees it ----------------------------------------------------------------


class TestCommand:
    def test_typed_twice_and_not_shown(self, home: Home) -> None:
        person = AtTerminal(home.directory, "passphrase", "change")
        person.sees("New passphrase: ")
        person.types(NEW.decode())
        person.sees("The same again: ")
        person.types(NEW.decode())
        person.sees("which was written nowhere")
        person.sees("the passphrase beside the key is deleted")
        person.sees("A service that runs keeps the key it has")
        assert person.ends() == 0
        assert NEW.decode() not in person.seen
        assert_opens(home, passphrase=NEW.decode())
        assert KeyFile.parse(key_file(home).read_bytes()).cost == Argon2Cost(t=3, m=65536, p=1)

    def test_typed_in_two_ways(self, home: Home) -> None:
        person = AtTerminal(home.directory, "passphrase", "change")
        person.sees("New passphrase: ")
        person.types(NEW.decode())
        person.sees("The same again: ")
        person.types("another")
        person.sees("two different passphrases; nothing was changed")
        assert person.ends() == 2
        assert_opens(home)

    def test_from_a_file(self, home: Home, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_bytes(NEW + b"\n")
        done = amesh(home.directory, "passphrase", "change", "--new-passphrase-file", str(file))
        assert done.status == 0
        assert f"AMESH_PASSPHRASE_FILE={file}" in done.err
        assert "lies beside the key" not in done.err
        assert_opens(home, passphrase_file=file)

    def test_from_a_file_beside_the_key(self, home: Home) -> None:
        file = home.directory / "secret"
        file.write_bytes(NEW)
        done = amesh(home.directory, "passphrase", "change", "--new-passphrase-file", str(file))
        assert done.status == 0
        assert "it lies beside the key" in done.err

    def test_from_the_file_that_would_be_deleted(self, home: Home) -> None:
        """It would be the only copy of the new one."""
        beside(home).unlink()
        beside(home).write_bytes(NEW)
        beside(home).chmod(0o400)
        before = snapshot(home.directory)
        done = amesh(
            home.directory,
            *("passphrase", "change", "--new-passphrase-file", str(beside(home))),
            AUTH_MESH_PASSPHRASE=PASSPHRASE,
        )
        assert done.status == 2
        assert "would be deleted" in done.err
        assert snapshot(home.directory) == before

    def test_a_generated_one_does_not_hide_behind_the_old_one(self, home: Home) -> None:
        done = amesh(
            home.directory,
            *("passphrase", "change", "--generate"),
            AUTH_MESH_PASSPHRASE=PASSPHRASE,
        )
        assert done.status == 0
        assert "AUTH_MESH_PASSPHRASE still has the old passphrase and comes first" in done.err
        assert_opens(home)

    def test_the_place_of_the_old_one_is_named(self, home: Home, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        old.write_text(PASSPHRASE)
        new.write_bytes(NEW)
        done = amesh(
            home.directory,
            *("passphrase", "change", "--new-passphrase-file", str(new)),
            AMESH_PASSPHRASE_FILE=str(old),
        )
        assert done.status == 0
        assert f"{old} still has the old passphrase: put the new one there" in done.err

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ((), "--new-passphrase-file or --generate"),
            (("--new-passphrase-file", "nowhere"), "there is no nowhere"),
            (("--new-passphrase-file", "/dev/null"), "an empty passphrase"),
            (("--generate", "--new-passphrase-file", "x"), "exclude each other"),
        ],
    )
    def test_wrong_usage(self, home: Home, options: tuple[str, ...], says: str) -> None:
        before = snapshot(home.directory)
        done = amesh(home.directory, "passphrase", "change", *options)
        assert done.status == 2
        assert says in done.err
        assert snapshot(home.directory) == before

    def test_while_a_new_key_waits_no_passphrase_is_asked_for(self, home: Home) -> None:
        (home.directory / "rotation.json").write_text("{}")
        person = AtTerminal(home.directory, "passphrase", "change")
        person.sees("first `amesh rotate --finish` or `--abort`")
        assert person.ends() == 2
        assert "New passphrase" not in person.seen

    def test_a_wrong_old_one_is_said_before_a_new_one_is_asked_for(self, home: Home) -> None:
        person = AtTerminal(home.directory, "passphrase", "change", AUTH_MESH_PASSPHRASE="wrong")
        person.sees("the passphrase does not open")
        assert person.ends() == 4
        assert "New passphrase" not in person.seen
