"""Flask, which parses forms by itself when somebody asks for one."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from amesh_sdk.flask import AuthMesh
from tests.sdk.servers.apps.contract import EVENTS, METHODS, Counter, options

counter = Counter()
app = Flask(__name__)


@app.before_request
def form_first() -> None:
    """What an app may do before every view; the body has been verified long before."""
    request.form.get("csrf_token")


AuthMesh(app, **options())


@app.route("/echo/<path:rest>", methods=METHODS)
def echo(rest: str) -> dict[str, Any]:
    path = request.script_root + request.path
    return counter.echo(g.auth_mesh, request.method, path, request.get_data())


@app.post("/form")
def form() -> dict[str, Any]:
    body = request.get_data()
    files = {name: file.read() for name, file in request.files.items()}
    return counter.form(dict(request.form.items()), files, body)


@app.get("/events")
def events() -> Response:
    return Response(iter(EVENTS), mimetype="text/event-stream")


@app.get("/health")
def health() -> dict[str, Any]:
    return counter.health("auth_mesh" in g)


proxied = ProxyFix(app, x_prefix=1)
