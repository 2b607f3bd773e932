"""Servers that nobody logs in to: real servers, relays, controllers, directories and kills."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from websockets.sync.client import connect

from amesh_core.io import announcing
from amesh_core.io.bootstrapping import FoundToken, create_from
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire import relay as wire
from tests.sdk.devices import Device
from tests.sdk.servers.processes import (
    Program,
    Running,
    asgi,
    call,
    running,
    started,
    together,
    wsgi,
)
from tests.support.bootstrap import Operator, held_relay, token_of, wait_until_gone
from tests.support.cli import PATIENCE_SECONDS, amesh
from tests.support.home import cheap_init
from tests.support.ports import free_port
from tests.support.relay import hear, relay_process

DJANGO = asgi("uvicorn", "django_app:app", TEST_DJANGO="asgi").with_options("--lifespan", "off")
FOUR_WORKERS = [
    wsgi("gunicorn").with_options("--workers", "4"),
    wsgi("gunicorn").with_options("--workers", "4", "--preload", "--threads", "2"),
    asgi("uvicorn").with_options("--workers", "4"),
]


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator.at(tmp_path / "controller")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a device will be."""
    return tmp_path / "target"


def statuses(server: Running, by: Device, count: int = 16) -> set[int]:
    return set(together(count, lambda n: call(server, "GET", f"/echo/{n}", by=by).status))


def only_identity(directory: Path) -> str:
    """The id of the one device in a directory."""
    assert len(list((directory / "keys").glob("*.key.json"))) == 1
    assert not list(directory.glob("backup-*"))
    return Home.open(Settings(directory)).identity.device_id


@pytest.mark.parametrize("program", FOUR_WORKERS, ids=["gunicorn", "preload", "uvicorn"])
def test_four_workers_and_one_token_are_one_device_that_announces_itself_once(
    program: Program, operator: Operator, target: Path
) -> None:
    controller = Device(operator.home)
    with held_relay(operator.home.key()) as (url, relay):
        token = operator.provision(url)
        program = program.with_options(AMESH_BOOTSTRAP_TOKEN=token)
        with running(program, target) as server:
            relay.wait_for(1)
            # Every worker has begun by then, and has had as long as its first attempt takes.
            end = time.monotonic() + 2
            while time.monotonic() < end:
                assert statuses(server, controller) == {200}
            assert len(relay.heard) == 1
            relay.release()
            wait_until_gone(target / "announce.json")
            assert statuses(server, controller) == {200}
        assert "Traceback" not in server.log.text
    assert relay.heard[0].target_public_key == amesh_public(target)
    only_identity(target)


def amesh_public(directory: Path) -> str:
    return str(json.loads((directory / "identity.json").read_text())["publicKey"])


def test_a_container_with_nothing_in_it(operator: Operator, tmp_path: Path) -> None:
    """No directory, no AUTH_MESH_DIR, an empty HOME; and a controller that waits, live."""
    empty = tmp_path / "root"
    empty.mkdir()
    with relay_process() as relay:
        token = operator.provision(relay.url, "web-1")
        program = asgi("uvicorn").with_options(
            HOME=str(empty), AUTH_MESH_DIR="", AMESH_BOOTSTRAP_TOKEN=token
        )
        with operator.watching() as watch, running(program, tmp_path / "nowhere") as server:
            recorded = watch.hears("recorded")
            assert watch.ends() == 0
            assert call(server, "GET", "/echo/x", by=Device(operator.home)).status == 200
            wait_until_gone(empty / ".amesh" / "announce.json")
    assert recorded["friendlyName"] == "web-1"
    assert recorded["proven"] is True
    assert recorded["deviceId"] == only_identity(empty / ".amesh")
    assert operator.targets() == [recorded["deviceId"]]
    assert stat.S_IMODE((empty / ".amesh").stat().st_mode) == 0o700
    assert not (tmp_path / "nowhere").exists()


