"""Protect an API, with each of the frameworks: one service, three spellings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.examples.recipes import Examples, Request, browse, check_door, signed
from tests.sdk.servers.processes import call
from tests.support.cli import listed

SERVERS = {"fastapi": "uvicorn", "flask": "gunicorn", "django": "gunicorn"}


@pytest.mark.parametrize("name", SERVERS)
def test_protect_an_api(examples: Examples, name: str) -> None:
    recipe = examples.recipe(name)
    if name == "django":
        assert recipe.run("manage.py check").out.startswith("System check identified no issues")
    with recipe.serving(SERVERS[name], on="devices/server") as server:
        order = {"amount": 100, "ordered_by": "laptop"}
        added = recipe.run("python client.py", on="devices/laptop")
        assert (added.status, json.loads(added.out)) == (0, order), added.err
        shown = recipe.run("amesh fetch", on="devices/laptop")
        assert (shown.status, json.loads(shown.out)) == (0, [order]), shown.err
        # The target trusts nobody else, itself included: the trust is one-way.
        assert call(server, "GET", "/orders", by=examples.server).status == 401

        refused = browse(recipe.readme.url("/orders"))
        assert (refused.status, refused.body) == (400, b'{"error":"missing_header"}')
        assert browse(recipe.readme.url("/health")).json == {"status": "ok"}

        other = signed(examples.laptop, "POST", "/orders", b'{"amount": 1}')
        changed = call(server, "POST", "/orders", body=b'{"amount": 2}', headers=other)
        assert changed.status == 401
        for wrong in (b'{"amount": 0}', b'{"amount": "many"}', b"[]", b"not JSON"):
            headers = signed(examples.laptop, "POST", "/orders", wrong)
            answer = call(server, "POST", "/orders", body=wrong, headers=headers)
            assert answer.status in (400, 422), wrong
        listing = signed(examples.laptop, "GET", "/orders")
        assert call(server, "GET", "/orders", headers=listing).json == [order]

        request = Request("POST", "/orders", b'{"amount": 7}', status=201)
        check_door(server, examples.laptop, examples.revoke, request)
    assert not recipe.readme.left


def test_the_commands_of_the_overview(examples: Examples, devices: Path) -> None:
    """The devices of all these tests are made by it; here the rest of examples/README.md."""
    overview = examples.recipe("")
    assert devices.parent.joinpath("README.md").read_text().count("pair.py laptop server") == 1
    done = overview.run("amesh revoke", on="devices/server")
    assert done.status == 0, done.err
    assert not listed(examples.server.home.directory)
    assert not set(overview.readme.left) - {
        overview.readme.command("pair.py"),
        *(f"export AUTH_MESH_DIR=$PWD/devices/{name}" for name in ("laptop", "server")),
    }
