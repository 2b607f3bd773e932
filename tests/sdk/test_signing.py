"""Signatures for other clients, and the facade `amesh` without a server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from amesh_core import crypto
from amesh_core.errors import MalformedRequest, NoIdentity, UsageError
from amesh_core.settings import Settings
from amesh_core.wire import header
from amesh_sdk import Amesh, amesh
from amesh_sdk.opened import OpenHome
from amesh_sdk.signer import Signer, target_of
from tests.sdk.devices import Device
from tests.support.asgi import PATIENCE_SECONDS


def check(value: str, device: Device, method: str, target: str, body: bytes) -> None:
    """The signature, against a canonical string put together here."""
    credential = header.parse([value])
    assert credential.public_key == device.home.identity.public_key
    message = "\n".join(
        [
            "AMv1",
            method,
            target,
            credential.timestamp,
            credential.nonce,
            crypto.sha256(body).hex(),
        ]
    )
    crypto.verify(credential.public_key, credential.signature, message.encode())


def test_sign_gives_the_headers_of_one_request(controller: Device) -> None:
    headers = controller.amesh.sign("POST", "https://api.example/orders?a=1#top", b"body")
    assert list(headers) == ["Authorization"]
    check(headers["Authorization"], controller, "POST", "/orders?a=1", b"body")


def test_every_signature_has_its_own_nonce_and_the_time_of_now(controller: Device) -> None:
    before = int(time.time())
    made = [controller.amesh.sign("GET", "https://api.example/") for _ in range(100)]
    credentials = [header.parse([headers["Authorization"]]) for headers in made]
    assert len({credential.nonce for credential in credentials}) == 100
    assert {len(credential.nonce) for credential in credentials} == {22}
    assert all(before <= int(c.timestamp) <= time.time() for c in credentials)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", b"/"),
        ("http://h?", b"/"),
        ("http://h?a=1", b"/?a=1"),
        ("https://h:8443/a/b?c=d&e#f", b"/a/b?c=d&e"),
        ("ws://h/socket", b"/socket"),
        ("wss://user:secret@h/x", b"/x"),
        ("http://[::1]:80/a%2Fb", b"/a%2Fb"),
        ("http://h/a;b=c?d", b"/a;b=c?d"),
        ("HTTP://H/a", b"/a"),
    ],
)
def test_the_target_of_a_url(url: str, target: bytes) -> None:
    assert target_of(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "/orders",
        "orders",
        "h/x",
        "ftp://h/x",
        "http:/x",
        "http:///x",
        "http://[::1/x",
        "http://[x]/",
    ],
)
def test_a_url_without_a_host_is_a_mistake(controller: Device, url: str) -> None:
    with pytest.raises(UsageError):
        controller.amesh.sign("GET", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a b",
        "http://h/caf\u00e9",
        "http://h/a\nb",
        " http://h/",
        "http://h/a\tb",
        "http://h/../x",
        "http://h//x",
        "http://h/a\\b",
        "http://h/%2e%2e/x",
    ],
)
def test_a_url_that_a_client_would_change_is_not_signed(controller: Device, url: str) -> None:
    """What is signed is sent as it is, or the signature would be for another target."""
    with pytest.raises(MalformedRequest):
        controller.amesh.sign("GET", url)


def test_a_method_in_lower_case_is_not_signed(controller: Device) -> None:
    with pytest.raises(MalformedRequest):
        controller.amesh.sign("get", "https://api.example/")


def test_the_time_is_taken_after_the_key_is_unlocked(
    controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve parallel calls were refused once: their clocks had stopped before a slow Argon2."""
    now = [1000.0]
    real = crypto.argon2id

    def slow(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        now[0] += 3600
        return real(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", slow)
    signer = Signer(OpenHome(controller.settings), clock=lambda: now[0])
    assert header.parse([signer.sign("GET", b"/", b"")]).timestamp == "4600"
    assert now == [4600.0]


def test_an_event_loop_is_not_kept_while_the_key_is_unlocked(
    controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unlocking waits for something that only the event loop can do."""
    started, may_go_on = threading.Event(), threading.Event()
    real = crypto.argon2id

    def slow(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
        started.set()
        assert may_go_on.wait(PATIENCE_SECONDS), "the event loop did not run meanwhile"
        return real(passphrase, salt, t=t, m=m, p=p)

    monkeypatch.setattr(crypto, "argon2id", slow)

    async def main() -> str:
        signing = asyncio.create_task(controller.amesh.asign("GET", "https://api.example/"))
        await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
        may_go_on.set()
        return (await signing)["Authorization"]

    check(asyncio.run(main()), controller, "GET", "/", b"")


@pytest.mark.parametrize("arguments", [{"json": 1, "data": {}}, {"data": b"", "content": b""}])
def test_a_request_has_one_body(controller: Device, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="one body"):
        controller.amesh.fetch("http://127.0.0.1:9/", **arguments)


def test_the_environment_is_asked_at_each_call(
    controller: Device, stranger: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in (controller, stranger):
        monkeypatch.setenv("AUTH_MESH_DIR", str(device.home.directory))
        value = amesh.sign("GET", "https://api.example/")["Authorization"]
        check(value, device, "GET", "/", b"")


def test_without_an_identity_signing_says_so(controller: Device) -> None:
    nowhere = Amesh(Settings(controller.home.directory / "nothing-here"))
    with pytest.raises(NoIdentity):
        nowhere.sign("GET", "https://api.example/")
    with pytest.raises(NoIdentity):
        nowhere.fetch("http://127.0.0.1:9/")


# --- what an import costs ---------------------------------------------------------------


def imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    return set(output.split())


HEAVY = {"httpx2", "httpx", "cryptography", "argon2", "keyring", "websockets", "rfc8785"}
FOREIGN = {"typer", "rich", "fastapi", "starlette", "uvicorn", "pydantic", "amesh_cli"}


def test_importing_amesh_imports_nothing_heavy() -> None:
    assert not imported_by("from amesh_sdk import amesh; amesh.fetch, amesh.verify") & (
        HEAVY | FOREIGN
    )


def test_using_it_imports_no_framework() -> None:
    loaded = imported_by(
        "from amesh_sdk import AuthMeshIdentity, AuthMeshMiddleware, amesh; "
        "amesh.auth(); amesh.verify(print); import amesh_sdk.asgi, amesh_sdk.httpx"
    )
    assert {"httpx2", "cryptography"} <= loaded
    assert not loaded & (FOREIGN | {"argon2", "keyring", "httpx"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    import amesh_sdk

    with pytest.raises(AttributeError, match="nothing"):
        amesh_sdk.__getattr__("nothing")
