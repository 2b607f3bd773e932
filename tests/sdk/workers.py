"""A service as it is deployed: uvicorn with several worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.asgi import PATIENCE_SECONDS, Served
from tests.support.cli import environment


@dataclass(frozen=True)
class Workers(Served):
    """Where it listens, and what it has written."""

    log: list[str] = field(default_factory=list)


@contextmanager
def uvicorn_workers(
    program: str, directory: Path, identity: Path, number: int, **env: str
) -> Iterator[Workers]:
    """`program`, a module with an `app`, in `number` processes that are all ready."""
    (directory / "service.py").write_text(program)
    command = [sys.executable, "-m", "uvicorn", "service:app", "--app-dir", str(directory)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--workers", str(number), "--no-access-log"],
        env=environment(identity, PYTHONPATH=os.pathsep.join(sys.path), **env),
        stderr=subprocess.PIPE,
        text=True,
    )
    log: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            whole = "".join(log)
            if whole.count("Application startup complete") == number and "running on" in whole:
                ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(PATIENCE_SECONDS * number), "".join(log)
        (running,) = [line for line in log if "running on" in line]
        url = urlsplit(running.split("running on ")[1].split(" ")[0])
        yield Workers(str(url.hostname), url.port or 0, log)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        reader.join(PATIENCE_SECONDS)
        assert process.stderr is not None
        process.stderr.close()
