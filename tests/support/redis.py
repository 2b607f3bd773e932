"""A real Redis of one's own: on a free port, in memory, gone afterwards."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.ports import free_port

PATIENCE_SECONDS: Final = 20


class RedisServer:
    """`redis-server` in a directory, which can be killed and started again at the same place."""

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        assert program, "these tests need Redis (Debian: apt-get install redis-server)"
        self._program = program
        self.directory = directory
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT"""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        """Where it listens as well."""
        return self.directory / "redis.sock"

    def start(self) -> None:
        """Start it empty, and return when it takes connections."""
        command = [
            *(self._program, "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", *self._options),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ready to accept connections" in line or "accept connections at" in line:
                return
        raise AssertionError(f"redis-server did not start: {''.join(said)}")

    def kill(self) -> None:
        """SIGKILL, as a machine that loses its power."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs, instead of dying: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def run(self, *command: str) -> str:
        """What `redis-cli` answers."""
        return subprocess.run(
            ["redis-cli", "-s", str(self.socket), *command],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_SECONDS,
        ).stdout.strip()


@contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[RedisServer]:
    """A running Redis with more `redis.conf` options, as `--name value`."""
    server = RedisServer(directory, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
