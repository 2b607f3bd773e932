"""docs/servers.md is true: its programs run, and its tables name what is there."""

from __future__ import annotations

import asyncio
import io
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from django.conf import global_settings
from fastapi import FastAPI
from flask import Flask

from amesh_sdk.aiohttp_server import auth_mesh_middleware
from tests.sdk.devices import Device
from tests.sdk.recorder import signed
from tests.support.asgi import body_of, run

TEXT = (Path(__file__).parents[3] / "docs" / "servers.md").read_text(encoding="utf-8")
PROGRAMS = {
    section.splitlines()[0]: "".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    for section in TEXT.split("\n## ")[1:]
}


def executed(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "service"}
    exec(PROGRAMS[name], names)  # noqa: S102 our own documentation
    return names


@pytest.fixture(autouse=True)
def here(target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_MESH_DIR", str(target.home.directory))


def test_fastapi(controller: Device) -> None:
    app = executed("FastAPI")["app"]
    assert isinstance(app, FastAPI)
    scope = signed(controller, "POST", "/orders", b'{"a":1}')
    scope["headers"].append((b"content-type", b"application/json"))
    result = run(app, scope, body_of(b'{"a":1}'))
    assert (result.status, result.body) == (200, b'{"from":"laptop","order":{"a":1}}')


def test_wsgi(controller: Device) -> None:
    application = executed("WSGI")["application"]
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/x",
        "REQUEST_URI": "/x",
        "HTTP_AUTHORIZATION": controller.sign("GET", "/x").decode(),
        "wsgi.input": io.BytesIO(),
    }
    application.prepare()
    assert list(application(environ, lambda *_: None)) == [b"laptop"]


def test_flask(controller: Device) -> None:
    app = executed("Flask")["app"]
    assert isinstance(app, Flask)
    headers = {"Authorization": controller.sign("POST", "/orders").decode()}
    assert app.test_client().post("/orders", headers=headers).json == {"from": "laptop"}
    assert app.test_client().post("/orders").status_code == 400


def test_django_names_what_exists() -> None:
    names = executed("Django")
    for path in (
        *names["MIDDLEWARE"],
        *names["REST_FRAMEWORK"]["DEFAULT_AUTHENTICATION_CLASSES"],
    ):
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name)
    assert names["MIDDLEWARE"][0] == "amesh_sdk.django.AuthMeshMiddleware"
    assert not hasattr(global_settings, "AUTH_MESH"), "the name is nobody else's"


def test_aiohttp(controller: Device) -> None:
    names = executed("aiohttp")

    async def ask(app: web.Application) -> tuple[int, int]:
        async with TestClient(TestServer(app)) as client:
            headers = {"Authorization": controller.sign("POST", "/orders").decode()}
            good = await client.post("/orders", headers=headers)
            bad = await client.post("/orders")
            return good.status, bad.status

    assert asyncio.run(ask(names["app"])) == (200, 400)
    other = web.Application(middlewares=[auth_mesh_middleware()])
    other.router.add_post("/orders", names["orders"])
    assert asyncio.run(ask(other)) == (200, 400)


def test_the_modules_and_extras_of_the_table_are_there() -> None:
    rows = [
        line.split("|") for line in TEXT.split("| framework |")[1].split("\n\n")[0].splitlines()
    ]
    pyproject = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    for _, _, install, module, _, _ in rows[2:]:
        import_module(module.strip(" `"))
        if extra := re.search(r"\[(\w+)\]", install):
            assert f"\n{extra[1]} = [" in pyproject


def test_reasons_that_are_named_are_those_of_the_log() -> None:
    source = (Path(__file__).parents[3] / "amesh_sdk" / "guard.py").read_text(encoding="utf-8")
    for reason in ("nonce_store_not_shared", "clock_skew_near_limit"):
        assert f"`{reason}`" in TEXT
        assert f'"{reason}"' in source
