"""The Flask extension: `AuthMesh(app)`, then `g.auth_mesh` in every view.

It stands in front of the app as WSGI middleware, so a request is verified before Flask, a
session or a form parser has seen it, and the body they parse is the one that was verified.
"""

from __future__ import annotations

import io
from typing import Unpack

from amesh_sdk.extras import missing
from amesh_sdk.gate import Options
from amesh_sdk.wsgi import IDENTITY_KEY, AuthMeshMiddleware

try:
    from flask import Flask, g, request
except ImportError as error:
    raise missing("flask", error) from error


class AuthMesh:
    """Let only requests through that are signed by a controller of this device.

    `AuthMesh(app, ...)`, or `auth_mesh = AuthMesh(...)` and `auth_mesh.init_app(app)` in an
    application factory; options as of `amesh_sdk.asgi.AuthMeshMiddleware`. The identity is in
    `g.auth_mesh`, and on paths that are left open there is none: `g.get("auth_mesh")`.

    Raises:
        UsageError: options that cannot work.
    """

    def __init__(self, app: Flask | None = None, **options: Unpack[Options]) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Stand in front of one application; of several, each has a guard of its own."""
        middleware = AuthMeshMiddleware(app.wsgi_app, **self._options)
        # Flask's own way to add middleware: https://flask.palletsprojects.com/quickstart/
        app.wsgi_app = middleware  # type: ignore[method-assign]
        app.extensions["auth_mesh"] = middleware
        # Before what the app registered already: it may want to know who calls.
        app.before_request_funcs.setdefault(None, []).insert(0, _hand_over)


def _hand_over() -> None:
    if IDENTITY_KEY not in request.environ:
        return
    g.auth_mesh = request.environ[IDENTITY_KEY]
    limit = request.max_content_length  # a view may still raise it for itself
    if limit is None or (request.content_length or 0) <= limit:
        # Kept, so that a view still gets what was signed when somebody has asked for a form; and
        # put back, for one that reads the stream.
        request.environ["wsgi.input"] = io.BytesIO(request.get_data(cache=True))
        del request.stream
