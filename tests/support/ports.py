"""Ports for programs that have to be told where to listen."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

# Below those that Linux (32768) and others (49152) give to connections that go out and to whoever
# asks for port 0, so that none is taken between our look and the start of the program. A Redis
# cluster listens 10 000 above as well, which is below them, too.
_ALL: Final = range(10_000, 20_000)


def _ports() -> Iterator[int]:
    """All of this process's, in an order of its own; those of other workers are others."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ours = _ALL[worker % workers :: workers]
    return itertools.cycle(random.sample(ours, len(ours)))


_OURS: Final = _ports()


def free_port() -> int:
    """A port at which nobody listens, and which nobody else is told."""
    for port in _OURS:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError
