"""What holds for every test."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from amesh_core.keystore import tpm2
from tests.support.turns import Turns

_MOST_WORKERS: Final = 16  # each has some servers at a time
_DIRECTORY: Final = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
_TURNS: Final = pytest.StashKey[Turns]()


@pytest.fixture(autouse=True)
def not_the_chip_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is made without naming a back end would leave traces in it."""
    monkeypatch.setattr(tpm2, "DEVICE", "/dev/no-such-tpm")
    for name in ("AMESH_TPM_TCTI", "TPM2TOOLS_TCTI"):
        monkeypatch.delenv(name, raising=False)


def pytest_sessionstart() -> None:
    """Ctrl-C stops what we start, though a shell that runs us in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# --- several workers, as `make test` has them -------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: half of what a test does is wait for programs that start and end."""
    return min(2 * (os.cpu_count() or 1), _MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker where they take turns."""
    stash = node.config.stash
    if _DIRECTORY not in stash:
        stash[_DIRECTORY] = tempfile.TemporaryDirectory(prefix="amesh-turns-")
        node.config.add_cleanup(stash[_DIRECTORY].cleanup)
    node.workerinput["turns"] = stash[_DIRECTORY].name


def pytest_configure(config: pytest.Config) -> None:
    """Join the others, in a worker."""
    if workerinput := getattr(config, "workerinput", None):
        config.stash[_TURNS] = Turns(Path(workerinput["turns"]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test, with its fixtures, beside others; or alone, if it is marked so."""
    turns = item.config.stash.get(_TURNS, None)
    if turns is None:
        return (yield)
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)
