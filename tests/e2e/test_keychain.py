"""Two devices with their keys in a keyring pair, and one calls the other; real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk.servers.processes import asgi, running
from tests.support.cli import AtTerminal, amesh, listed
from tests.support.relay import relay_process
from tests.support.secret_service import SecretService, secret_service


@pytest.fixture
def keyring() -> Iterator[SecretService]:
    with secret_service() as started:
        yield started


def test_pairing_and_a_signed_request(keyring: SecretService, tmp_path: Path) -> None:
    target, controller = tmp_path / "target", tmp_path / "controller"
    for home in (target, controller):
        done = amesh(home, "init", "--name", home.name, "--backend", "keychain")
        assert done.status == 0, done.err
    with relay_process() as relay:
        listen = AtTerminal(target, "listen", "--relay", relay.url)
        code = listen.sees(r"amesh invite (\d{6})")
        invite = AtTerminal(controller, "invite", code, "--relay", relay.url)
        listen.types(invite.sees(r"digits (\d{3} \d{3})"))
        invite.sees(r"\[y/N\]")
        invite.types("y")
        assert listen.ends() == invite.ends() == 0
    assert list(listed(target).values()) == ["controller"]
    assert list(listed(controller).values()) == ["target"]
    with running(asgi("uvicorn"), target) as server:
        url = f"http://{server.host}:{server.port}/echo/x"
        answer = amesh(controller, "fetch", url)
        assert answer.status == 0, answer.err
        # Unlocked once: a keyring that is locked later stops no service that runs.
        keyring.lock()
        assert amesh(controller, "fetch", url).status == 4  # a new process asks for its key
        keyring.kill_keyring()
        keyring.start_keyring()
        assert amesh(controller, "fetch", url).status == 0
        assert server.served == 2
    revoked = amesh(target, "revoke", "controller", "--yes")
    assert revoked.status == 0
    assert listed(target) == {}
