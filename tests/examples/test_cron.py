"""The lines that the README puts into a crontab, run as cron runs them.

There is no cron here: a few lines of shell stand in for the program `crontab`, which only keeps
a file. What would run at night runs at once, in the environment that cron gives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.recipes import PATH, Examples, signed
from tests.sdk.servers.processes import call
from tests.support.cli import PATIENCE_SECONDS, Done

CRONTAB = """\
#!/bin/sh
case $1 in
  -l) cat "$HOME/crontab" ;;
  -) new=$(cat) && printf '%s\\n' "$new" >"$HOME/crontab" ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture
def home(examples: Examples) -> Path:
    """The home directory of somebody whose device is in ~/.amesh, as it is by default."""
    home = examples.root / "home"
    shutil.copytree(examples.root / "devices" / "laptop", home / ".amesh")
    return home


def at_night(line: str, home: Path) -> Done:
    """What cron does with a line of a crontab (crontab(5))."""
    minute, hour, *_, command = line.split(maxsplit=5)
    assert 0 <= int(minute) < 60
    assert 0 <= int(hour) < 24
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=home,
        env={"HOME": str(home), "LOGNAME": "me", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS * 3,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_cron(examples: Examples, home: Path, tmp_path: Path) -> None:
    recipe, api = examples.recipe("cron"), examples.recipe("fastapi")
    (tmp_path / "crontab").write_text(CRONTAB)
    (tmp_path / "crontab").chmod(0o755)
    for part in ('echo "15', 'echo "30'):
        done = recipe.run(part, on="devices/laptop", PATH=f"{tmp_path}{os.pathsep}{PATH}")
        assert done.status == 0, done.err
    fetch, report = (home / "crontab").read_text().splitlines()

    with api.serving("uvicorn", on="devices/server") as server:
        assert api.run("python client.py", on="devices/laptop").status == 0
        orders = [{"amount": 100, "ordered_by": "laptop"}]

        assert recipe.run("amesh fetch", on="devices/laptop").status == 0
        assert json.loads((recipe.folder / "orders.json").read_text()) == orders
        said = recipe.run("python report.py", on="devices/laptop")
        assert (said.status, said.out) == (0, "1 orders, 100 in all\n"), said.err

        assert at_night(fetch, home) == Done(0, "", "")
        assert json.loads((home / "orders.json").read_text()) == orders
        assert at_night(report, home) == Done(0, "1 orders, 100 in all\n", "")

        once = signed(examples.laptop, "GET", "/orders")
        statuses = [call(server, "GET", "/orders", headers=once).status for _ in range(2)]
        assert statuses == [200, 401]
        examples.revoke()
        (home / "orders.json").write_text("of last night")
        refused = at_night(fetch, home)
        assert refused.status == 10
        assert "unauthorized" in refused.out + refused.err, "cron mails it"
        assert (home / "orders.json").read_text() == "of last night"
        refused = at_night(report, home)
        assert (refused.status, refused.out) == (1, "")
        assert "401" in refused.err
    assert not recipe.readme.left
