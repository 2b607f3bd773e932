"""Two workers behind a real nginx share what they remember in a real Redis."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.examples.recipes import ROOT, Examples, Request, check_door, signed
from tests.sdk.servers.processes import call, together


def port_in(path: Path, pattern: str) -> int:
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return int(found[1])


def test_redis_behind_a_load_balancer(examples: Examples) -> None:
    recipe = examples.recipe("load_balancer")
    redis_port = port_in(recipe.folder / "redis.conf", r"^port (\d+)")
    nginx_port = port_in(recipe.folder / "nginx.conf", r"listen (\d+);")
    ports = re.findall(r"--port (\d+)", recipe.readme.text)
    with ExitStack() as on:
        redis = on.enter_context(ExitStack())
        memory = redis.enter_context(recipe.serving("redis-server", port=redis_port))
        lives = [on.enter_context(ExitStack()) for _ in ports]
        workers = [
            life.enter_context(recipe.serving(f"--port {port}", on="devices/server"))
            for life, port in zip(lives, ports, strict=True)
        ]
        assert len(workers) == 2
        balancer = on.enter_context(recipe.serving("nginx", port=nginx_port))

        done = recipe.run("amesh fetch", on="devices/laptop")
        assert (done.status, json.loads(done.out)) == (0, {"device": "laptop"}), done.err
        assert call(balancer, "GET", "/whoami", by=examples.laptop).status == 200
        for worker in workers:  # they take turns
            worker.log.wait_for('/whoami HTTP/1.0" 200')

        # One request, many times at once, by way of both: one of them is let in, once.
        once = signed(examples.laptop, "GET", "/whoami")
        answers = together(40, lambda _: call(balancer, "GET", "/whoami", headers=once).status)
        assert Counter(answers) == {200: 1, 401: 39}
        for worker in workers:
            worker.log.wait_for("refused: replayed")

        # What is signed is the target as it was sent, and nginx leaves it so.
        odd = "/%77hoami?b=%2F&a=%C3%A9&a"
        assert call(balancer, "GET", odd, by=examples.laptop).status == 200

        last = signed(examples.laptop, "GET", "/whoami")
        assert call(workers[0], "GET", "/whoami", headers=last).status == 200
        os.killpg(memory.process.pid, signal.SIGKILL)  # as if it lost its power
        redis.close()
        forgetful = call(balancer, "GET", "/whoami", by=examples.laptop)
        assert (forgetful.status, forgetful.json) == (503, {"error": "unavailable"})
        memory = redis.enter_context(recipe.serving("redis-server", port=redis_port))
        memory.log.wait_for("Ready to accept connections")  # not before it has read its disk
        # Redis has on disk what was accepted: the worker that never saw it asks, and is told.
        assert call(workers[1], "GET", "/whoami", headers=last).status == 401
        assert call(balancer, "GET", "/whoami", by=examples.laptop).status == 200

        # nginx sends nothing twice: who meets a worker that is gone is told, and asks again.
        lives[1].close()
        asked = [call(balancer, "GET", "/whoami", by=examples.laptop).status for _ in range(4)]
        assert Counter(asked) == {502: 1, 200: 3}

        request = Request("GET", "/whoami")
        check_door(workers[0], examples.laptop, examples.revoke, request)
        assert call(balancer, "GET", "/whoami", by=examples.laptop).status == 401
    assert not recipe.readme.left


def test_the_settings_are_those_of_the_document() -> None:
    """examples/load_balancer/redis.conf runs Redis as docs/redis.md says."""
    document = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```text\n(.*?)```", document, re.DOTALL)
    config = (ROOT / "examples" / "load_balancer" / "redis.conf").read_text(encoding="utf-8")
    assert set(settings.splitlines()) < set(config.splitlines())
