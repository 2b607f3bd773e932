"""Standard streams that may be missing, full or read by nobody any more.

Whoever starts services may close them. The next file that is opened would then take the place of
one, and what is written there would go to a device; and Python has None for a closed one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

_OUTPUT: Final = 1


def open_missing() -> None:
    """Put /dev/null in the place of those that are closed; before any other file is opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free, and so the one of this stream.
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def say(line: str) -> None:
    """Write a line to standard output; a relay works also where nobody reads it."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        # What could not be written would be tried again at the end, and be an error then.
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _OUTPUT)
            os.close(nowhere)
