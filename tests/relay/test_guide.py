"""What docs/relay.md says is so."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Final

from amesh_relay import config
from amesh_relay.counts import Counts
from amesh_relay.limits import Limits
from amesh_relay.metrics import Metrics

ROOT: Final = Path(__file__).resolve().parents[2]
GUIDE: Final = (ROOT / "docs/relay.md").read_text(encoding="utf-8")
MANUAL: Final = (ROOT / "man/text/amesh-relay.1.txt").read_text(encoding="utf-8")


class Nobody:
    """A relay without devices."""

    sockets = connections = sessions = 0
    is_draining = False


def test_the_limits_and_their_defaults() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", GUIDE, re.MULTILINE)
    assert {name.replace("-", "_"): int(value) for name, value in rows} == asdict(Limits())


def test_the_metrics_are_all_named() -> None:
    counts = Counts()
    counts.errors["x"] = counts.bootstrap["x"] = 1
    text = Metrics(counts, Nobody()).text().decode()
    exposed = set(re.findall(r"^(amesh_relay_\w+)[ {]", text, re.MULTILINE))
    assert set(re.findall(r"^\| `(amesh_relay_\w+)[`{]", GUIDE, re.MULTILINE)) == exposed


def test_the_files_of_settings_are_ones(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    examples += re.findall(r"((?:^    [a-z-]+ = .*\n)+)", MANUAL, re.MULTILINE)
    assert len(examples) == 2
    for text in examples:
        path = tmp_path / "relay.toml"
        path.write_text(re.sub(r"^ +", "", text, flags=re.MULTILINE))
        assert config.load(["--config", str(path)], {}) != config.Config()


def test_the_manual_names_every_signal_and_path() -> None:
    for word in (
        "SIGTERM",
        "SIGINT",
        "SIGHUP",
        "/health",
        "/ready",
        "/metrics",
        "AMESH_RELAY_CONFIG",
    ):
        assert word in MANUAL
