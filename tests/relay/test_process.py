"""`python -m amesh_relay` as operators and other programs meet it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from amesh_core.errors import UsageError
from amesh_core.wire import relay as wire
from amesh_relay import sockets
from amesh_relay.__main__ import main
from tests.support.asgi import Served
from tests.support.proxy import wait_until_it_listens
from tests.support.relay import (
    RelayProcess,
    bystanders,
    hear,
    raw_connection,
    raw_websocket,
    relay_process,
    relay_url,
)


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a relay that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "amesh_relay", *argv],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


def test_two_devices_meet() -> None:
    with relay_process() as relay, bystanders(relay) as devices:
        devices.check()
        devices.controller.send(wire.encode(wire.Done()))
        assert hear(devices.target) == wire.Done()
        for device in (devices.target, devices.controller):
            with pytest.raises(ConnectionClosed) as closed:
                device.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1000


def test_the_helper_for_other_tests() -> None:
    with relay_url() as url, connect(url, proxy=None) as device:
        device.send(wire.encode(wire.Listen("123456")))
        assert hear(device) == wire.Ack()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    with relay_process() as relay, bystanders(relay) as devices:
        relay.process.send_signal(number)
        assert relay.wait() == 0
        for device in (devices.target, devices.controller):
            with pytest.raises(ConnectionClosed) as closed:
                device.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert "Traceback" not in relay.log()


def test_it_stops_though_somebody_does_not_answer() -> None:
    """Nor to the close frame, nor ever to anything."""
    with relay_process() as relay, raw_websocket(relay), raw_connection(relay):
        began = time.monotonic()
        relay.process.terminate()
        assert relay.wait() == 0
        assert time.monotonic() - began < 10


def test_it_stops_with_the_program_that_started_it() -> None:
    with relay_process() as relay:
        assert relay.process.stdin is not None
        relay.process.stdin.write("not the end yet\n")
        relay.process.stdin.flush()
        with bystanders(relay) as devices:
            devices.check()
        relay.process.stdin.close()
        assert relay.wait() == 0


def test_standard_input_that_has_ended_stops_it_at_once() -> None:
    done = run("--host", "127.0.0.1", "--port", "0", "--stop-on-eof", stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert done.stdout.startswith("listening on ws://127.0.0.1:")


def test_health() -> None:
    with relay_process() as relay, bystanders(relay):
        answer = httpx2.get(f"http://{relay.host}:{relay.port}/health")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == {"status": "ok", "connections": 2, "sessions": 1}
        assert httpx2.get(f"http://{relay.host}:{relay.port}/health?probe=1").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/", 404), ("/healthz", 404), ("/ws/", 404), ("/ws", 426)]
)
def test_other_requests(path: str, status: int) -> None:
    with relay_process() as relay:
        assert httpx2.get(f"http://{relay.host}:{relay.port}{path}").status_code == status
        assert "Traceback" not in relay.log()


def test_a_port_that_is_taken() -> None:
    with relay_process() as relay:
        done = run("--host", "127.0.0.1", "--port", str(relay.port))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {relay.port}: address already in use\n"
        "hint: choose another --host or --port\n"
    )


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("permission denied", "hint: ports below 1024 are root's: let a proxy or systemd's"),
        ("address already in use", "hint: choose another --host or --port\n"),
    ],
)
def test_the_way_out_of_a_port_that_is_not_ours(
    reason: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As whoever runs the tests may be root, which may use every port."""

    def bind(host: str | None, port: int) -> socket.socket:
        raise UsageError(f"cannot listen on {host} port {port}: {reason}")

    monkeypatch.setattr(sockets, "bind", bind)
    assert main(["--host", "127.0.0.1", "--port", "443"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: cannot listen on 127.0.0.1 port 443: {reason}\n{hint}")


def closing(*descriptors: int) -> list[str]:
    """A command that starts a relay without some of its standard streams."""
    script = (
        "import os, sys\n"
        f"for number in {descriptors}: os.close(number)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'amesh_relay', *sys.argv[1:]])\n"
    )
    return [sys.executable, "-c", script]


def test_a_relay_without_standard_streams() -> None:
    """No file or socket takes their place, and it works."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [*closing(0, 1, 2), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(argv) as relay:
        try:
            wait_until_it_listens(Served("127.0.0.1", port), relay)
            assert httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
            places = {str(Path(f"/proc/{relay.pid}/fd/{number}").readlink()) for number in range(3)}
            assert places == {os.devnull}
            relay.terminate()
            assert relay.wait(30) == 0
        finally:
            relay.kill()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_settings_are_checked_without_standard_streams(closed: tuple[int, ...]) -> None:
    done = subprocess.run(
        [*closing(*closed), "--check-config"], capture_output=True, timeout=30, check=False
    )
    said = b"" if 1 in closed else b"the settings are in order\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, b"")


def test_standard_input_that_is_closed_has_ended() -> None:
    done = subprocess.run(
        [*closing(0), "--host", "127.0.0.1", "--port", "0", "--stop-on-eof"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a device")
@pytest.mark.parametrize("kind", ["full", "a pipe that nobody reads"])
def test_nobody_hears_where_it_listens(kind: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    if kind == "full":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "amesh_relay", "--host", "127.0.0.1", "--port", str(port)]
    # Else nothing would wait to be written at the end.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(argv, stdout=writing, stderr=subprocess.PIPE, env=environ) as relay:
        os.close(writing)
        try:
            wait_until_it_listens(Served("127.0.0.1", port), relay)
            assert httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
            relay.terminate()
            _, said = relay.communicate(timeout=30)
            assert (relay.returncode, b"Traceback" in said) == (0, False)
        finally:
            relay.kill()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "::ffff:0:0:0", "x" * 300])
def test_a_host_that_is_not_here(host: str) -> None:
    done = run("--host", host, "--port", "0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: cannot listen on {host} port 0: ")
    assert done.stderr.count("\n") == 2


def test_a_wrong_option() -> None:
    done = run("--port", "http")
    assert done.returncode == 2
    assert "argument --port: 'http' is not a port" in done.stderr


def connectable(relay: RelayProcess, host: str) -> bool:
    try:
        with socket.create_connection((host, relay.port), timeout=10):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", ""])
def test_all_addresses_are_ipv4_and_ipv6(host: str) -> None:
    with relay_process(host=host) as relay:
        assert relay.url == f"ws://[::]:{relay.port}/ws"
        assert connectable(relay, "127.0.0.1")
        assert connectable(relay, "::1")


def test_one_address_is_one_address() -> None:
    with relay_process(host="127.0.0.1") as relay:
        assert connectable(relay, "127.0.0.1")
        assert not connectable(relay, "::1")


def test_clients_of_both_kinds_are_told_apart() -> None:
    """On a dual-stack socket IPv4 clients come in IPv6 dress, all from one /64."""
    with relay_process("--max-connections-per-address", "1", host="") as relay, ExitStack() as up:
        for host in ("127.0.0.1", "127.0.0.2"):
            url = f"ws://127.0.0.1:{relay.port}/ws"
            device = up.enter_context(connect(url, source_address=(host, 0), proxy=None))
            device.send(wire.encode(wire.Listen(f"00000{host[-1]}")))
            assert hear(device) == wire.Ack()


def limited(soft: int, hard: int) -> list[str]:
    """A command that starts a relay with limits of open files."""
    script = (
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'amesh_relay', *sys.argv[1:]])\n"
    )
    return [sys.executable, "-c", script]


def test_it_raises_its_own_limit_of_open_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    options = ("--max-connections", "200", "--max-connections-per-address", "200")
    with relay_process(*options, command=limited(64, hard)) as relay, ExitStack() as opened:
        for _ in range(150):
            opened.enter_context(raw_websocket(relay))
        answer = httpx2.get(f"http://{relay.host}:{relay.port}/health")
        assert answer.json()["connections"] == 150


def test_too_few_open_files_are_said() -> None:
    with relay_process(command=limited(256, 256)) as relay, bystanders(relay) as devices:
        devices.check()
        assert "room for only 256 open files, 11032 wanted" in relay.log()


def test_help_loads_no_sockets() -> None:
    script = (
        "import sys\n"
        "from amesh_relay.__main__ import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'asyncio', 'websockets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
