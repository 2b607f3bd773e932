"""Django in one file, WSGI and ASGI, with Django REST framework."""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.files.uploadedfile import UploadedFile
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt

from tests.sdk.servers.apps.contract import EVENTS, Counter, options

OURS = "amesh_sdk.django.AuthMeshMiddleware"
COMMON = [
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
MIDDLEWARE = {
    "first": [OURS, *COMMON],
    "late": [f"{__name__}.read_first", OURS, *COMMON],
    "none": COMMON,
}


def read_first(get_response: Any) -> Any:
    """A middleware that cannot leave bodies alone."""

    def read(request: HttpRequest) -> Any:
        if request.content_type == "multipart/form-data":
            request.POST.get("csrf_token")
        else:
            len(request.body)
        return get_response(request)

    return read


settings.configure(
    ALLOWED_HOSTS=["*"],
    AUTH_MESH=options(),
    INSTALLED_APPS=["django.contrib.contenttypes", "rest_framework"],
    MIDDLEWARE=MIDDLEWARE[os.environ.get("TEST_MIDDLEWARE", "first")],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["amesh_sdk.rest_framework.AuthMeshAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=__name__,
    FORCE_SCRIPT_NAME=os.environ.get("TEST_SCRIPT_NAME"),
    SECRET_KEY="only for tests",
)
django.setup()

from django.contrib.contenttypes.models import ContentType  # noqa: E402 needs the settings
from rest_framework.permissions import DjangoModelPermissions, IsAdminUser  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

counter = Counter()


@csrf_exempt
def echo(request: HttpRequest, rest: str) -> JsonResponse:
    identity = vars(request)["auth_mesh"]
    method = str(request.method)
    return JsonResponse(counter.echo(identity, method, request.path, request.body))


@csrf_exempt
async def aecho(request: HttpRequest, rest: str) -> JsonResponse:
    return echo(request, rest)


@csrf_exempt
def form(request: HttpRequest) -> JsonResponse:
    """POST before the body, which plain Django refuses for multipart."""
    fields = {name: str(value) for name, value in request.POST.items()}
    files: dict[str, bytes] = {}
    for name, uploaded in request.FILES.items():
        assert isinstance(uploaded, UploadedFile)
        files[name] = uploaded.read()
    return JsonResponse(counter.form(fields, files, request.body))


def events(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(EVENTS), content_type="text/event-stream")


async def aevents(request: HttpRequest) -> StreamingHttpResponse:
    async def stream() -> Any:
        for event in EVENTS:
            yield event

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse(counter.health(vars(request)["auth_mesh"] is not None))


class Whoami(APIView):
    """What DRF makes of who called, and of a body."""

    def get(self, request: Request) -> Response:
        user = request.user
        identity: Any = request.auth
        return Response({"user": str(user), "pk": user.pk, "auth": identity.device_id})

    def post(self, request: Request) -> Response:
        return Response({"data": request.data, "raw": request._request.body.hex()})


class ForStaff(Whoami):
    permission_classes = (IsAdminUser,)


class OfAModel(Whoami):
    permission_classes = (DjangoModelPermissions,)
    queryset = ContentType.objects.all()


asynchronous = os.environ.get("TEST_DJANGO") == "asgi"

urlpatterns = [
    re_path(r"^echo/(?P<rest>.*)$", aecho if asynchronous else echo),
    path("form", form),
    path("events", aevents if asynchronous else events),
    path("health", health),
    path("whoami", Whoami.as_view()),
    path("health/whoami", Whoami.as_view()),
    path("staff", ForStaff.as_view()),
    path("model", OfAModel.as_view()),
]

app = get_asgi_application() if asynchronous else get_wsgi_application()
