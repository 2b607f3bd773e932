"""Optional packages: wanted only by the module named after them, and missed by name."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import amesh_sdk

EXTRAS = {
    "flask": ("flask", "flask"),
    "django": ("django", "django"),
    "rest_framework": ("rest_framework", "djangorestframework"),
    "aiohttp_server": ("aiohttp", "aiohttp"),
    "fastapi": ("fastapi", "fastapi"),
}

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(names: list[str], program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(names=names) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    package, extra = EXTRAS[module]
    done = run([package], f"import amesh_sdk.{module}")
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: {package} is not installed: pip install 'authmesh[{extra}]'"


def test_the_rest_needs_none_of_them() -> None:
    """Nothing but the modules above: neither the core adapters, nor each other's."""
    ours = ["answers", "asgi", "extras", "gate", "guard", "heads", "opened", "paths", "workers"]
    modules = ", ".join(f"amesh_sdk.{name}" for name in [*ours, "wsgi", "signer"])
    packages = [package for package, _ in EXTRAS.values()] + ["werkzeug", "starlette"]
    done = run(packages, f"import amesh_sdk, {modules}")
    assert done.returncode == 0, done.stderr


def test_every_module_of_a_framework_is_in_the_table() -> None:
    frameworks = {package for package, _ in EXTRAS.values()}
    modules = {module.name for module in pkgutil.iter_modules(amesh_sdk.__path__)}
    assert modules & (frameworks - {"aiohttp"}) <= EXTRAS.keys()


def test_every_extra_is_declared() -> None:
    declared = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    for _, extra in EXTRAS.values():
        assert f"\n{extra} = [" in declared
