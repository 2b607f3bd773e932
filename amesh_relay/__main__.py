"""`python -m amesh_relay`, `amesh-relay`: run a relay until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from amesh_core.errors import UsageError
from amesh_relay import config, streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run the relay; prints `listening on ws://HOST:PORT/ws` once devices can connect.

    Returns the exit status: 0 stopped by a signal, or the settings are in
    order; 1 something that they name cannot be used.
    """
    streams.open_missing()
    reading = config.read(argv, os.environ)
    settings = reading.config
    # Here and not above: `--help` and a wrong option need no sockets, and no 100 ms for them.
    from amesh_relay import process

    try:
        if reading.check_only:
            process.check(settings, os.environ)
            streams.say("the settings are in order")
            return 0
        relay = process.Process(settings, argv, os.environ)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        if str(error).startswith("cannot listen") and " port " in str(error) and not settings.unix:
            sys.stderr.write(f"hint: {_way_out(str(error))}\n")
        return 1
    relay.run()
    return 0


def _way_out(problem: str) -> str:
    if problem.endswith("permission denied"):
        return (
            "ports below 1024 are root's: let a proxy or systemd's amesh-relay.socket listen there,"
            " or choose another --port"
        )
    return "choose another --host or --port"


if __name__ == "__main__":
    sys.exit(main())
