"""Threat: who reads the relay's log, or its memory of the past, learns codes, keys or tokens.

What stops it: the log names connections by number and nothing else, at any level; websockets,
which logs whole frames at DEBUG, is kept at WARNING. And the relay cannot read what it
carries: it has no cryptography (docs/protocol.md section 4).
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager

from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from tests.support.hub import JTI
from tests.support.relay import TEXT, frame, hear, raw_websocket, read_to_end, relay_process

SECRETS = {
    "code": "482916",
    "wrong code": "135797",
    "payload": "cGF5bG9hZC1vZi1hLWNlcmVtb255",
    "jti": JTI,
    "token": "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    "key": "AkeyAkeyAkeyAkeyAkeyAkeyAkeyAkeyAkeyAkeyAkey",
    "signature": "c2lnbmF0dXJlLW9mLWEtY29udHJvbGxlcg==",
    "name": "prod-api-of-somebody",
    "address": "127.0.0.1",
    "forwarded": "198.51.100.77",
    "malformed": "half-a-secret-in-a-broken-frame",
}


def test_a_debug_log_of_a_whole_life_holds_no_secret() -> None:
    with relay_process("--log-level", "debug", "--trusted-proxy", "127.0.0.1") as relay:
        headers = {"X-Forwarded-For": SECRETS["forwarded"]}

        def device() -> AbstractContextManager[ClientConnection]:
            return connect(relay.url, additional_headers=headers, proxy=None)

        with device() as target, device() as controller, device() as stranger:
            target.send(wire.encode(wire.Listen(SECRETS["code"])))
            hear(target)
            stranger.send(wire.encode(wire.Connect(SECRETS["wrong code"])))
            assert hear(stranger) == wire.RelayErrorFrame("otc_not_found")
            controller.send(wire.encode(wire.Connect(SECRETS["code"])))
            hear(target), hear(controller)
            controller.send(wire.encode(wire.Data(SECRETS["payload"])))
            assert hear(target) == wire.Data(SECRETS["payload"])
            controller.send(wire.encode(wire.Done()))
            assert hear(target) == wire.Done()
        with device() as watcher, device() as target:
            watcher.send(wire.encode(wire.BootstrapWatch(JTI)))
            hear(watcher)
            target.send(
                wire.encode(
                    wire.BootstrapInit(JTI, SECRETS["key"], SECRETS["name"], token=SECRETS["token"])
                )
            )
            hear(watcher)
            watcher.send(wire.encode(wire.BootstrapAck(JTI, SECRETS["key"], SECRETS["signature"])))
            hear(target)
        with device() as clumsy:
            clumsy.send('{"type":"data","payload":"' + SECRETS["malformed"])
            hear(clumsy)
        with raw_websocket(relay) as raw:
            raw.sendall(frame(TEXT, SECRETS["malformed"].encode() + b"\xff"))
            raw.shutdown(1)
            read_to_end(raw)
        relay.process.terminate()
        assert relay.wait() == 0
        log = relay.log()
    assert "/1 is open" in log, "nothing was logged, so nothing was shown"
    assert "stopping" in log
    for name, secret in SECRETS.items():
        assert secret not in log, name


def test_a_relay_has_nothing_to_read_with() -> None:
    """Not by import contract only: none of it is in the running program."""
    script = (
        "import sys, amesh_relay.__main__, amesh_relay.process\n"
        "print(*sorted(name.partition('.')[0] for name in sys.modules))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('amesh_')))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not {"cryptography", "argon2", "keyring", "amesh_cli", "amesh_sdk"} & set(
        said[0].split()
    )
    ours = {name for name in said[1].split() if name.startswith("amesh_core")}
    assert ours == {
        "amesh_core",
        "amesh_core.errors",
        "amesh_core.wire",
        "amesh_core.wire.encoding",
        "amesh_core.wire.relay",
        "amesh_core.wire.relay_frames",
    }
