"""Two paired devices and a stranger, and everything else that many tests ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from amesh_core import crypto
from tests.sdk.devices import Device, make_controller, make_stranger, make_target
from tests.sdk.senders import Sender


@pytest.fixture
def target(tmp_path: Path) -> Device:
    return make_target(tmp_path)


@pytest.fixture
def controller(target: Device) -> Device:
    return make_controller(target)


@pytest.fixture
def stranger(target: Device) -> Device:
    return make_stranger(target)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests speak to localhost, whatever the environment says about the way out."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every Argon2 of this process."""
    counted: list[int] = []
    real = crypto.argon2id

    def counting(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        counted.append(t)
        return real(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", counting)
    return counted


@pytest.fixture(params=["httpx2", "httpx2-async", "httpx", "httpx-async"])
def sender(request: pytest.FixtureRequest) -> Sender:
    name, _, mode = request.param.partition("-")
    return Sender(name, is_async=mode == "async")
