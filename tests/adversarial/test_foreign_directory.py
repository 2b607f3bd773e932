"""A service that was taken over waits for `sudo amesh` in its directory (docs/decisions/0014).

It owns the directory, so it can put links, pipes and half-done replacements there. Root must not
be made to write, move, copy or give away what lies elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from amesh_core import disk
from amesh_core.errors import HomeUnwritable
from amesh_core.io import staging
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support.home import NOW, cheap_init, make_home, make_peer, record

SERVICE = 65534  # nobody

Plant = Callable[[Path, Path], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Make a symbolic link of the service, for us as root; also where the tests are not root."""
    is_root = os.geteuid() == 0
    links: set[str] = set()
    lstat = Path.lstat

    def lstat_of_root(path: Path) -> os.stat_result:
        found = lstat(path)
        if is_root or str(path) not in links:
            return found
        return os.stat_result((*found[:4], SERVICE, *found[5:]))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "lstat", lstat_of_root)

    def plant(link: Path, to: Path) -> None:
        link.symlink_to(to)
        links.add(str(link))
        if is_root:
            os.lchown(link, SERVICE, SERVICE)

    return plant


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory of root, with a secret in it."""
    path = tmp_path / "etc"
    path.mkdir()
    (path / "secret").write_text("root's")
    return path


def of_service(directory: Path) -> Home:
    home = make_home(directory)
    home.key()
    if os.geteuid() == 0:
        for path in (directory, *directory.rglob("*")):
            os.lchown(path, SERVICE, SERVICE)
    return home


def untouched(elsewhere: Path) -> None:
    assert [path.name for path in elsewhere.iterdir()] == ["secret"]
    assert (elsewhere / "secret").read_text() == "root's"
    assert (elsewhere / "secret").stat().st_uid == os.getuid()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link"])
def test_the_lock_is_no_other_file(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    """Whatever is opened there is given to the owner of the directory."""
    home = of_service(tmp_path / "amesh")
    lock = home.directory / ".lock"
    if kind == "hard link":
        lock.hardlink_to(elsewhere / "secret")
    else:
        lock.symlink_to(elsewhere / "secret")
    with pytest.raises(HomeUnwritable, match=r"\.lock"):
        record(home, make_peer())
    untouched(elsewhere)
    assert home.allow_list().devices == ()


def test_a_pipe_in_the_place_of_the_lock(tmp_path: Path) -> None:
    home = make_home(tmp_path / "amesh")
    os.mkfifo(home.directory / ".lock")
    with pytest.raises(HomeUnwritable, match="not a file of its own"):
        record(home, make_peer())


@pytest.mark.parametrize("name", ["identity.json", "allow_list.json", "config.json", "keys/mark"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    home = make_home(tmp_path / "amesh")
    if name == "keys/mark":
        name = f"keys/{home.identity.device_id}.newest.json"
    path = home.directory / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(HomeUnwritable, match="not a file"):
        _ = Home.open(Settings(directory=home.directory)).allow_list(), home.relay_url


def test_a_passphrase_that_would_become_a_file_of_root(
    tmp_path: Path, elsewhere: Path, plant: Plant
) -> None:
    """Its text is the service's, and so was the place: a line for cron, for example."""
    directory = of_service(tmp_path / "amesh").directory
    (directory / ".passphrase").unlink()
    plant(directory / ".passphrase", elsewhere / "cron")
    identity = directory / "identity.json"
    text = json.loads(identity.read_text()) | {"passphrase": "* * * * * root id\n"}
    identity.write_text(json.dumps(text))
    Home.open(Settings(directory=directory))
    untouched(elsewhere)
    assert json.loads(identity.read_text()) == text


def test_a_list_is_not_written_elsewhere(tmp_path: Path, elsewhere: Path, plant: Plant) -> None:
    home = of_service(tmp_path / "amesh")
    path, target = home.directory / "allow_list.json", tmp_path / "list of root"
    shutil.copy(path, target)
    path.unlink()
    plant(path, target)
    before = target.read_bytes()
    with pytest.raises(HomeUnwritable, match=r"allow_list\.json: a symbolic link"):
        record(home, make_peer())
    assert target.read_bytes() == before
    untouched(elsewhere)


def test_a_mark_is_not_written_elsewhere(tmp_path: Path, elsewhere: Path, plant: Plant) -> None:
    """The list is written, as nothing is wrong with it; what remembers it is not."""
    home = of_service(tmp_path / "amesh")
    shutil.rmtree(home.directory / "keys")
    plant(home.directory / "keys", elsewhere)
    record(home, make_peer("new"))
    assert [device.friendly_name for device in home.allow_list().devices] == ["new"]
    untouched(elsewhere)


def ready(directory: Path, discard: object = ()) -> Path:
    """What looks like a replacement that counts and was cut off."""
    path = directory / ".ready"
    (path / "keys").mkdir(parents=True)
    (path / "keys" / "evil.sh").write_text("id")
    (path / "discard.json").write_text(json.dumps(discard))
    return path


def test_what_is_ready_is_not_moved_elsewhere(
    tmp_path: Path, elsewhere: Path, plant: Plant
) -> None:
    directory = of_service(tmp_path / "amesh").directory
    shutil.rmtree(directory / "keys")
    plant(directory / "keys", elsewhere)
    ready(directory)
    with pytest.raises(HomeUnwritable, match="keys: a symbolic link"):
        Home.open(Settings(directory=directory))
    untouched(elsewhere)


