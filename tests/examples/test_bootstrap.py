"""A server that nobody logs in to, from its token to its first signed request."""

from __future__ import annotations

import json

from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.examples.recipes import Examples


def test_bootstrap(examples: Examples) -> None:
    recipe = examples.recipe("bootstrap")
    with recipe.serving("amesh_relay"):
        minted = recipe.run("--detach", on="devices/laptop")
        assert minted.status == 0, minted.err
        with recipe.serving("uvicorn"):
            watched = recipe.run("--watch", on="devices/laptop")
            assert watched.status == 0, watched.err
            fetched = recipe.run("amesh fetch", on="devices/laptop")
            assert fetched.status == 0, fetched.err
    server = Home.open(Settings(recipe.folder / "state")).identity
    assert server.friendly_name == "prod-server"
    assert server.device_id in watched.err
    assert json.loads(fetched.out) == {"you are": examples.laptop.device_id}
    assert not recipe.readme.left