READ_ONLY = """
import os, subprocess, sys
state, *command = sys.argv[1:]
for options in (["--bind", state, state], ["-o", "remount,bind,ro", "/"]):
    subprocess.run(["mount", *options], check=True)
os.execv(command[0], command)
"""


def test_a_root_that_cannot_be_written_and_a_state_directory_that_can(
    operator: Operator, tmp_path: Path
) -> None:
    """As with `docker run --read-only -v state:/state`, or systemd's ProtectSystem=strict."""
    state = tmp_path / "state"
    state.mkdir()
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    boxed = [*unshare, sys.executable, "-c", READ_ONLY, str(state), sys.executable]
    launcher = f"import os; os.execvp('unshare', {boxed!r} + ['-m'] + os.sys.argv[1:])"
    uvicorn = asgi("uvicorn")
    program = Program("uvicorn", ("-c", launcher, *uvicorn.arguments[1:]), ready=uvicorn.ready)
    with held_relay(operator.home.key()) as (url, relay):
        relay.release()
        token = operator.provision(url)
        program = program.with_options(
            AUTH_MESH_DIR=str(state / "amesh"), AMESH_BOOTSTRAP_TOKEN=token
        )
        with running(program, tmp_path / "elsewhere") as server:
            assert call(server, "GET", "/echo/x", by=Device(operator.home)).status == 200
            wait_until_gone(state / "amesh" / "announce.json")
    only_identity(state / "amesh")
    # The box is one: in any other place there can be no device.
    program = program.with_options(AUTH_MESH_DIR=str(tmp_path / "amesh"))
    with started(program, tmp_path / "elsewhere") as (process, log, _):
        assert process.wait(PATIENCE_SECONDS) != 0
        log.wait_for("Read-only file system")
    assert not (tmp_path / "amesh").exists()


def test_the_relay_is_down_at_first_and_up_later(operator: Operator, target: Path) -> None:
    port = free_port()
    token = operator.provision(f"ws://127.0.0.1:{port}/ws")
    program = asgi("uvicorn").with_options(AMESH_BOOTSTRAP_TOKEN=token)
    with running(program, target) as server:
        assert call(server, "GET", "/echo/x", by=Device(operator.home)).status == 200
        server.log.wait_for("cannot reach the relay")
        with relay_process("--port", str(port)), operator.watching() as watch:
            watch.hears("recorded")
            wait_until_gone(target / "announce.json")
    assert operator.targets() == [only_identity(target)]


def test_a_restart_goes_on_where_the_last_start_ended(operator: Operator, target: Path) -> None:
    """Killed while nobody answered, and started again without the token."""
    with held_relay(operator.home.key()) as (url, relay):
        token = operator.provision(url)
        with running(wsgi("gunicorn", AMESH_BOOTSTRAP_TOKEN=token), target) as server:
            relay.wait_for(1)
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait(PATIENCE_SECONDS)
        made = only_identity(target)
        assert (target / "announce.json").exists()
        with running(wsgi("gunicorn"), target):
            relay.wait_for(2)
            relay.release()
            wait_until_gone(target / "announce.json")
    assert only_identity(target) == made
    assert relay.heard[0] == relay.heard[1]


