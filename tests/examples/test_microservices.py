"""Service A calls service B; and local development, which is the same code in two directories."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from amesh_core.identity import Role
from tests.examples.recipes import Examples, Readme, Recipe, Request, browse, check_door
from tests.sdk.devices import Device
from tests.support.cli import AtTerminal


def check_services(recipe: Recipe, urls: Readme, a: Device, b: Device, *on: str) -> None:
    """Run both services; A greets as long as B is there, and trusts it."""
    greeting, internal = urls.url("/hello/"), urls.url("/internal/users/")
    at_a, at_b = on or (None, None)
    with recipe.serving("service_a:app", on=at_a):
        with recipe.serving("service_b:app", on=at_b) as service_b:
            assert browse(greeting).json == {"message": "Hello, Ada!"}
            assert browse(greeting.removesuffix("7") + "9").status == 404
            assert browse(internal).status == 400
            request = Request("GET", urlsplit(internal).path)
            check_door(service_b, a, lambda: b.revoke(a), request)
            assert browse(greeting).status == 502
        assert browse(greeting).status == 502


def test_microservices(examples: Examples) -> None:
    recipe = examples.recipe("microservices")
    on = ("devices/laptop", "devices/server")
    check_services(recipe, recipe.readme, examples.laptop, examples.server, *on)
    assert not recipe.readme.left


def test_local_development_by_a_script(examples: Examples) -> None:
    recipe = examples.recipe("local_development")
    done = recipe.run("pair.py")
    assert done.status == 0, done.err
    a = examples.device("local_development/devices/service-a")
    b = examples.device("local_development/devices/service-b")
    check_pair(a, b)
    assert recipe.run("pair.py").status == 3, "a pair that is there is left alone"
    check_pair(a, b)
    # The other spelling of the ceremony is the next test's.
    for part in ("service-a amesh init", "service-b amesh init", "amesh listen", "amesh invite"):
        recipe.readme.command(part)
    check_services(recipe, examples.recipe("microservices").readme, a, b)
    assert not recipe.readme.left


def check_pair(controller: Device, target: Device) -> None:
    """Each has the other on its list, and nobody else."""
    lists = [device.home.allow_list().devices for device in (controller, target)]
    assert [[(known.device_id, known.role) for known in devices] for devices in lists] == [
        [(target.device_id, Role.TARGET)],
        [(controller.device_id, Role.CONTROLLER)],
    ]


def test_local_development_by_hand(examples: Examples) -> None:
    """The commands of the README, typed into two terminals by two people."""
    recipe = examples.recipe("local_development")
    for part in ("service-a amesh init", "service-b amesh init"):
        assert recipe.run(part).status == 0
    listen = _at_terminal(recipe, recipe.readme.command("amesh listen"))
    code, relay = listen.sees(r"amesh invite (\d{6}) "), listen.sees(r"--relay (ws\S+/ws)")
    command = recipe.readme.command("amesh invite")
    assert relay in command, "the README says what `listen` prints"
    invite = _at_terminal(recipe, command.replace("482916", code))
    listen.types(invite.sees(r"digits (\d{3} \d{3})"))
    invite.sees(r"\[y/N\]")
    invite.types("y")
    assert listen.ends() == invite.ends() == 0
    services = [examples.device(f"local_development/devices/service-{name}") for name in ("a", "b")]
    check_pair(*services)


def _at_terminal(recipe: Recipe, command: str) -> AtTerminal:
    variable, program, *arguments = shlex.split(command)
    name, _, directory = variable.partition("=")
    assert (name, program) == ("AUTH_MESH_DIR", "amesh")
    return AtTerminal(recipe.folder / directory, *arguments)
