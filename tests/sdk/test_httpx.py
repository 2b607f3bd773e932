"""Signing with httpx2 and httpx: what goes over the wire is what was signed."""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx
import httpx2
import pytest

from amesh_core.errors import BadSignature, MalformedRequest, UsageError
from amesh_sdk import httpx as signing
from tests.sdk.devices import Device
from tests.sdk.senders import OK, Sender, recording
from tests.support.asgi import (
    answer,
    listening,
)

# --- wire truth -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "arguments"),
    [
        ("GET", "", {}),
        ("GET", "/orders?b=2&a=1", {}),
        ("GET", "/orders", {"params": {"q": "a b+c&d=é", "empty": ""}}),
        ("GET", "/orders", {"params": [("a", "2"), ("a", "1")]}),
        ("GET", "/caf\u00e9/a b/~x'y(z)", {}),
        ("GET", "/a%2Fb/%41/100%25", {}),
        ("GET", "/a/../b/./c", {}),
        ("GET", "/x?y=[1]&z={}|^`\"'<>", {}),
        ("delete", "/orders/7", {}),
        ("POST", "/orders", {"json": {"amount": 100, "note": "é"}}),
        ("POST", "/orders", {"data": {"a": "1 2", "b": "é&="}}),
        ("PUT", "/blob", {"content": bytes(range(256)) * 300}),
        ("PUT", "/blob", {"content": b"\xff\xfe\x80"}),
        ("POST", "/empty", {"content": b""}),
        ("POST", "/none", {}),
        ("POST", "/form", {"files": {"f": ("x.bin", b"\x00\r\n--\xff")}}),
        ("PATCH", "/h", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}),
        ("POST", "/orders", {"headers": {"Authorization": "Bearer mine"}, "content": b"x"}),
    ],
)
def test_what_is_sent_is_what_was_signed(
    sender: Sender, controller: Device, method: str, path: str, arguments: dict[str, Any]
) -> None:
    arrived, take = recording(OK)
    with listening(take) as server:
        response = sender.send(controller, method, server.url + path, **arguments)
    assert response.status_code == 200
    (wire,) = arrived
    before = time.time() - 5
    assert before < int(wire.verified(by=controller).timestamp) <= time.time()


def test_the_wire_test_has_teeth(controller: Device, stranger: Device) -> None:
    arrived, take = recording(OK)
    with listening(take) as server:
        Sender("httpx2", is_async=False).send(controller, "POST", server.url, content=b"x")
    (wire,) = arrived
    wire.body = b"y"
    with pytest.raises(BadSignature):
        wire.verified(by=controller)


def test_a_target_set_by_hand_is_the_one_that_is_signed(sender: Sender, controller: Device) -> None:
    arrived, take = recording(OK)
    with listening(take) as server:
        extensions = {"target": b"/sent%2Finstead?x"}
        sender.send(controller, "GET", server.url + "/url", extensions=extensions)
    assert arrived[0].target == b"/sent%2Finstead?x"
    arrived[0].verified(by=controller)


def test_a_body_made_on_the_way_is_read_and_signed(controller: Device) -> None:
    """A generator is sent as it was signed, and sent again when redirected."""
    arrived, take = recording(answer("307 Temporary Redirect", "Location: /again"))
    with listening(take, connections=2) as server, pytest.raises(httpx2.TooManyRedirects):
        Sender("httpx2", is_async=False).send(
            controller,
            "POST",
            server.url + "/a",
            content=iter([b"one", b"two"]),
            headers={"Content-Length": "6"},
            follow_redirects=True,
            client={"max_redirects": 1},
        )
    assert [wire.body for wire in arrived] == [b"onetwo", b"onetwo"]
    assert len({wire.verified(by=controller).nonce for wire in arrived}) == 2


def test_what_no_verifier_admits_is_not_sent(sender: Sender, controller: Device) -> None:
    with pytest.raises(MalformedRequest):
        sender.send(controller, "GET", "http://127.0.0.1:9//evil/admin")


# --- the library that is not there ------------------------------------------------------


def test_a_missing_httpx_names_the_extra(
    controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing._auth_class.cache_clear()
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match=r"pip install 'authmesh\[httpx\]'"):
        controller.amesh.httpx_auth()
    monkeypatch.undo()
    assert isinstance(controller.amesh.httpx_auth(), httpx.Auth)
    assert isinstance(controller.amesh.auth(), httpx2.Auth)
