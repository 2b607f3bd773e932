"""That a test marked `alone` is alone, and is not overtaken for ever: tests/conftest.py."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from tests.support.turns import Turns

PATIENCE_SECONDS = 20


def until_somebody_keeps_the_gate(tmp_path: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    try:
        while True:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(gate, fcntl.LOCK_UN)
            assert time.monotonic() < end
    except BlockingIOError:
        return
    finally:
        os.close(gate)


def test_many_are_there_at_once(tmp_path: Path) -> None:
    with Turns(tmp_path).taken(alone=False), Turns(tmp_path).taken(alone=False):
        pass


def test_who_wants_to_be_alone_waits_and_is_waited_for(tmp_path: Path) -> None:
    seen: list[str] = []
    ours = Turns(tmp_path)

    def come(name: str) -> None:
        with Turns(tmp_path).taken(alone=name == "alone"):
            seen.append(f"{name} comes")
            seen.append(f"{name} goes")

    comers = [threading.Thread(target=come, args=(name,)) for name in ("alone", "late")]
    with ours.taken(alone=False):
        comers[0].start()
        until_somebody_keeps_the_gate(tmp_path)
        comers[1].start()
        seen.append("we go")
    for comer in comers:
        comer.join(PATIENCE_SECONDS)
    assert seen == ["we go", "alone comes", "alone goes", "late comes", "late goes"]


def test_who_is_alone_keeps_everybody_out(tmp_path: Path) -> None:
    with Turns(tmp_path).taken(alone=True):
        room = os.open(tmp_path / "room", os.O_RDWR)
        for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            with pytest.raises(BlockingIOError):
                fcntl.flock(room, kind | fcntl.LOCK_NB)
        os.close(room)
    with Turns(tmp_path).taken(alone=True):
        pass
