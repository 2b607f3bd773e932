"""Whether this process is one of several that serve one app, as far as it can know.

A server does not tell an ASGI app how many workers it has. What can be known without a guess
is the command line, which a spawned or forked worker inherits, and the variable that uvicorn
and gunicorn read in its place. Not seen: configuration files, several servers behind a
balancer, several machines. WSGI servers say `wsgi.multiprocess` with every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Final

# Whose options mean what we take them for; and whether WEB_CONCURRENCY is the default.
_SERVERS: Final[Mapping[str, bool]] = {
    "uvicorn": True,
    "gunicorn": True,
    "fastapi": True,
    "hypercorn": False,
    "granian": False,
}


def announced_workers(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """How many processes the server that runs this one was told to start; 1 if nobody says."""
    server = _server(argv[0]) if argv else ""
    if server not in _SERVERS:
        return 1
    options = list(argv[1:])
    for option, following in zip(options, [*options[1:], ""], strict=True):
        name, _, value = option.partition("=")
        if name in ("--workers", "-w"):
            return _count(value or following)
        if option.startswith("-w") and option[2:].isdecimal():
            return _count(option[2:])
    return _count(environ.get("WEB_CONCURRENCY", "")) if _SERVERS[server] else 1


def _server(program: str) -> str:
    path = PurePath(program)
    # `python -m uvicorn` is .../uvicorn/__main__.py
    return path.parent.name if path.name == "__main__.py" else path.stem


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 1
