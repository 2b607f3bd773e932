"""Clients that are made before a fork and used after it, as under gunicorn --preload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.devices import Device
from tests.sdk.test_fetch import echo
from tests.support.asgi import PATIENCE_SECONDS, serving
from tests.support.cli import environment

PREAMBLE = """
import os, sys
from amesh_sdk import amesh
url = sys.argv[1]
"""

USING = {
    "fetch": """
def call(body): return amesh.fetch(url, method="POST", data=body).text
""",
    "httpx2": """
import httpx2
client = httpx2.Client(auth=amesh.auth(), trust_env=False)
def call(body): return client.post(url, content=body, headers={"Connection": "close"}).text
""",
    "requests": """
session = amesh.requests_session(max_retries=2)
session.trust_env = False
def call(body): return session.post(url, data=body, headers={"Connection": "close"}).text
""",
    "aiohttp": """
import asyncio, aiohttp
middleware = amesh.aiohttp_middleware(url)
async def acall(body):
    async with aiohttp.ClientSession(middlewares=[middleware]) as session:
        async with session.post(url, data=body) as response:
            return await response.text()
def call(body): return asyncio.run(acall(body))
""",
    "asign": """
import asyncio, httpx2
def call(body):
    headers = asyncio.run(amesh.asign("POST", url + "/", body.encode()))
    return httpx2.post(url, content=body, headers=headers, trust_env=False).text
""",
}

FORKING = """
assert call("before").endswith(" before")
children = []
for number in range(4):
    if not (child := os.fork()):
        try:
            right = all(call(f"{number}.{n}").endswith(f" {number}.{n}") for n in range(5))
        finally:
            os._exit(0 if right else 1)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert call("after").endswith(" after")
"""


@pytest.mark.parametrize("client", USING)
def test_a_forked_worker_signs(target: Device, controller: Device, client: str) -> None:
    program = PREAMBLE + USING[client] + FORKING
    root = Path(__file__).parents[3]
    with serving(target.protect(echo)) as server:
        done = subprocess.run(
            # From 3.12 on Python warns of every fork beside threads, which is what this is about.
            [
                sys.executable,
                "-W",
                "ignore:This process:DeprecationWarning",
                "-c",
                program,
                server.url,
            ],
            env=environment(controller.home.directory),
            capture_output=True,
            text=True,
            cwd=root,
            timeout=PATIENCE_SECONDS * 3,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
