"""What a person waits for, as whole processes

The help text against a bare interpreter, the list against one Argon2, and a whole pairing
with the code and the digits typed at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

from amesh_cli.actors import Actor
from amesh_core import crypto
from amesh_core.keystore.encrypted_file import COST
from bench.report import Row

RUNS: Final = 15
PAIRINGS: Final = 5


def run() -> list[Row]:
    """Time each command and its measure in turn, so that a drifting machine cancels out."""
    with tempfile.TemporaryDirectory() as scratch:
        laptop, server = (_device(Path(scratch) / name) for name in ("laptop", "server"))
        rounds = [
            (
                _seconds(["-c", "pass"], laptop),
                _seconds(["-m", "amesh_cli", "--help"], laptop),
                _argon2_seconds(),
                _seconds(["-m", "amesh_cli", "list"], laptop),
            )
            for _ in range(RUNS)
        ]
        pairings = [_pairing_seconds(laptop, server) for _ in range(PAIRINGS)]
    bare, helped, argon2, listed = (median(column) for column in zip(*rounds, strict=True))
    ratio = median(each[1] / each[0] for each in rounds)
    share = median(each[2] / each[3] for each in rounds)
    return [
        Row("python -c pass", f"{bare * 1000:.0f} ms"),
        Row("amesh --help", f"{helped * 1000:.0f} ms"),
        Row("amesh --help, times python -c pass", f"{ratio:.1f}", "< 10", ratio < 10),
        Row("one Argon2", f"{argon2 * 1000:.0f} ms"),
        Row("amesh list", f"{listed * 1000:.0f} ms"),
        Row("amesh list, share of one Argon2", f"{share:.0%}", "> 50 %", share > 0.5),
        Row("a pairing", f"{median(pairings):.2f} s", "< 2 s", median(pairings) < 2),
    ]


def _device(directory: Path) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AMESH_", "AUTH_"))}
    environment["AUTH_MESH_DIR"] = str(directory)
    init = ["-m", "amesh_cli", "init", "--name", directory.name, "--backend", "encrypted-file"]
    _seconds(init, environment)
    return environment


def _seconds(arguments: list[str], environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def _argon2_seconds() -> float:
    start = time.perf_counter()
    crypto.argon2id(b"passphrase", bytes(16), t=COST.t, m=COST.m, p=COST.p)
    return time.perf_counter() - start


def _pairing_seconds(controller: Mapping[str, str], target: Mapping[str, str]) -> float:
    """From the start of `listen` to the end of both commands; the relay is up already."""
    local = ("--host", "127.0.0.1", "--port", "0")
    with Actor("-m", "amesh_relay", *local) as relay:
        url = relay.expect(r"(ws://\S+)")
        start = time.perf_counter()
        listening = ("listen", "--relay", url, "--digits-stdin", *_replacing(target))
        with Actor("-m", "amesh_cli", *listening, env=target) as listen:
            code = listen.expect(r"amesh invite (\d{6})")
            inviting = ("invite", code, "--relay", url, "--assume-match")
            with Actor("-m", "amesh_cli", *inviting, env=controller) as invite:
                listen.write(invite.expect(r"digits (\d{3} \d{3})") + "\n")
                if listen.wait() or invite.wait():
                    raise RuntimeError(f"pairing failed: {listen.said} {invite.said}")
                return time.perf_counter() - start


def _replacing(target: Mapping[str, str]) -> tuple[str, ...]:
    """From the second pairing on there is a controller already, and it comes back."""
    done = subprocess.run(
        [sys.executable, "-m", "amesh_cli", "list"], env=target, capture_output=True, check=True
    )
    return ("--replace", "laptop") if b"laptop" in done.stdout else ()
