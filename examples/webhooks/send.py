"""Send an event as a webhook: python send.py URL TYPE DATA"""

import json
import sys
import time
import uuid
from typing import Any

import httpx2

from amesh_sdk import amesh


def send(url: str, event: dict[str, Any], waits: tuple[int, ...] = (1, 5, 25)) -> httpx2.Response:
    """Try until the receiver answers; each attempt has a signature of its own."""
    for wait_seconds in waits:
        try:
            response = amesh.fetch(url, method="POST", json=event)
        except httpx2.TransportError as error:
            print(f"{error!r}, again in {wait_seconds} s", file=sys.stderr)
        else:
            if response.status_code < 500:
                return response
            print(f"{response.status_code}, again in {wait_seconds} s", file=sys.stderr)
        time.sleep(wait_seconds)
    return amesh.fetch(url, method="POST", json=event)


if __name__ == "__main__":
    url, kind, data = sys.argv[1:]
    response = send(url, {"id": str(uuid.uuid4()), "type": kind, "data": json.loads(data)})
    response.raise_for_status()
    print(response.text)
