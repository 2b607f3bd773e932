"""Django REST framework: what the middleware verified, as an authentication class.

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["amesh_sdk.rest_framework.AuthMeshAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from amesh_core.errors import UsageError
from amesh_core.verification import AuthMeshIdentity
from amesh_sdk.answers import record
from amesh_sdk.extras import missing

try:
    from rest_framework.authentication import BaseAuthentication
    from rest_framework.request import Request
except ImportError as error:
    raise missing("djangorestframework", error) from error


@dataclass(frozen=True, slots=True)
class DeviceUser:
    """A device in the place of a user: `request.user`, for permissions and throttles.

    It is no member of the staff and has none of Django's permissions, so that `IsAdminUser` and
    `DjangoModelPermissions` answer 403.
    """

    identity: AuthMeshIdentity

    is_authenticated: ClassVar[bool] = True
    is_anonymous: ClassVar[bool] = False
    is_active: ClassVar[bool] = True
    is_staff: ClassVar[bool] = False
    is_superuser: ClassVar[bool] = False

    @property
    def pk(self) -> str:
        """The device id; throttles count by it."""
        return self.identity.device_id

    def has_perm(self, _permission: str, _obj: object = None) -> bool:
        """No."""
        return False

    def has_perms(self, permissions: Iterable[str], _obj: object = None) -> bool:
        """Only where none is asked for, as for reading under DjangoModelPermissions."""
        return not list(permissions)

    def has_module_perms(self, _app: str) -> bool:
        """No."""
        return False

    def __str__(self) -> str:
        return self.identity.friendly_name


class AuthMeshAuthentication(BaseAuthentication):
    """`request.user` is a DeviceUser, `request.auth` the AuthMeshIdentity.

    It verifies nothing: the body must be verified before anything parses it, which is the
    middleware's work. On paths that the middleware leaves open, nobody is authenticated.
    """

    def authenticate(self, request: Request) -> tuple[DeviceUser, AuthMeshIdentity] | None:
        """Say who sent this request, if the middleware has found out.

        Raises:
            UsageError: there is no middleware.
        """
        try:
            identity: AuthMeshIdentity | None = vars(request._request)["auth_mesh"]
        except KeyError:
            error = UsageError(
                "nothing has verified this request: put 'amesh_sdk.django.AuthMeshMiddleware' "
                "first in MIDDLEWARE"
            )
            record(error)  # Django itself may be set up to say nothing of it
            raise error from None
        return None if identity is None else (DeviceUser(identity), identity)

    def authenticate_header(self, _request: Request) -> str:
        """Without it, Django REST framework answers 403 where 401 is meant."""
        return "AuthMesh"
