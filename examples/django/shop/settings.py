"""Settings of a service for machines: no database, no sessions, no users."""

import secrets

SECRET_KEY = secrets.token_urlsafe(50)  # nothing that it signs outlives the process
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
USE_TZ = True

MIDDLEWARE = [
    "amesh_sdk.django.AuthMeshMiddleware",  # first: nothing may read the body before
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]
AUTH_MESH = {"exclude": ("/health",)}
