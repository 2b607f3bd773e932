"""What the relay needs of the operating system: a port, file descriptors, signals."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from typing import Final, cast

from amesh_core.errors import UsageError
from amesh_relay.config import Config
from amesh_relay.server import BACKLOG, Relay

log: Final = logging.getLogger("amesh.relay")

# What the kernel may hold for a connection, each way. A ceremony sends a few KiB; by default
# every stalled connection could pin megabytes.
KERNEL_BUFFER_BYTES: Final = 65536
# Standard streams, the listener, the event loop's own.
OTHER_FILES: Final = 32


def bind(host: str | None, port: int) -> socket.socket:
    """Listen on `host`, or on all addresses; one socket serves IPv4 and IPv6 where it can.

    Raises:
        UsageError: no such host, no such address here, port taken or not permitted.
    """
    where = f"{host or 'all addresses'} port {port}"
    try:
        return _listener(host, port)
    except socket.gaierror as error:
        raise _cannot_listen(where, str(error.strerror)) from error
    except OSError as error:
        raise _cannot_listen(where, os.strerror(error.errno or 0)) from error
    except UnicodeError as error:
        raise _cannot_listen(where, "not a host name") from error


def _cannot_listen(where: str, reason: str) -> UsageError:
    return UsageError(f"cannot listen on {where}: {reason.lower()}")


def _listener(host: str | None, port: int) -> socket.socket:
    if host in (None, "::"):
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        listener = socket.create_server(
            ("", port), family=family, backlog=BACKLOG, dualstack_ipv6=dual
        )
    else:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(
            cast(tuple[str, int], address), family=family, backlog=BACKLOG
        )
    # Accepted sockets inherit it.
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        listener.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
    return listener


def url(listener: socket.socket) -> str:
    """Where devices find the relay that listens on `listener`."""
    host, port = listener.getsockname()[:2]
    return f"ws://[{host}]:{port}/ws" if ":" in host else f"ws://{host}:{port}/ws"


def run(config: Config, listener: socket.socket) -> None:
    """Run a relay until it is told to stop; see `serve`. Logs to standard error."""
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    with listener:
        asyncio.run(serve(config, listener))


async def serve(config: Config, listener: socket.socket) -> None:
    """Run a relay until SIGTERM, SIGINT or, if so configured, the end of standard input."""
    relay = Relay(config, time.monotonic)
    _allow_files(relay.max_sockets + OTHER_FILES)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if config.stop_on_eof:
        _stop_on_eof(loop, stop)
    await relay.run(listener, stop, started=lambda: _say_where(listener))


def _say_where(listener: socket.socket) -> None:
    # The one line on standard output; programs that start a relay read the port from it.
    sys.stdout.write(f"listening on {url(listener)}\n")
    sys.stdout.flush()


def _stop_on_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    try:
        loop.add_reader(descriptor, readable)
    except PermissionError:
        stop.set()  # /dev/null or a file: it has ended already


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, which is often 1024, as far as it may go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a further limit below the hard one
        allowed = soft
    if allowed < wanted:
        log.warning("room for only %d open files, %d wanted", allowed, wanted)
