"""The devices for a user's own tests are real ones, and the tests of docs/servers.md pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from amesh_core.errors import IdentityExists
from amesh_sdk.asgi import AuthMeshMiddleware
from amesh_sdk.testing import PairedDevices, paired_devices
from tests.sdk.recorder import Recorder, refused
from tests.support.asgi import scope_of
from tests.support.cli import environment
from tests.support.home import cheap_init

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8").split("\n## Testing\n")[1]
CONFTEST, FASTAPI, FLASK, DJANGO = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

# What pytest-django does.
SET_UP_DJANGO = """
import django
from django.test.utils import setup_test_environment

django.setup()
setup_test_environment()
"""


@pytest.mark.parametrize(
    ("recipe", "conftest", "program"),
    [
        ("fastapi", CONFTEST, FASTAPI),
        ("flask", CONFTEST, FLASK),
        ("django", CONFTEST + SET_UP_DJANGO, DJANGO),
    ],
    ids=["fastapi", "flask", "django"],
)
def test_the_documented_tests_pass(
    tmp_path: Path, recipe: str, conftest: str, program: str
) -> None:
    (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
    (tmp_path / "test_orders.py").write_text(program, encoding="utf-8")
    path = f"{ROOT / 'examples' / recipe}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path],
        cwd=tmp_path,
        env=environment(
            tmp_path,
            PYTHONPATH=path,
            DJANGO_SETTINGS_MODULE="shop.settings",
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PairedDevices:
    cheap_init(monkeypatch)
    for name in ("AUTH_MESH_PASSPHRASE", "AMESH_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return paired_devices(tmp_path / "devices")


def status_of(devices: PairedDevices, headers: dict[str, str]) -> int:
    app = AuthMeshMiddleware(Recorder(), settings=devices.service)
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return refused(app, scope_of("GET", "/", lines))[0]


def test_one_may_call_the_other_and_nobody_else(devices: PairedDevices, tmp_path: Path) -> None:
    assert status_of(devices, devices.caller.sign("GET", "http://h/")) == 200
    assert status_of(devices, {}) == 400
    other = paired_devices(tmp_path / "others")
    assert status_of(devices, other.caller.sign("GET", "http://h/")) == 401


def test_they_are_found_by_the_environment_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passphrase of the developer's own would else not open keys made under another."""
    cheap_init(monkeypatch)
    monkeypatch.setenv("AUTH_MESH_PASSPHRASE", "a developer's own")
    monkeypatch.setenv("AMESH_BOOTSTRAP_TOKEN", "one that is not for tests")
    devices = paired_devices(tmp_path / "devices")
    monkeypatch.setenv("AUTH_MESH_DIR", str(devices.service.directory))
    headers = [
        (name.lower().encode(), value.encode())
        for name, value in devices.caller.sign("GET", "http://h/").items()
    ]
    assert refused(AuthMeshMiddleware(Recorder()), scope_of("GET", "/", headers))[0] == 200


def test_a_device_that_is_there_is_not_replaced(devices: PairedDevices) -> None:
    with pytest.raises(IdentityExists):
        paired_devices(devices.service.directory.parent)
