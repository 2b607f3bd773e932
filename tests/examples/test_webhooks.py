"""Webhooks: sent and received, tried again, and handled once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from uuid import uuid4

from tests.examples.recipes import JSON, ROOT, Examples, Request, browse, check_door
from tests.sdk.servers.processes import call
from tests.support.asgi import answer, listening
from tests.support.cli import PATIENCE_SECONDS, environment


def event(kind: str = "order.paid") -> bytes:
    return json.dumps({"id": str(uuid4()), "type": kind, "data": {"order": 17}}).encode()


def test_webhooks(examples: Examples) -> None:
    recipe = examples.recipe("webhooks")
    with recipe.serving("uvicorn", on="devices/server") as receiver:
        sent = recipe.run("send.py", on="devices/laptop")
        assert (sent.status, json.loads(sent.out)) == (0, {"status": "received"}), sent.err
        line = "'order.paid' from 'laptop': {'order': 17}"
        receiver.log.wait_for(re.escape(line))
        assert browse(recipe.readme.url(":")).body == b"Welcome, everybody."

        # Sent again under a new signature, it is let in, and not handled twice.
        body = event()
        answers = [
            call(receiver, "POST", "/webhooks", by=examples.laptop, body=body, headers=JSON).json
            for _ in range(2)
        ]
        assert answers == [{"status": "received"}, {"status": "known"}]

        # Nobody learns what an event looks like before it is known who asks.
        assert call(receiver, "POST", "/webhooks", body=b"{}", headers=JSON).status == 400
        request = Request("POST", "/webhooks", event())
        check_door(receiver, examples.laptop, examples.revoke, request)
        assert receiver.log.text.count(line) == 3, "nothing that was refused was handled"
    assert not recipe.readme.left


def test_each_attempt_is_signed_anew(examples: Examples) -> None:
    """The receiver fails once; the sender waits its second, and signs the same event again."""
    recipe = examples.recipe("webhooks")
    requests: list[bytes] = []

    def failing_once(request: bytes) -> bytes:
        requests.append(request)
        return answer("503 Service Unavailable" if len(requests) == 1 else "200 OK", body=b"done")

    with listening(failing_once, connections=2) as receiver:
        done = subprocess.run(
            [sys.executable, "send.py", f"{receiver.url}/webhooks", "order.paid", "{}"],
            cwd=recipe.folder,
            env=environment(examples.laptop.home.directory, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "503, again in 1 s\n")
    signatures, bodies = zip(
        *(
            (re.search(rb"(?im)^authorization: (.*)$", head), body)
            for head, _, body in (request.partition(b"\r\n\r\n") for request in requests)
        ),
        strict=True,
    )
    assert bodies[0] == bodies[1]
    assert all(signatures)
    assert signatures[0][1] != signatures[1][1]
