"""Sockets to listen on: an address, a path, or what systemd hands over; and a word to systemd.

Of those that were accepted, who is at the other end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, cast

from amesh_core.errors import UsageError
from amesh_relay.addresses import NOWHERE, Address, plain

BACKLOG: Final = 4096
# What the kernel may hold for a connection, each way. A ceremony sends a few KiB; by default
# every stalled connection could pin megabytes.
KERNEL_BUFFER_BYTES: Final = 65536
_FIRST_PASSED_FILE: Final = 3  # sd_listen_fds(3)
_PROBE_SECONDS: Final = 1.0


def bind(host: str | None, port: int) -> socket.socket:
    """Listen on `host`, or on all addresses; one socket serves IPv4 and IPv6 where it can.

    Raises:
        UsageError: no such host, no such address here, port taken or not permitted.
    """
    where = f"{host or 'all addresses'} port {port}"
    try:
        return _sized(_listener(host, port))
    except socket.gaierror as error:
        raise _cannot_listen(where, str(error.strerror)) from error
    except OSError as error:
        raise _cannot_listen(where, os.strerror(error.errno or 0)) from error
    except UnicodeError as error:
        raise _cannot_listen(where, "not a host name") from error


def bind_path(path: Path) -> socket.socket:
    """Listen on a Unix socket; one that a killed relay left behind is replaced.

    Raises:
        UsageError: the path cannot be used, or another relay listens there.
    """
    where = str(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            if _is_in_use(where):
                raise _cannot_listen(where, "another process listens there")
            path.unlink(missing_ok=True)
        listener.bind(where)
        # The proxy in front is usually of the same group, not the same user.
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(where, error.strerror or str(error)) from error
    except UsageError:
        listener.close()
        raise
    return _sized(listener)


def peer(name: object) -> Address:
    """The other end of a socket, by the name that the system has for it."""
    # A Unix socket has no such name, nor on macOS a peer that is gone already.
    if not isinstance(name, tuple):
        return NOWHERE
    host: str = name[0]
    # The system's own reader takes a fifth of the time of `ip_address`.
    if ":" not in host:
        return IPv4Address(socket.inet_pton(socket.AF_INET, host))
    host = host.partition("%")[0]  # after it, the link of an address that is good for one only
    return plain(IPv6Address(socket.inet_pton(socket.AF_INET6, host)))


def passed(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The sockets that systemd opened for this process (socket activation); mostly none.

    Raises:
        UsageError: what was handed over is no listening socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return []
    listeners = []
    for number in range(_FIRST_PASSED_FILE, _FIRST_PASSED_FILE + int(count)):
        try:
            listener = socket.socket(fileno=number)
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise _cannot_listen(f"file descriptor {number}", error.strerror or "") from error
        if not listens or listener.type != socket.SOCK_STREAM:
            raise _cannot_listen(f"file descriptor {number}", "it is no listening socket")
        listeners.append(_sized(listener))
    return listeners


def url(listener: socket.socket, *, tls: bool = False) -> str:
    """Where devices find the relay that listens on `listener`; for a Unix socket, its path."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    scheme = "wss" if tls else "ws"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}/ws" if ":" in host else f"{scheme}://{host}:{port}/ws"


def notify(environ: Mapping[str, str], *lines: str) -> None:
    """Tell systemd how we are (sd_notify(3)); nothing happens where nobody wants to know."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # It may be gone, or too busy to listen; a service goes on without, and does not wait.
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to,
    ):
        to.setblocking(False)
        to.connect(address)
        to.sendall("\n".join(lines).encode())


def _is_in_use(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Somebody with a full queue is there, too, and would let us wait.
        probe.settimeout(_PROBE_SECONDS)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def _cannot_listen(where: str, reason: str) -> UsageError:
    return UsageError(f"cannot listen on {where}: {reason.lower()}")


def _listener(host: str | None, port: int) -> socket.socket:
    if host in (None, "", "::"):
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(cast(tuple[str, int], address), family=family, backlog=BACKLOG)


def _sized(listener: socket.socket) -> socket.socket:
    # Accepted sockets inherit it.
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        listener.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
    return listener