def test_nothing_elsewhere_is_discarded_through_a_link(
    tmp_path: Path, elsewhere: Path, plant: Plant
) -> None:
    directory = of_service(tmp_path / "amesh").directory
    shutil.rmtree(directory / "keys")
    plant(directory / "keys", elsewhere)
    shutil.rmtree(ready(directory, discard=["keys/secret"]) / "keys")
    with pytest.raises(HomeUnwritable, match="keys: a symbolic link"):
        Home.open(Settings(directory=directory))
    untouched(elsewhere)


@pytest.mark.parametrize("name", [".ready", ".ready/keys"])
def test_what_lies_elsewhere_is_not_moved_in(
    tmp_path: Path, elsewhere: Path, plant: Plant, name: str
) -> None:
    directory = of_service(tmp_path / "amesh").directory
    if name != ".ready":
        shutil.rmtree(ready(directory) / "keys")
    plant(directory / name, elsewhere)
    with nullcontext() if name != ".ready" else pytest.raises(HomeUnwritable):
        Home.open(Settings(directory=directory))
    untouched(elsewhere)
    assert not (directory / "secret").exists()
    assert not (directory / "keys" / "secret").exists()


@pytest.mark.parametrize(
    "names",
    [
        ["{elsewhere}/secret"],
        ["../etc/secret"],
        ["keys/../../etc/secret"],
        [".."],
        ["keys/.."],
        ["keys/"],
        [""],
        ["a\0b"],
        [1],
        {"identity.json": 1},
    ],
    ids=str,
)
def test_nothing_elsewhere_is_discarded(tmp_path: Path, elsewhere: Path, names: object) -> None:
    directory = make_home(tmp_path / "amesh").directory
    found = json.loads(json.dumps(names).replace("{elsewhere}", str(elsewhere)))
    ready(directory, discard=found)
    with pytest.raises(HomeUnwritable, match="not a list of files of this directory"):
        Home.open(Settings(directory=directory))
    untouched(elsewhere)
    # Nor was anything else done.
    assert not (directory / "keys" / "evil.sh").exists()


def test_a_damaged_list_of_what_to_discard_is_no_traceback(tmp_path: Path) -> None:
    directory = make_home(tmp_path / "amesh").directory
    (ready(directory) / "discard.json").write_text("[")
    with pytest.raises(HomeUnwritable, match=r"discard\.json: not valid JSON"):
        Home.open(Settings(directory=directory))


def test_a_backup_has_no_copy_of_what_the_service_may_not_read(
    tmp_path: Path, elsewhere: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap_init(monkeypatch)
    directory = of_service(tmp_path / "amesh").directory
    plant(directory / "note", elsewhere / "secret")
    with pytest.raises(HomeUnwritable, match="note: a symbolic link"):
        Home.create(Settings(directory=directory), name="new", replace=True, now=NOW)
    assert not list(directory.glob("backup-*"))
    assert Home.open(Settings(directory=directory)).identity.friendly_name == "test device"


def test_what_is_elsewhere_is_not_closed(tmp_path: Path, elsewhere: Path, plant: Plant) -> None:
    """`doctor --repair` takes from the mode what others may do: of /etc/passwd, for example."""
    directory = of_service(tmp_path / "amesh").directory
    (elsewhere / "secret").chmod(0o644)
    plant(directory / "keys" / "x.key.json", elsewhere / "secret")
    with pytest.raises(HomeUnwritable, match="a symbolic link"):
        disk.close_to_others(directory / "keys" / "x.key.json")
    assert (elsewhere / "secret").stat().st_mode & 0o777 == 0o644


def test_litter_that_leads_elsewhere_is_swept_as_a_link(
    tmp_path: Path, elsewhere: Path, plant: Plant
) -> None:
    """A link to a directory used to stop every later writer."""
    home = of_service(tmp_path / "amesh")
    plant(home.directory / ".new-0123456789abcdef", elsewhere)
    record(home, make_peer())
    assert not staging.is_littered(home.directory)
    untouched(elsewhere)


def test_links_of_root_and_within_the_service_are_followed(tmp_path: Path, plant: Plant) -> None:
    """ConfigMaps, and data on another disk: somebody's arrangement."""
    home = of_service(tmp_path / "amesh")
    path = home.directory / "allow_list.json"
    for number, owner in enumerate((0, SERVICE)):
        target = tmp_path / f"list {number}"
        path.replace(target)
        path.symlink_to(target)
        if os.getuid() == 0:
            os.lchown(path, owner, owner)
            os.lchown(target, SERVICE, SERVICE)
        record(home, make_peer(f"peer {number}"))
        assert path.is_symlink()
        assert len(home.allow_list().devices) == number + 1
        path.unlink()
        target.replace(path)


def test_a_link_of_somebody_else_is_followed_by_who_is_not_root(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    """What that leads to is what this user may do anyway."""
    plant(tmp_path / "link", elsewhere / "secret")
    with pytest.raises(HomeUnwritable):
        disk.check_link(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    disk.check_link(tmp_path / "link")
