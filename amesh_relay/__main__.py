"""`python -m amesh_relay`, `amesh-relay`: run a relay until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from amesh_core.errors import UsageError
from amesh_relay import config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the relay; prints `listening on ws://HOST:PORT/ws` once devices can connect.

    Returns the exit status: 0 stopped by a signal, 1 cannot listen.
    """
    reading = config.read(argv, os.environ)
    if reading.check_only:
        sys.stdout.write("the settings are in order\n")
        return 0
    settings = reading.config
    # Here and not above: `--help` and a wrong option need no sockets, and no 100 ms for them.
    from amesh_relay.process import Process

    try:
        process = Process(settings, argv, os.environ)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        if "listen" in str(error):
            sys.stderr.write("hint: choose another --host or --port\n")
        return 1
    process.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
