"""FastAPI: who called, as a dependency; and the security scheme in the OpenAPI document.

    app.add_middleware(AuthMeshMiddleware)

    @app.post("/orders")
    async def orders(device: CurrentDevice) -> ...:

The dependency verifies nothing. In a dependency it would be too late: FastAPI parses the body
before, and tells an unauthenticated caller what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

from amesh_core.errors import UsageError
from amesh_core.verification import AuthMeshIdentity
from amesh_sdk.answers import record
from amesh_sdk.asgi import STATE_KEY, AuthMeshMiddleware
from amesh_sdk.extras import missing

try:
    from fastapi import Depends, FastAPI, routing
    from fastapi.dependencies.models import Dependant
    from fastapi.openapi.models import HTTPBase
    from fastapi.requests import HTTPConnection
    from fastapi.security.base import SecurityBase
except ImportError as error:
    raise missing("fastapi", error) from error


class AuthMeshScheme(SecurityBase):
    """The security scheme "AuthMesh"; called as a dependency, it says who sent the request."""

    def __init__(self) -> None:
        self.scheme_name = "AuthMesh"
        self.model = HTTPBase(
            scheme="AuthMesh", description="Signed by a paired device: `amesh.fetch(...)`."
        )

    def __call__(self, connection: HTTPConnection) -> AuthMeshIdentity:
        """Hand over what the middleware verified; of WebSockets, too.

        Raises:
            UsageError: nothing was verified. A mistake in the program, not in the request, so
                the caller hears 500 and the log says why.
        """
        identity = connection.scope.get("state", {}).get(STATE_KEY)
        if not isinstance(identity, AuthMeshIdentity):
            error = UsageError(
                "CurrentDevice was asked for on a path that is not verified: add the middleware "
                "(app.add_middleware(AuthMeshMiddleware)), and do not exclude this path"
            )
            record(error)
            raise error
        return identity


scheme = AuthMeshScheme()

CurrentDevice = Annotated[AuthMeshIdentity, Depends(scheme)]

# An older FastAPI copies the routes of an included router; one that has this keeps a reference
# to the router in their place, which only this resolves.
_each_route: Callable[[Iterable[object]], Iterable[object]]
_each_route = getattr(routing, "iter_route_contexts", iter)


def check_app(app: FastAPI) -> None:
    """Call it when all routes and middleware are there, to end a program that forgot one.

    It looks into routers that are included and FastAPI apps that are mounted, too. Without it, a
    missing middleware is noticed at the first request to a route that asks for CurrentDevice. Not
    for apps that are wrapped (`amesh.verify(app)`) or mounted in an app that has the middleware:
    from inside, it cannot be seen.

    Raises:
        UsageError: a route asks for CurrentDevice, and this app has no AuthMeshMiddleware.
    """
    classes: list[object] = [middleware.cls for middleware in app.user_middleware]
    if AuthMeshMiddleware in classes:
        return
    for route in _each_route(app.routes):
        if isinstance(mounted := getattr(route, "app", None), FastAPI):
            check_app(mounted)
        dependant = getattr(route, "dependant", None)
        if isinstance(dependant, Dependant) and scheme in _calls(dependant):
            raise UsageError(
                f"{getattr(route, 'path', '?')} asks for CurrentDevice, but nothing verifies "
                "requests: app.add_middleware(AuthMeshMiddleware)"
            )


def _calls(dependant: Dependant) -> Iterator[object]:
    for needed in dependant.dependencies:
        yield needed.call
        yield from _calls(needed)
