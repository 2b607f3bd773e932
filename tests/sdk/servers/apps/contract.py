"""What the apps of these tests have in common, so that one set of tests asks all of them.

ANY  /echo/...   what the app sees of the request
POST /form       the form that the framework has parsed, and the bytes it came from
GET  /events     three server-sent events
GET  /health     open: how many requests the app was given, and whether it knows who asks
"""

from __future__ import annotations

import json
import os
from typing import Any, Protocol

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
EVENTS = [f"data: {number}\n\n" for number in range(3)]


class Identity(Protocol):
    """What every adapter hands over."""

    @property
    def device_id(self) -> str: ...
    @property
    def friendly_name(self) -> str: ...


def options() -> dict[str, Any]:
    """The options of the middleware, as the test wrote them into the environment."""
    given: dict[str, Any] = json.loads(os.environ.get("TEST_OPTIONS", "{}"))
    return {"exclude": ("/health",)} | given


class Counter:
    """What one process was given to do."""

    def __init__(self) -> None:
        self._served = 0

    def echo(self, identity: Identity, method: str, path: str, body: bytes) -> dict[str, Any]:
        """The answer of /echo."""
        self._served += 1
        return {
            "device": identity.device_id,
            "name": identity.friendly_name,
            "method": method,
            "path": path,
            "body": body.hex(),
        }

    def form(self, fields: dict[str, str], files: dict[str, bytes], body: bytes) -> dict[str, Any]:
        """The answer of /form."""
        self._served += 1
        return {
            "fields": fields,
            "files": {name: data.hex() for name, data in files.items()},
            "body": body.hex(),
        }

    def health(self, known: bool) -> dict[str, Any]:
        """The answer of /health."""
        return {"served": self._served, "known": known}