def test_two_machines_with_one_token(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused and shown; it tries again until the token ends, and is not listed."""
    cheap_init(monkeypatch)
    machines = [tmp_path / "first", tmp_path / "second"]
    with relay_process() as relay:
        token = operator.provision(relay.url)
        frames = [announcement(machine, token) for machine in machines]
        first, second = map(only_identity, machines)
        with operator.watching() as watch, ExitStack() as stack:
            # Both are at the relay before the controller gets to answer either.
            with watch.held():
                sockets = [stack.enter_context(connect(relay.url, proxy=None)) for _ in machines]
                for socket, frame in zip(sockets, frames, strict=True):
                    socket.send(wire.encode(frame))
                with connect(relay.url, proxy=None) as third:
                    third.send(wire.encode(wire.Listen("123456")))
                    assert hear(third) == wire.Ack()
            assert watch.hears("recorded")["deviceId"] == first
            assert watch.hears("used_twice")["deviceId"] == second
            assert isinstance(hear(sockets[0]), wire.BootstrapAcked)
            assert hear(sockets[1]) == wire.BootstrapReject(frames[1].jti, "token_already_used")
        refused = amesh(machines[1], "bootstrap", "--wait", "1")
    assert refused.status == 13
    assert "the token was used, by this device or another" in refused.err
    assert operator.targets() == [first]
    assert (machines[1] / "announce.json").exists()


def announcement(directory: Path, token: str) -> wire.BootstrapInit:
    """Make a device there, and return what it has to say."""
    create_from(FoundToken(token, "a test"), Settings(directory), time.time())
    file = announcing.read(directory)
    assert file is not None
    return file.frame


@pytest.mark.parametrize(
    ("program", "app"),
    [
        (asgi("uvicorn"), "asgi"),
        (wsgi("gunicorn").with_options("--preload"), "wsgi()"),
    ],
    ids=["uvicorn", "preload"],
)
def test_the_token_is_nowhere_afterwards(
    program: Program, app: str, operator: Operator, target: Path
) -> None:
    """Not in a file, a log at DEBUG, `os.environ`, or the environment of children started later."""
    arguments = tuple(
        f"tests.e2e.bootstrap_apps:{app}" if ":app" in argument else argument
        for argument in program.arguments
    )
    program = Program(program.name, arguments, program.environment, program.ready)
    with held_relay(operator.home.key()) as (url, relay):
        relay.release()
        token = operator.provision(url)
        with running(program.with_options(AMESH_BOOTSTRAP_TOKEN=token), target) as server:
            known = call(server, "GET", "/", by=Device(operator.home))
            assert known.status == 200
            wait_until_gone(target / "announce.json")
            relay.wait_for(1)
            argv = commands_of(server.process.pid)
    signature = token.rpartition(".")[2]
    assert "AUTH_MESH_DIR" in known.json["own"], "the app does show its environment"
    assert "AUTH_MESH_DIR" in known.json["child"]
    assert "AMESH_BOOTSTRAP_TOKEN" not in known.body.decode()
    assert signature not in known.body.decode()
    assert "this device is am_" in server.log.text, "the log is at DEBUG"
    assert signature not in server.log.text
    assert signature not in argv
    for path in target.rglob("*"):
        assert not path.is_file() or signature.encode() not in path.read_bytes()
    assert all(signature not in str(frame.token) + str(frame.mac) for frame in relay.heard)


def commands_of(pid: int) -> str:
    """The command lines of a process and its children."""
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # of a thread that has ended meanwhile
            children += map(int, path.read_text().split())
    return "".join(Path(f"/proc/{p}/cmdline").read_text() for p in [pid, *children])


@pytest.mark.parametrize(
    ("program", "code", "made_seconds_ago"),
    [
        (asgi("uvicorn"), "token_not_yet_valid", -120),
        (wsgi("gunicorn"), "token_expired", 3600),
        (wsgi("gunicorn", "flask_app:app"), "token_not_yet_valid", -120),
        (DJANGO, "token_expired", 3600),
    ],
    ids=["uvicorn", "gunicorn", "flask", "django"],
)
def test_a_bad_token_stops_the_start_with_its_code(
    program: Program, code: str, made_seconds_ago: int, target: Path
) -> None:
    token = token_of(now=time.time() - made_seconds_ago)
    program = program.with_options(AMESH_BOOTSTRAP_TOKEN=token)
    with started(program, target) as (process, log, _):
        assert process.wait(PATIENCE_SECONDS) != 0
        log.wait_for(code)
    assert token not in log.text
    assert not target.exists()
