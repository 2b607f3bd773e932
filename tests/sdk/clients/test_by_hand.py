"""`amesh.sign` for what has no adapter: urllib3, http.client, gRPC metadata, a queue."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.request
from importlib import import_module
from typing import Any

import pytest
import urllib3

from tests.sdk.clients.scripted import OK, scripted
from tests.sdk.devices import Device
from tests.sdk.recorder import Recorder, refused
from tests.support.asgi import scope_of


def test_with_urllib3(controller: Device) -> None:
    body = json.dumps({"amount": 100}).encode()
    with scripted(OK) as server, urllib3.PoolManager(retries=False) as pool:
        for _ in range(2):
            url = server.url + "/orders?a=1"
            headers = controller.amesh.sign("POST", url, body)
            response = pool.request("POST", url, body=body, headers=headers)
            assert response.status == 200
    assert len(server.verified(by=controller)) == 2


def test_with_the_standard_library(controller: Device) -> None:
    with scripted(OK) as server:
        url = server.url + "/orders"
        request = urllib.request.Request(  # noqa: S310 our own server
            url, data=b"x", headers=controller.amesh.sign("POST", url, b"x"), method="POST"
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310 the same
            assert response.status == 200
        connection = http.client.HTTPConnection(server.host, server.port)
        connection.request("PUT", "/x", b"y", controller.amesh.sign("PUT", server.url + "/x", b"y"))
        assert connection.getresponse().read() == b"ok"
        connection.close()
    assert len(server.verified(by=controller)) == 2


def test_as_metadata_of_a_call_that_is_no_http_of_ours(target: Device, controller: Device) -> None:
    """A gRPC call is a POST to /package.Service/Method; its messages come later, unsigned."""
    url = "https://orders.example/orders.v1.Orders/Create"
    metadata = [(name.lower(), value) for name, value in controller.amesh.sign("POST", url).items()]
    app = target.protect(Recorder())
    headers = [(name.encode(), value.encode()) for name, value in metadata]
    scope = scope_of("POST", "/orders.v1.Orders/Create", headers)
    assert refused(app, scope)[0] == 200
    assert refused(app, scope)[0] == 401


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("requests", "amesh_sdk.requests", "requests"),
        ("urllib3", "amesh_sdk.requests", "requests"),
        ("aiohttp", "amesh_sdk.aiohttp_client", "aiohttp"),
    ],
)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, controller: Device, package: str, module: str, extra: str
) -> None:
    import_module(module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(f"amesh_sdk.{module.removeprefix('amesh_sdk.')}")
    calls: dict[str, Any] = {
        "requests": controller.amesh.requests_session,
        "aiohttp": lambda: controller.amesh.aiohttp_middleware("https://api.example"),
    }
    with pytest.raises(ImportError, match=rf"pip install 'authmesh\[{extra}\]'"):
        calls[extra]()
