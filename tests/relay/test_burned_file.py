"""`--state sqlite:FILE`: used tokens are known after a restart, whatever ended the relay."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from websockets.sync.client import connect

from amesh_core.errors import UsageError
from amesh_core.wire import relay as wire
from amesh_relay.limits import BURNED_JTI_SECONDS
from amesh_relay.state.sqlite import BurnedFile
from tests.support.hub import JTI
from tests.support.relay import hear, relay_process

NOW: Final = 1_800_000_000.0
INIT: Final = wire.BootstrapInit(JTI, "key")

Open = Callable[..., BurnedFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the file `state`; from 3.13 on Python warns of one that nobody closes."""
    with ExitStack() as files:

        def opened(**options: int) -> BurnedFile:
            file = BurnedFile(tmp_path / "state", **options)
            files.callback(file.close)
            return file

        yield opened


def test_it_is_kept_in_the_order_in_which_it_happened(opened: Open) -> None:
    file = opened()
    file.add("second", NOW - 10)
    file.add("third", NOW)
    file.add("first", NOW - 20)
    file.close()
    again = opened().load(NOW + 1)
    assert again == [("first", 21.0), ("second", 11.0), ("third", 1.0)]


def test_what_is_used_again_is_used_later(opened: Open) -> None:
    file = opened()
    file.add("one", NOW)
    file.add("two", NOW + 1)
    file.add("one", NOW + 2)
    assert file.load(NOW + 2) == [("two", 1.0), ("one", 0.0)]


def test_it_is_forgotten_after_25_hours(opened: Open) -> None:
    file = opened()
    file.add("one", NOW)
    assert file.load(NOW + BURNED_JTI_SECONDS) == [("one", BURNED_JTI_SECONDS)]
    assert file.load(NOW + BURNED_JTI_SECONDS + 1) == []
    assert file.load(NOW) == []  # for good


def test_a_clock_that_was_set_back(opened: Open) -> None:
    """Nothing is used up for longer than from now on."""
    file = opened()
    file.add("one", NOW)
    assert file.load(NOW - 3600) == [("one", 0.0)]


def test_it_has_an_end(opened: Open) -> None:
    """As in memory: strangers can use up tokens of their own, and the oldest goes."""
    file = opened(max_rows=50)
    for number in range(400):
        file.add(str(number), NOW + number)
    assert [jti for jti, _ in file.load(NOW + 400)] == [str(n) for n in range(350, 400)]


def test_it_is_the_owners_alone(tmp_path: Path, opened: Open) -> None:
    before = os.umask(0)
    try:
        opened().add("one", NOW)
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_disk_that_is_full_ends_no_pairing(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    file = opened()
    file._database.execute("PRAGMA max_page_count = 1")
    for number in range(1000):
        file.add(f"{number}" * 50, NOW)
    assert "could not be written down: database or disk is full" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no database" * 100, "file is not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5000, "not a database"),
    ],
)
def test_a_file_that_is_something_else(
    tmp_path: Path, opened: Open, content: bytes, reason: str
) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        opened().load(NOW)
    assert path.read_bytes() == content


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE burned (fuel TEXT)")
    other.commit()
    other.close()
    with pytest.raises(UsageError, match=f"--state sqlite:{path}: "):
        BurnedFile(path)


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("", 2, "--state sqlite: needs the name of a file"),
        ("missing/state", 1, "no such file or directory"),
        (".", 1, "unable to open database file"),
        ("text", 1, "file is not a database"),
    ],
)
def test_a_relay_says_why_it_cannot_use_it(
    tmp_path: Path, name: str, status: int, reason: str
) -> None:
    (tmp_path / "text").write_text("no database\n" * 100)
    command = [sys.executable, "-m", "amesh_relay", "--port", "0", "--state", f"sqlite:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=20)
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_used_token_is_used_after_a_restart(tmp_path: Path, end: signal.Signals) -> None:
    state = ("--state", f"sqlite:{tmp_path / 'state'}")

    def use_it_up() -> None:
        with (
            relay_process(*state) as relay,
            connect(relay.url, proxy=None) as watcher,
            connect(relay.url, proxy=None) as target,
        ):
            watcher.send(wire.encode(wire.BootstrapWatch(JTI)))
            assert hear(watcher) == wire.BootstrapWatching(JTI)
            target.send(wire.encode(INIT))
            assert hear(watcher) == INIT
            watcher.send(wire.encode(wire.BootstrapAck(JTI, "controller", "sig")))
            assert hear(target) == wire.BootstrapAcked(JTI, "controller", "sig")
            # What the target has heard is written down, whatever happens now.
            relay.process.send_signal(end)
            relay.wait()

    if end is signal.SIGKILL:
        with pytest.raises(AssertionError):  # it did not end well
            use_it_up()
    else:
        use_it_up()
    with relay_process(*state) as relay, connect(relay.url, proxy=None) as target:
        target.send(wire.encode(INIT))
        assert hear(target) == wire.BootstrapReject(JTI, "token_already_used")
