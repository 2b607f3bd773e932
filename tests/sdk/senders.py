"""Both HTTP libraries, in threads and in event loops; and a request as it came over the wire."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import httpx2

from amesh_core import crypto
from amesh_core.wire import header
from amesh_core.wire.header import Credential
from amesh_core.wire.target import canonical_target
from amesh_sdk import httpx as signing
from tests.sdk.devices import Device
from tests.support.asgi import answer

# Typed as one: what is used here, both libraries have.
LIBRARIES: dict[str, Any] = {"httpx2": httpx2, "httpx": httpx}

# No test speaks TLS, and each client would read all certificate authorities anew.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Sender:
    """One library, in threads or in an event loop."""

    def __init__(self, name: str, *, is_async: bool) -> None:
        self.library = LIBRARIES[name]
        self._is_async = is_async
        self._make = signing.httpx2_auth if name == "httpx2" else signing.httpx_auth

    def send(
        self,
        device: Device,
        method: str,
        url: str,
        *,
        follow_redirects: bool = False,
        client: dict[str, Any] | None = None,
        **request: Any,
    ) -> Any:
        auth = self._make(device.signer(), follow_redirects=follow_redirects)
        options: dict[str, Any] = {"auth": auth, "trust_env": False, "verify": TLS}
        options |= client or {}
        if not self._is_async:
            with self.library.Client(**options) as one:
                return one.request(method, url, **request)

        async def asend() -> Any:
            async with self.library.AsyncClient(**options) as one:
                return await one.request(method, url, **request)

        return asyncio.run(asend())


class Wire:
    """What arrived, byte for byte."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.head = head
        request_line, *lines = head.split(b"\r\n")
        self.method, self.target, _ = request_line.split(b" ")
        pairs = [line.split(b": ", 1) for line in lines]
        self.authorization = [v for name, v in pairs if name.lower() == b"authorization"]
        self.headers = {name.lower(): value for name, value in pairs}

    def verified(self, by: Device) -> Credential:
        """Check the signature against what arrived, put together from the bytes alone."""
        (value,) = self.authorization
        credential = header.parse([value])
        assert credential.public_key == by.home.identity.public_key
        lines = [
            b"AMv1",
            self.method,
            canonical_target(self.target).encode(),
            credential.timestamp.encode(),
            credential.nonce.encode(),
            crypto.sha256(self.body).hex().encode(),
        ]
        crypto.verify(credential.public_key, credential.signature, b"\n".join(lines))
        return credential


def recording(reply: bytes) -> tuple[list[Wire], Callable[[bytes], bytes]]:
    arrived: list[Wire] = []

    def take(data: bytes) -> bytes:
        arrived.append(Wire(data))
        return reply

    return arrived, take


OK = answer("200 OK", body=b"ok")
