"""`amesh listen --serve`: a relay of our own for as long as one meeting."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from amesh_core.errors import RelayUnreachable, UsageError

# Any address beyond this network: asking for the way to it sends nothing (RFC 5737, RFC 3849).
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

# A relay faces the network, and needs none of them.
_SECRETS: Final = ("AUTH_MESH_PASSPHRASE", "AMESH_BOOTSTRAP_TOKEN", "AMESH_RELAY_TOKEN")


def parse_place(text: str) -> tuple[str | None, int]:
    """Read `[HOST:]PORT`; without a host (None) it is every address of this machine.

    Raises:
        UsageError: another form, or no such port.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]:|([^:\s\[\]]+):)?([0-9]{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise UsageError("--serve takes [HOST:]PORT, for example 3001 or 192.168.1.5:3001")
    return found[1] or found[2], int(found[3])


def environment() -> dict[str, str]:
    """What a relay of ours is told of this process's environment."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}


@contextlib.contextmanager
def own_relay(place: str) -> Iterator[tuple[str, str]]:
    """Run a relay; gives its URL from here and its URL from the other machine.

    Raises:
        UsageError: not a place to listen at.
        RelayUnreachable: the relay could not start there; its own words say why.
    """
    host, port = parse_place(place)
    relay = subprocess.Popen(
        [
            # It stops when its standard input ends, so it does not outlive us if we are killed.
            *(sys.executable, "-m", "amesh_relay", "--stop-on-eof", "--log-level", "error"),
            *(("--host", host) if host else ()),
            *("--port", str(port)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # Ctrl-C is for us: the peer is told before the relay goes
    )
    with relay:
        try:
            announced = relay.stdout.readline() if relay.stdout else ""
            listening = re.search(r":([0-9]+)/ws$", announced.strip())
            if listening is None:
                _, said = relay.communicate(timeout=10)
                reason = re.search("error: (.*)", said)
                raise RelayUnreachable(place, reason[1] if reason else "it did not start")
            port = int(listening[1])
            yield _url(host or "127.0.0.1", port), _url(host or _address_for_others(), port)
        finally:
            relay.terminate()


def _url(host: str, port: int) -> str:
    return f"ws://[{host}]:{port}/ws" if ":" in host else f"ws://{host}:{port}/ws"


def _address_for_others() -> str:
    """The address of this machine that others on its network see, as far as it can know."""
    for family, elsewhere in _ELSEWHERE:
        with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            try:
                probe.connect((elsewhere, 9))
            except OSError:  # no network of this family
                continue
            return str(probe.getsockname()[0])
    return socket.gethostname()
