"""Redirects: signed anew at home, unsigned elsewhere, never from https to http."""

from __future__ import annotations

from typing import Any

import pytest

from amesh_core.errors import UsageError
from tests.sdk.devices import Device
from tests.sdk.senders import OK, Sender, Wire, recording
from tests.support.asgi import (
    answer,
    listening,
)


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_a_redirect_within_the_origin_is_signed_anew(
    sender: Sender, controller: Device, status: str
) -> None:
    arrived: list[Wire] = []

    def reply(data: bytes) -> bytes:
        arrived.append(Wire(data))
        return OK if len(arrived) == 3 else answer(status, f"Location: /hop/{len(arrived)}?x")

    with listening(reply, connections=3) as server:
        response = sender.send(
            controller, "POST", server.url + "/start", content=b"body", follow_redirects=True
        )
    assert (response.status_code, len(response.history)) == (200, 2)
    assert [wire.target for wire in arrived] == [b"/start", b"/hop/1?x", b"/hop/2?x"]
    keeps_body = status[:3] in ("307", "308")
    assert [(w.method, w.body) for w in arrived[1:]] == [
        (b"POST", b"body") if keeps_body else (b"GET", b"")
    ] * 2
    assert len({wire.verified(by=controller).nonce for wire in arrived}) == 3


def test_another_origin_gets_no_signature(sender: Sender, controller: Device) -> None:
    home, at_home = recording(b"")
    away, take = recording(OK)
    with listening(take) as other:

        def send_away(data: bytes) -> bytes:
            at_home(data)
            return answer("307 Temporary Redirect", f"Location: {other.url}/collect")

        with listening(send_away) as server:
            response = sender.send(
                controller, "POST", server.url + "/x", content=b"body", follow_redirects=True
            )
    assert response.status_code == 200
    home[0].verified(by=controller)
    assert away[0].authorization == []


def test_who_was_sent_away_is_not_signed_for_on_the_way_back(
    sender: Sender, controller: Device
) -> None:
    """A foreign server could otherwise choose a target, and have it signed."""
    arrived: list[Wire] = []
    with listening(lambda _: answer("302 Found", f"Location: {back}")) as other:

        def reply(data: bytes) -> bytes:
            arrived.append(Wire(data))
            return OK if len(arrived) == 2 else answer("302 Found", f"Location: {other.url}/")

        with listening(reply, connections=2) as server:
            back = f"{server.url}/admin/delete-everything"
            sender.send(controller, "GET", server.url + "/open-redirect", follow_redirects=True)
    assert [wire.target for wire in arrived] == [b"/open-redirect", b"/admin/delete-everything"]
    assert [len(wire.authorization) for wire in arrived] == [1, 0]


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://api.example/", "http://api.example/"),
        ("https://api.example/", "http://other.example/"),
        ("https://api.example:8443/", "http://api.example:8443/"),
    ],
)
def test_a_redirect_from_https_to_http_is_refused(
    sender: Sender, controller: Device, start: str, location: str
) -> None:
    sent: list[str] = []

    def handler(request: Any) -> Any:
        sent.append(str(request.url))
        return sender.library.Response(307, headers={"Location": location})

    transport = sender.library.MockTransport(handler)
    with pytest.raises(sender.library.RemoteProtocolError, match="https to http"):
        sender.send(
            controller,
            "POST",
            start,
            content=b"secret",
            follow_redirects=True,
            client={"transport": transport},
        )
    assert sent == [start]


@pytest.mark.parametrize(
    ("start", "location", "signed"),
    [
        ("https://api.example/", "https://api.example:443/x", True),
        ("http://api.example/", "http://api.example:80/x", True),
        ("http://api.example/", "https://api.example/x", False),
        ("http://api.example:8443/", "https://api.example:8443/x", False),
        ("https://api.example/", "https://api.example:444/x", False),
        ("https://api.example/", "https://api.example.evil/x", False),
        ("https://api.example/", "https://API.example/x", True),
    ],
)
def test_an_origin_is_scheme_host_and_port(
    sender: Sender, controller: Device, start: str, location: str, signed: bool
) -> None:
    sent: list[bool] = []

    def handler(request: Any) -> Any:
        sent.append("Authorization" in request.headers)
        status = 200 if len(sent) == 2 else 302
        return sender.library.Response(status, headers={"Location": location})

    transport = sender.library.MockTransport(handler)
    sender.send(controller, "GET", start, follow_redirects=True, client={"transport": transport})
    assert sent == [True, signed]


def test_redirects_are_not_followed_unasked(sender: Sender, controller: Device) -> None:
    _, take = recording(answer("302 Found", "Location: /next"))
    with listening(take) as server:
        response = sender.send(controller, "GET", server.url)
    assert response.status_code == 302


def test_redirects_end(sender: Sender, controller: Device) -> None:
    sent: list[Any] = []

    def handler(request: Any) -> Any:
        sent.append(request)
        return sender.library.Response(302, headers={"Location": "/again"})

    client = {"transport": sender.library.MockTransport(handler), "max_redirects": 5}
    with pytest.raises(sender.library.TooManyRedirects):
        sender.send(controller, "GET", "http://api.example/", follow_redirects=True, client=client)
    assert len(sent) == 6


def test_a_client_that_follows_by_itself_is_an_error(sender: Sender, controller: Device) -> None:
    """It has sent the old signature on, to a target it does not cover."""

    def handler(request: Any) -> Any:
        if request.url.path == "/start":
            return sender.library.Response(302, headers={"Location": "/next"})
        return sender.library.Response(401)

    client = {"transport": sender.library.MockTransport(handler), "follow_redirects": True}
    with pytest.raises(UsageError, match="follow_redirects"):
        sender.send(controller, "GET", "http://api.example/start", client=client)


def test_a_client_that_follows_to_another_origin_is_left_alone(
    sender: Sender, controller: Device
) -> None:
    """The libraries strip the header there, so nothing is wrong."""

    def handler(request: Any) -> Any:
        if request.url.host == "api.example":
            return sender.library.Response(302, headers={"Location": "https://files.example/"})
        assert "Authorization" not in request.headers
        return sender.library.Response(200)

    client = {"transport": sender.library.MockTransport(handler), "follow_redirects": True}
    assert sender.send(controller, "GET", "https://api.example/", client=client).status_code == 200
