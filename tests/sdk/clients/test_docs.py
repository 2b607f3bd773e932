"""docs/clients.md and docs/redis.md are true: their programs run, their tables are the code's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

import amesh_sdk.redis
from amesh_core.nonces import DEFAULT_NONCES_PER_DEVICE
from amesh_sdk import Amesh
from amesh_sdk.redis import RedisNonceStore
from tests.sdk.clients.scripted import scripted
from tests.sdk.devices import Device
from tests.support.asgi import answer, serving
from tests.support.redis import redis_server

DOCS = Path(__file__).parents[3] / "docs"
CLIENTS = (DOCS / "clients.md").read_text(encoding="utf-8")
REDIS = (DOCS / "redis.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", CLIENTS, re.DOTALL)
JSON_OK = answer("200 OK", "Content-Type: application/json", body=b"{}")


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_programs_of_the_clients_run(
    controller: Device, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("AUTH_MESH_DIR", str(controller.home.directory))
    with scripted(JSON_OK) as server:
        exec(program.replace("https://api.example", server.url), {"__name__": "__main__"})  # noqa: S102 ours
    (wire,) = server.verified(by=controller)
    assert wire.target.partition(b"?")[0].endswith(b"/orders")


def test_every_method_that_signs_is_documented() -> None:
    documented = set(re.findall(r"`[^`|]*amesh\.(\w+)\(", CLIENTS.split("\n\n## ")[0]))
    public = {name for name in vars(Amesh) if not name.startswith("_")}
    assert documented | {"asign", "verify"} == public


def test_the_program_of_the_server_runs(
    target: Device, controller: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", REDIS, re.DOTALL)
    with redis_server(tmp_path) as redis:
        monkeypatch.setenv("REDIS_URL", redis.url)
        monkeypatch.setenv("AUTH_MESH_DIR", str(target.home.directory))
        stores: list[RedisNonceStore] = []

        class Kept(RedisNonceStore):
            def __init__(self, url: str) -> None:
                super().__init__(url)
                stores.append(self)

        monkeypatch.setattr(amesh_sdk.redis, "RedisNonceStore", Kept)
        names: dict[str, Any] = {}
        exec(program, names)  # noqa: S102 our own documentation
        app = names["app"]
        assert isinstance(app, FastAPI)

        async def orders(request: Request) -> dict[str, str]:
            await stores[0].aclose()
            return {"from": request.state.auth_mesh.friendly_name}

        app.get("/orders")(orders)
        with serving(app) as server:
            response = controller.amesh.fetch(server.url + "/orders")
        assert response.json() == {"from": "laptop"}
        assert redis.run("DBSIZE") == "1"


def test_the_settings_for_redis_are_ones_that_it_knows(tmp_path: Path) -> None:
    (settings,) = re.findall(r"```text\n(.*?)```", REDIS, re.DOTALL)
    options = [part for line in settings.splitlines() for part in f"--{line}".split()]
    with redis_server(tmp_path, *options) as redis:
        assert "noeviction" in redis.run("CONFIG", "GET", "maxmemory-policy")
        rule = re.search(r"`ACL SETUSER shop on (.*?)`", REDIS)
        assert rule is not None
        redis.run("ACL", "SETUSER", "shop", "on", *rule[1].split())
        store = RedisNonceStore(redis.url.replace("//", "//shop:PASSWORD@"))
        assert store.spend("am_x", "n", 60) is True
        store.close()


def test_the_arguments_of_the_store_are_the_ones_documented() -> None:
    rows = REDIS.split("| argument |")[1].split("\n\n")[0].splitlines()[2:]
    documented = {
        name: cells[2].strip().strip("`")
        for cells in (row.split("|") for row in rows)
        for name in re.findall(r"`(\w+)`", cells[1])
    }
    parameters = inspect.signature(RedisNonceStore).parameters
    assert documented.keys() == parameters.keys()
    assert documented["prefix"] == parameters["prefix"].default
    assert documented["timeout_seconds"] == str(parameters["timeout_seconds"].default)
    limit = documented["max_nonces_per_device"].replace(" ", "")
    assert limit == str(DEFAULT_NONCES_PER_DEVICE)
