"""What the READMEs of the recipes say to install is what the recipes need."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest

from tests.examples.recipes import FOLDERS, ROOT, Readme

EXAMPLES = ROOT / "examples"
SERVERS = ("uvicorn", "gunicorn")


def test_every_recipe_is_in_the_overview() -> None:
    overview = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\((\w+)/README\.md\)", overview)) == FOLDERS
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders - {"devices"} == set(FOLDERS)


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def installed_by(line: str) -> set[str]:
    """The distributions that `pip install ...` asks for, and those that they ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted: list[str] = []
    for argument in shlex.split(line)[2:]:
        if found := re.fullmatch(r"authmesh(?:\[([a-z,0-9]+)\])?", argument):
            wanted += project["dependencies"]
            for extra in (found[1] or "").split(",") if found[1] else ():
                wanted += project["optional-dependencies"][extra]
        else:
            wanted.append(argument)
    direct = {name_of(requirement) for requirement in wanted}
    return direct | {
        name_of(requirement)
        for name in direct
        for requirement in requires(name) or ()
        if "extra ==" not in requirement
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_recipe_needs_is_what_its_readme_installs(folder: str) -> None:
    readme = Readme(EXAMPLES / folder / "README.md")
    (line,) = readme.installs
    installed = installed_by(line)
    own = {path.stem for path in (EXAMPLES / folder).iterdir()}
    for path in sorted((EXAMPLES / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                top = module.partition(".")[0]
                if top in sys.stdlib_module_names or top in own or top.startswith("amesh_"):
                    continue
                providers = {name_of(name) for name in packages_distributions()[top]}
                assert providers & installed, f"{path.name} imports {module}"
    for command in readme.commands:
        for server in SERVERS:
            assert server not in shlex.split(command) or server in installed


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_recipe_names_no_place_of_one_machine(folder: str) -> None:
    for path in (EXAMPLES / folder).rglob("*"):
        if path.suffix in (".py", ".conf"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|opt|var)/", text), path
