"""Plain PEP 3333, reading bodies the old way: as many bytes as CONTENT_LENGTH says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from amesh_sdk.wsgi import AuthMeshMiddleware
from tests.sdk.servers.apps.contract import EVENTS, Counter, options

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

counter = Counter()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"].encode("latin-1").decode()
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return (event.encode() for event in EVENTS)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer: dict[str, Any]
    match path.split("/")[1]:
        case "health":
            answer = counter.health("auth_mesh" in environ)
        case "form":
            answer = counter.form(dict(parse_qsl(body.decode())), {}, body)
        case _:
            whole = environ["SCRIPT_NAME"] + path
            identity = environ["auth_mesh"]
            answer = counter.echo(identity, environ["REQUEST_METHOD"], whole, body)
    content = json.dumps(answer).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response("200 OK", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


app = AuthMeshMiddleware(application, **options())
