"""Servers without a command of their own: `python -m tests.sdk.servers.apps.plain_servers NAME`."""

from __future__ import annotations

import sys
from typing import Any
from wsgiref.simple_server import make_server

from werkzeug.serving import make_server as make_werkzeug

from tests.sdk.servers.apps.wsgi_app import app


def main(name: str) -> None:
    server: Any
    if name == "werkzeug":
        server = make_werkzeug("127.0.0.1", 0, app, threaded=True)
    else:
        server = make_server("127.0.0.1", 0, app)
    print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
