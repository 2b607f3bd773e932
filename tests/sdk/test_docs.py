"""docs/sdk.md is true: its programs run, its tables are the code's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from amesh_core.errors import AmeshError, Unauthenticated
from amesh_sdk.answers import answer
from amesh_sdk.asgi import AuthMeshMiddleware
from tests.sdk.devices import Device
from tests.sdk.service import send
from tests.support.asgi import serving
from tests.support.errors import subclasses

TEXT = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose first column is called so."""
    rows = TEXT.split(f"| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_quick_start_runs(
    target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, client = PROGRAMS[:2]
    names: dict[str, Any] = {}
    # The annotations of its functions are looked up where it believes to be.
    exec(service, names)  # noqa: S102 our own documentation
    app = names["app"]
    assert isinstance(app, FastAPI)
    monkeypatch.setenv("AUTH_MESH_DIR", str(target.home.directory))
    with serving(app) as server:
        monkeypatch.setenv("AUTH_MESH_DIR", str(controller.home.directory))
        called: dict[str, Any] = {}
        exec(client.replace("https://api.example", server.url), called)  # noqa: S102 the same
        assert called["response"].json() == {"from": "laptop"}
        assert send(server, "POST", "/orders", {}).status_code == 400
        assert send(server, "GET", "/health", {}).status_code == 404


def test_the_options_are_those_of_the_middleware() -> None:
    parameters = inspect.signature(AuthMeshMiddleware).parameters
    documented = {row[0].strip("`"): row[1].strip("`") for row in table("option")}
    assert documented.keys() == parameters.keys() - {"app", "settings"}
    for name, said in documented.items():
        value = {"memory": "None", "1 MiB": "1048576"}.get(said, said)
        assert value == str(parameters[name].default)


def test_every_answer_is_documented() -> None:
    documented = {
        (int(row[0]), code) for row in table("status") for code in re.findall(r"`(\w+)`", row[1])
    }
    given = {
        (what.status, what.body.decode().split('"')[3])
        for what in (answer(kind.__new__(kind)) for kind in subclasses(AmeshError))
    }
    assert documented == given


def test_every_reason_is_documented() -> None:
    documented = {row[0].strip("`") for row in table("`reason`")}
    assert documented == {kind.code for kind in subclasses(Unauthenticated)} - {"unauthorized"}
