"""`python -m amesh_relay`, `amesh-relay`: run a relay until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from amesh_core.errors import UsageError
from amesh_relay import config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the relay; prints `listening on ws://HOST:PORT/ws` once devices can connect.

    Returns the exit status: 0 stopped by a signal, or the settings are in
    order; 1 something that they name cannot be used.
    """
    reading = config.read(argv, os.environ)
    settings = reading.config
    # Here and not above: `--help` and a wrong option need no sockets, and no 100 ms for them.
    from amesh_relay import process

    try:
        if reading.check_only:
            process.check(settings)
            sys.stdout.write("the settings are in order\n")
            return 0
        relay = process.Process(settings, argv, os.environ)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        if str(error).startswith("cannot listen") and not settings.unix:
            sys.stderr.write("hint: choose another --host or --port\n")
        return 1
    relay.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
