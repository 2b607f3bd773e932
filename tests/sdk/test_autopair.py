"""Programs that make their device from a token: once, at the start, and without ever waiting."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from flask import Flask

from amesh_core.errors import BadToken, HomeUnwritable, NoIdentity, NoToken
from amesh_core.io import announcing
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.token import TokenCode
from amesh_sdk import Amesh, AuthMeshMiddleware, aiohttp_server, autopair, flask, wsgi
from amesh_sdk.opened import OpenHome, opened
from tests.sdk.recorder import Recorder
from tests.support.asgi import PATIENCE_SECONDS
from tests.support.bootstrap import CONTROLLER, held_relay, token_of, wait_until_gone
from tests.support.cli import environment
from tests.support.dying import finish, start
from tests.support.home import cheap_init, make_home

VARIABLE = "AMESH_BOOTSTRAP_TOKEN"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No amesh of this machine; threads that began here end here."""
    cheap_init(monkeypatch)
    monkeypatch.setenv("AUTH_MESH_DIR", str(tmp_path / "amesh"))
    for name in (VARIABLE, "AMESH_BOOTSTRAP_TOKEN_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    yield
    autopair._stop()
    autopair._announcers.clear()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "amesh"


def good(**options: Any) -> str:
    return token_of(now=time.time(), **options)


def given(monkeypatch: pytest.MonkeyPatch, token: str) -> Settings:
    """What a server reads that was started with this token."""
    monkeypatch.setenv(VARIABLE, token)
    return Settings.from_env(os.environ)


def application(environ: Any, start_response: Any) -> list[bytes]:
    raise AssertionError("nobody is let in")


# --- the first use makes the device -----------------------------------------------------


def test_signing_makes_the_device(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, good())
    headers = Amesh().sign("GET", "https://api.example/")
    assert headers["Authorization"].startswith("AuthMesh ")
    home = Home.open(Settings(directory))
    home.allow_list().controller(CONTROLLER.public, time.time())
    assert VARIABLE not in os.environ


def test_the_lifespan_makes_the_device(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, good())
    middleware = AuthMeshMiddleware(Recorder(reads=0))
    assert not directory.exists(), "not while the app is put together"
    refused: list[str] = []
    lifespan(middleware, refused)
    assert not refused
    assert Home.open(Settings(directory)).identity.friendly_name == "prod-server"
    assert VARIABLE not in os.environ


def lifespan(app: Any, refused: list[str]) -> None:
    """Start an app; why it refuses to, if it does, is added to `refused`."""

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        if message["type"] == "lifespan.startup.failed":
            refused.append(message["message"])

    asyncio.run(app({"type": "lifespan"}, receive, send))


def make_wsgi() -> None:
    wsgi.AuthMeshMiddleware(application)


def make_flask() -> None:
    flask.AuthMesh(Flask("app"))


def make_aiohttp() -> None:
    aiohttp_server.setup(web.Application())


MAKERS = [make_wsgi, make_flask, make_aiohttp]


@pytest.mark.parametrize("make", MAKERS)
def test_what_has_no_start_up_makes_the_device_when_it_is_made(
    make: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the controller would not hear of it before the first request."""
    given(monkeypatch, good())
    make()
    assert Home.open(Settings(directory)).identity.friendly_name == "prod-server"
    assert VARIABLE not in os.environ
    assert directory in autopair._announcers


@pytest.mark.parametrize("make", MAKERS)
def test_without_a_token_nothing_is_read_when_it_is_made(make: Any, directory: Path) -> None:
    make()
    assert not directory.exists()


def test_from_a_file_and_from_a_credential(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "amesh-bootstrap-token"
    secret.write_text(good() + "\n")
    secret.chmod(0o444)
    for name, value in (
        ("AMESH_BOOTSTRAP_TOKEN_FILE", secret),
        ("CREDENTIALS_DIRECTORY", tmp_path),
    ):
        monkeypatch.setenv("AUTH_MESH_DIR", str(directory / name))
        monkeypatch.setenv(name, str(value))
        OpenHome(Settings.from_env(os.environ)).key()
        monkeypatch.delenv(name)
        assert Home.open(Settings(directory / name)).identity.friendly_name == "prod-server"
    assert secret.exists(), "it belongs to whoever put it there"


def test_all_the_ways_in_one_process_share_one_unlocked_key(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment says something else once the token was used."""
    before = given(monkeypatch, good())
    home = opened(before)
    key = home.key()
    after = Settings.from_env(os.environ)
    assert after != before
    assert opened(after) is home
    assert opened(after).key() is key


def test_forked_workers_that_begin_at_the_same_time(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = opened(given(monkeypatch, good()))

    def worker() -> None:
        home.key()
        assert VARIABLE not in os.environ

    assert [finish(child) for child in [start(worker) for _ in range(4)]] == [0] * 4
    assert len(list((directory / "keys").glob("*.key.json"))) == 1
    assert VARIABLE in os.environ, "the parent has not used it"
    assert home.key().public == Home.open(Settings(directory)).identity.public_key


# --- a token that is of no use ----------------------------------------------------------


def test_a_token_beside_a_device_is_ignored_with_one_warning(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "amesh.pairing")
    there = make_home(directory)
    token = good()
    settings = given(monkeypatch, token)
    make_wsgi()
    home = OpenHome(settings)
    assert home.key().public == there.identity.public_key
    assert home.allow_list().devices == ()
    assert VARIABLE not in os.environ
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("amesh.pairing", "WARNING")
    assert f"AMESH_BOOTSTRAP_TOKEN is ignored: this device is {there.identity.device_id}" in (
        line.getMessage()
    )
    assert token not in caplog.text


@pytest.mark.parametrize("token", ["rubbish", "eyJ.eyJ.eyJ", ""])
def test_a_bad_token_beside_a_device_is_ignored_as_well(
    token: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_home(directory)
    assert OpenHome(given(monkeypatch, token)).key().public == there.identity.public_key


def test_a_missing_file_beside_a_device_is_no_trouble(directory: Path, tmp_path: Path) -> None:
    """A secret that was taken away after the first start, as it should be."""
    make_home(directory)
    OpenHome(Settings(directory, bootstrap_token_file=tmp_path / "gone")).key()


def test_the_token_that_is_being_announced_is_no_reason_to_warn(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other workers of the first start see the device that one of them has just made."""
    settings = given(monkeypatch, good())
    OpenHome(settings).key()
    monkeypatch.setattr(autopair, "_settled", set())  # as in another process
    OpenHome(settings).key()
    assert caplog.text == ""
    OpenHome(given(monkeypatch, good())).key()
    monkeypatch.setattr(autopair, "_settled", set())
    OpenHome(given(monkeypatch, good())).key()
    assert "is ignored" in caplog.text


BAD = {
    "rubbish": TokenCode.FORMAT,
    "..": TokenCode.FORMAT,
    "token_of": TokenCode.EXPIRED,
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_token_stops_every_start_and_leaves_the_environment(
    what: str, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_of() if what == "token_of" else what
    given(monkeypatch, token)
    refused: list[str] = []
    with pytest.raises(BadToken):
        lifespan(AuthMeshMiddleware(Recorder()), refused)
    assert BAD[what] in "".join(refused)
    assert VARIABLE not in os.environ
    for make in MAKERS:
        given(monkeypatch, token)
        with pytest.raises(BadToken) as caught:
            make()
        assert caught.value.token_code == BAD[what]
        assert VARIABLE not in os.environ
    given(monkeypatch, token)
    with pytest.raises(BadToken):
        Amesh().sign("GET", "https://api.example/")
    assert not directory.exists()
    assert token not in caplog.text


def test_a_clock_two_minutes_behind_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, token_of(now=time.time() + 120))
    with pytest.raises(BadToken, match=r"1[12][0-9] s .*clock.*token_not_yet_valid"):
        make_wsgi()


def test_a_token_that_is_not_where_it_should_be_stops_the_start(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMESH_BOOTSTRAP_TOKEN_FILE", str(tmp_path / "gone"))
    with pytest.raises(NoToken):
        make_wsgi()
    monkeypatch.setenv("AMESH_BOOTSTRAP_TOKEN_FILE", str(tmp_path))
    with pytest.raises(HomeUnwritable):
        make_wsgi()


def test_without_device_and_token_it_is_as_ever(directory: Path) -> None:
    with pytest.raises(NoIdentity):
        OpenHome(Settings(directory)).key()


def test_the_token_of_another_device_stays(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program with settings of its own has not used what the environment says."""
    given(monkeypatch, good())
    make_home(tmp_path / "other")
    OpenHome(Settings(tmp_path / "other")).key()
    assert VARIABLE in os.environ


# --- the announcement is nobody's business ----------------------------------------------


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopair, "START_SECONDS", 0.0)


@pytest.mark.usefixtures("_at_once")
def test_a_relay_that_says_nothing_holds_nothing_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_relay() as (url, relay):
        home = OpenHome(given(monkeypatch, good(relay=url)))
        key = home.key()
        relay.wait_for(1)
        assert home.key() is key
        assert len(home.allow_list().devices) == 1
        assert (directory / "announce.json").exists()
        relay.release()
        wait_until_gone(directory / "announce.json")


@pytest.mark.usefixtures("_at_once")
def test_one_thread_a_process(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_relay() as (url, relay):
        settings = given(monkeypatch, good(relay=url))
        for _ in range(5):
            OpenHome(settings).key()
        relay.wait_for(1)
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("amesh-announce") == 1
        relay.release()
        wait_until_gone(directory / "announce.json")
    assert len(relay.heard) == 1


@pytest.mark.usefixtures("_at_once")
def test_the_end_of_the_token_is_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given(monkeypatch, good())
    OpenHome(Settings.from_env(os.environ)).begin()
    autopair._stop()
    autopair._announcers.clear()
    monkeypatch.setattr(AnnounceFile, "is_expired", lambda self, now: True)
    OpenHome(Settings(directory)).begin()
    wait_until_gone(directory / "announce.json")
    autopair._announcers[directory]._thread.join(PATIENCE_SECONDS)
    assert "never acknowledged this device" in caplog.text


@pytest.mark.usefixtures("_at_once")
def test_a_damaged_announcement_stops_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_home(directory)
    (directory / "announce.json").write_text("{}")
    OpenHome(Settings(directory)).key()
    autopair._announcers[directory]._thread.join(PATIENCE_SECONDS)
    assert "announce.json" in caplog.text


ENDING = """
import os, socket, sys, threading, time
from amesh_core.keystore import encrypted_file
from amesh_core.wire.files import Argon2Cost
encrypted_file.COST = Argon2Cost(t=1, m=8, p=1)
from amesh_core.io import announcing
from amesh_sdk import amesh, autopair
autopair.START_SECONDS = {start}
read = announcing.read
def read_slowly(directory):
    threading.Event().wait(0.15)
    return read(directory)
announcing.read = read_slowly
asked = threading.Event()
def hanging(*args, **kwargs):
    asked.set()
    threading.Event().wait()
if {hangs}:
    socket.getaddrinfo = hanging
amesh.sign("GET", "https://api.example/")
if {hangs}:
    asked.wait(20)
if {waits}:
    sys.stdin.read()
sys.stdout.write("done")
"""


@pytest.mark.parametrize("what", ["waiting to begin", "name does not resolve", "nobody answers"])
def test_the_end_of_a_program_is_quick_and_clean(what: str, directory: Path) -> None:
    """While a resolver hangs, or a relay says nothing: at once, without a word on stderr.

    In development mode, too, in which asyncio complains of what keeps a loop for 100 ms, as a
    slow disk does.
    """
    start_seconds = 60 if what == "waiting to begin" else 0
    hangs, waits = what == "name does not resolve", what == "nobody answers"
    with held_relay() as (url, relay):
        relay_of = "ws://relay.example/ws" if hangs else url
        program = textwrap.dedent(ENDING).format(start=start_seconds, hangs=hangs, waits=waits)
        with subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(directory, **{VARIABLE: good(relay=relay_of)}),
            text=True,
        ) as process:
            if waits:
                relay.wait_for(1)
            begun = time.monotonic()
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (out, err, process.returncode) == ("done", "", 0)
    # Less than any of the waits that go on would take.
    assert not waits or time.monotonic() - begun < announcing.ANSWER_SECONDS / 2
    assert (directory / "announce.json").exists(), "the next start goes on"


def test_a_stopped_thread_has_announced_nothing_half(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, good())
    OpenHome(Settings.from_env(os.environ)).begin()
    announcer = autopair._announcers[directory]
    announcer.stop()
    assert not announcer._thread.is_alive()
    announcer.stop()
    assert (directory / "announce.json").exists()


@pytest.mark.usefixtures("_at_once")
def test_a_failing_look_up_is_one_more_relay_that_is_away(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    given(monkeypatch, good(relay="ws://relay.example/ws"))
    OpenHome(Settings.from_env(os.environ)).key()
    end = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while "its name does not resolve" not in caplog.text:
        assert time.monotonic() < end
        pause.wait(0.01)
    autopair._stop()
    assert not autopair._announcers[directory]._thread.is_alive()


def no_more_threads(*args: Any) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


@pytest.mark.usefixtures("_at_once")
def test_it_ends_where_no_thread_can_begin_any_more(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of a program, from Python 3.12 on; what a thread raises fails the test."""
    with held_relay() as (url, relay):
        OpenHome(given(monkeypatch, good(relay=url))).key()
        relay.wait_for(1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            autopair._stop()
        assert not autopair._announcers[directory]._thread.is_alive()


def test_a_name_is_not_looked_up_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is one more relay that is away, and no traceback in a log."""

    async def look_up() -> None:
        await asyncio.get_running_loop().getaddrinfo("relay.example", 443)

    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    with asyncio.Runner(loop_factory=autopair._new_loop) as runner, pytest.raises(OSError):
        runner.run(look_up())


def test_without_a_thread_everything_else_works(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine at its limit of threads, or a program that is about to end."""
    start_thread = threading.Thread.start

    def start_most(thread: threading.Thread) -> None:
        if thread.name == "amesh-announce":
            raise RuntimeError("can't start new thread")
        start_thread(thread)

    monkeypatch.setattr(threading.Thread, "start", start_most)
    OpenHome(given(monkeypatch, good())).key()
    assert "not announced: can't start new thread" in caplog.text
    assert (directory / "announce.json").exists()


def test_a_forked_child_announces_for_itself(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent's thread is not there, and the parent may end first."""
    home = opened(given(monkeypatch, good()))
    home.begin()
    assert autopair._announcers[directory]._thread.is_alive()

    def child() -> None:
        assert autopair._announcers == {}
        home.key()
        assert autopair._announcers[directory]._thread.is_alive()

    assert finish(start(child)) == 0
