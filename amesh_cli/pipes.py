"""Bytes in and out of a command: bodies, and what is piped into it."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from amesh_core.errors import UsageError

if TYPE_CHECKING:
    import asyncio

INPUT_ENDED: Final = "the input ended before the question was answered"

# All but tab and line end: what a server sends must not drive a terminal.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


class Output:
    """Bytes as they are, on stdout or in a file; a terminal is shown no control characters."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # A character may be split between two pieces.
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        """Pass on one piece."""
        if self._file.isatty():
            data = _CONTROLS.sub(_escaped, self._decoder.decode(data)).encode()
        self._file.write(data)

    def end(self) -> None:
        """See that all of it is out."""
        self._file.flush()


def stdout() -> Output:
    """Where a body goes that nobody names a file for."""
    return Output(sys.stdout.buffer)


def end_stdout() -> None:
    """Close stdout for who reads it, and go on; what is printed later goes nowhere."""
    sys.stdout.flush()
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def stdin(limit: int = -1) -> bytes:
    """All that is piped into the command, or its first `limit` bytes."""
    return sys.stdin.buffer.read(limit)


async def read_line() -> str:
    """Read one line from stdin without a thread, so that waiting for it can be cancelled.

    Raises:
        UsageError: stdin ended.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    line: asyncio.Future[bytes] = loop.create_future()
    received = bytearray()

    def readable() -> None:
        # A byte at a time, so that what follows the line stays for the next question.
        byte = os.read(descriptor, 1)
        received.extend(byte)
        if byte in (b"", b"\n") and not line.done():
            line.set_result(bytes(received))

    try:
        loop.add_reader(descriptor, readable)
    except PermissionError:  # a regular file is always readable and cannot be polled
        while not line.done():
            readable()
    try:
        text = (await line).decode("utf-8", "replace")
    finally:
        with contextlib.suppress(PermissionError):
            loop.remove_reader(descriptor)
    if not text:
        raise UsageError(INPUT_ENDED)
    return text.strip()


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
