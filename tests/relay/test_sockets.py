"""Where a relay listens besides an address, and what it tells systemd."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import ClientConnection, unix_connect

from amesh_core.errors import UsageError
from amesh_core.wire import relay as wire
from amesh_relay import sockets
from tests.support.relay import TEXT, RelayProcess, bystanders, frame, hear, relay_process
from tests.support.relay_commands import LOOPS, relay_activated


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def device(path: Path, client: str = "") -> ClientConnection:
    """A device as a proxy on the same machine passes it on."""
    headers = {"X-Forwarded-For": client} if client else {}
    return unix_connect(str(path), "ws://relay/ws", additional_headers=headers)


def listens(path: Path, otc: str, client: str = "") -> wire.RelayFrame:
    with device(path, client) as target:
        target.send(wire.encode(wire.Listen(otc)))
        return hear(target)


# --- who is there -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("192.0.2.1", 4711), "192.0.2.1"),
        (("2001:db8::7", 4711, 0, 0), "2001:db8::7"),
        (("::ffff:192.0.2.1", 4711, 0, 0), "192.0.2.1"),  # of a socket for both
        (("fe80::1%eth0", 4711, 0, 2), "fe80::1"),
        ("", "::"),  # of a Unix socket
        (None, "::"),
    ],
)
def test_the_other_end_of_a_socket(name: object, address: str) -> None:
    assert sockets.peer(name) == ip_address(address)


# --- a path -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_two_devices_meet_at_a_path(directory: Path, command: Sequence[str]) -> None:
    path = directory / "socket"
    with relay_process("--unix", str(path), host="", command=command) as relay:
        assert relay.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with device(path) as target, device(path) as controller:
            target.send(wire.encode(wire.Listen("123456")))
            assert hear(target) == wire.Ack()
            controller.send(wire.encode(wire.Connect("123456")))
            assert hear(target) == hear(controller) == wire.PeerFound()
            controller.send(wire.encode(wire.Data("payload")))
            assert hear(target) == wire.Data("payload")
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as http:
            assert http.get("http://relay/health").json()["status"] == "ok"
        relay.process.terminate()
        assert relay.wait() == 0
        assert "Traceback" not in relay.log()
    assert not path.exists()


def test_the_proxy_behind_a_path_is_believed(directory: Path) -> None:
    path = directory / "socket"
    options = ("--unix", str(path), "--max-connections-per-address", "1")
    with (
        relay_process(*options, host=""),
        device(path, "198.51.100.1") as one,
        device(path, "spoofed, 198.51.100.2") as two,
    ):
        for number, opened in enumerate((one, two)):
            opened.send(wire.encode(wire.Listen(f"00000{number}")))
            assert hear(opened) == wire.Ack()
        for client in ("198.51.100.1", "198.51.100.2"):
            with device(path, client) as again:
                assert hear(again) == wire.RelayErrorFrame("too_many_connections")


def test_the_path_of_a_relay_that_was_killed_is_taken_over(directory: Path) -> None:
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with relay_process("--unix", str(path), host=""):
        assert listens(path, "123456") == wire.Ack()


def relay(*argv: str) -> subprocess.CompletedProcess[str]:
    """A relay that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "amesh_relay", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_path_of_the_next_relay_is_not_removed(directory: Path) -> None:
    """One may start while another still says goodbye to devices that do not answer."""
    path = directory / "socket"
    with (
        relay_process("--unix", str(path), host="") as old,
        device(path) as target,
        socket.socket(socket.AF_UNIX) as deaf,
    ):
        target.send(wire.encode(wire.Listen("123456")))
        assert hear(target) == wire.Ack()
        deaf.connect(str(path))
        deaf.sendall(
            b"GET /ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert deaf.recv(4096).startswith(b"HTTP/1.1 101 ")
        deaf.sendall(frame(TEXT, wire.encode(wire.Connect("123456")).encode()))
        assert hear(target) == wire.PeerFound()
        old.process.terminate()
        until = time.monotonic() + 20
        while path.exists():
            assert time.monotonic() < until
        with pytest.raises(subprocess.TimeoutExpired):  # it still waits for an answer
            old.process.wait(0.5)
        with relay_process("--unix", str(path), host=""):
            assert old.wait() == 0
            assert listens(path, "123456") == wire.Ack()


def test_the_path_of_a_relay_that_lives_is_not(directory: Path) -> None:
    path = directory / "socket"
    with relay_process("--unix", str(path), host=""):
        second = relay("--unix", str(path))
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == f"error: cannot listen on {path}: another process listens there\n"
        assert listens(path, "123456") == wire.Ack()


def test_a_relay_that_is_too_busy_to_accept_lives(directory: Path) -> None:
    """Its queue is full, so that who asks whether it is there waits for an answer."""
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = []
        for _ in range(8):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(path)
        with pytest.raises(UsageError, match="another process listens there"):
            sockets.bind_path(Path(path))
        for one in waiting:
            one.close()


@pytest.mark.parametrize("kind", ["file", "datagram", "directory", "long", "nowhere"])
def test_a_path_that_is_none_for_us(directory: Path, kind: str) -> None:
    path = directory / "socket"
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    match kind:
        case "file":
            path.write_text("somebody's data")
        case "datagram":
            other.bind(str(path))
        case "directory":
            path = directory
        case "long":
            path = directory / ("x" * 120)
        case _:
            path = directory / "no" / "socket"
    with other, pytest.raises(UsageError, match="cannot listen on "):
        sockets.bind_path(path)
    if kind == "file":
        assert path.read_text() == "somebody's data"


# --- what systemd hands over ------------------------------------------------------------


def test_a_socket_that_was_handed_over() -> None:
    # Not where the settings say, which is a port that is taken.
    with (
        relay_process() as other,
        relay_process("--port", str(other.port), command=relay_activated("tcp", "0")) as relay,
        bystanders(relay) as pair,
    ):
        pair.check()
        assert relay.port != other.port


def test_a_path_that_was_handed_over_stays_and_its_proxy_is_believed(directory: Path) -> None:
    path = directory / "socket"
    command = relay_activated("unix", str(path))
    with relay_process("--max-connections-per-address", "1", command=command) as relay:
        assert relay.url == f"unix:{path}"
        with device(path, "198.51.100.1") as one:
            one.send(wire.encode(wire.Listen("000001")))
            assert hear(one) == wire.Ack()
            assert listens(path, "000002", "198.51.100.2") == wire.Ack()
    assert path.exists(), "it is systemd's to remove"


def test_something_else_that_was_handed_over() -> None:
    for family in ("udp", "not-listening"):
        done = subprocess.run(
            [*relay_activated(family, "0")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot listen on file descriptor 3: ")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "2", "LISTEN_FDS": ""},
        {"LISTEN_PID": "2", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "2", "LISTEN_FDS": "0"},
        {"LISTEN_PID": "2"},
    ],
)
def test_nothing_was_handed_over(environ: dict[str, str]) -> None:
    """To this process, that is: the variables may be a parent's."""
    assert sockets.passed(environ, 2) == []


# --- what systemd is told ---------------------------------------------------------------


def told(systemd: socket.socket, wanted: str) -> list[str]:
    """The lines of the next message that begins so."""
    systemd.settimeout(20)
    while True:
        lines = systemd.recv(4096).decode().split("\n")
        if lines[0] == wanted:
            return lines


def life(relay: RelayProcess, systemd: socket.socket) -> None:
    """What a service manager hears of a relay."""
    told(systemd, "READY=1")
    told(systemd, "WATCHDOG=1")
    relay.process.send_signal(signal.SIGHUP)
    _, stamp = told(systemd, "RELOADING=1")
    name, _, microseconds = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert int(microseconds) > 0
    told(systemd, "READY=1")
    relay.process.terminate()
    told(systemd, "STOPPING=1")
    assert relay.wait() == 0


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_how_it_goes(directory: Path, is_abstract: bool) -> None:
    name = f"@amesh-{os.getpid()}" if is_abstract else str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        with relay_process(variables={"NOTIFY_SOCKET": name}) as relay:
            life(relay, systemd)


def test_a_systemd_that_does_not_listen_holds_nobody_up(directory: Path) -> None:
    name = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        for _ in range(1000):  # until its queue is full, and then on
            sockets.notify({"NOTIFY_SOCKET": name}, "WATCHDOG=1")
        systemd.setblocking(False)
        heard = 0
        with suppress(BlockingIOError):
            while systemd.recv(4096):
                heard += 1
        assert 0 < heard < 1000
    sockets.notify({"NOTIFY_SOCKET": name}, "WATCHDOG=1")  # it is gone
    sockets.notify({"NOTIFY_SOCKET": "vsock:2:1"}, "WATCHDOG=1")  # of a kind we do not speak
