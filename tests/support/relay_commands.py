"""Other ways to start a relay: without an optional package, impatient, from systemd's hands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

_RUN: Final = "from amesh_relay.__main__ import main\nsys.exit(main())\n"


def relay_without(*packages: str) -> list[str]:
    """A relay on a machine where these are not installed."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in packages)
    return [sys.executable, "-c", f"import sys\n{hidden}{_RUN}"]


def relay_with(**constants: float) -> list[str]:
    """A relay that waits for less long: `patience__HANDSHAKE_SECONDS=0.5`."""
    lines = []
    for name, value in constants.items():
        module, _, constant = name.partition("__")
        lines.append(f"import amesh_relay.{module} as module\nmodule.{constant} = {value!r}\n")
    return [sys.executable, "-c", "import sys\n" + "".join(lines) + _RUN]


_HAND_OVER: Final = """\
import os, socket, sys
family, where = sys.argv[1:3]
kind = socket.SOCK_DGRAM if family == "udp" else socket.SOCK_STREAM
passed = socket.socket(socket.AF_UNIX if family == "unix" else socket.AF_INET, kind)
passed.bind(where if family == "unix" else ("127.0.0.1", int(where)))
if family in ("unix", "tcp"):
    passed.listen()
if passed.fileno() != 3:
    os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "amesh_relay", *sys.argv[3:]])
"""


def relay_activated(family: str, where: str) -> Sequence[str]:
    """A relay that is handed a socket, as systemd does it: tcp, unix, or a wrong one."""
    return [sys.executable, "-c", _HAND_OVER, family, where]


# uvloop is in the development environment; the relay must be the same without it.
LOOPS: Final = {"uvloop": [sys.executable, "-m", "amesh_relay"], "asyncio": relay_without("uvloop")}
