"""SIGHUP: limits and log level change while devices are here; a mistake changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from tests.support.relay import RelayProcess, bystanders, hear, raw_connection, relay_process

DONE = "the settings were read again"
KEPT = "the settings stay as they were"


@contextmanager
def configured(file: Path, text: str) -> Iterator[RelayProcess]:
    """A relay that read its settings from a file."""
    file.write_text(text)
    with relay_process("--config", str(file)) as relay:
        yield relay


def reload(relay: RelayProcess, said: str) -> None:
    relay.process.send_signal(signal.SIGHUP)
    relay.says(said)


def answer_to_a_new_device(relay: RelayProcess) -> wire.RelayFrame:
    with connect(relay.url, proxy=None) as device:
        device.send(wire.encode(wire.Listen("123456")))
        return hear(device)


def test_limits_and_log_level_change_under_a_pairing(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    with configured(file, "max-sessions = 1") as relay, bystanders(relay) as pair:
        assert answer_to_a_new_device(relay) == wire.RelayErrorFrame("relay_capacity")
        assert " is open" not in relay.log()
        file.write_text('max-sessions = 2\nlog-level = "debug"')
        reload(relay, DONE)
        assert answer_to_a_new_device(relay) == wire.Ack()
        relay.says(" is open")
        pair.check()
        file.write_text("max-sessions = 1\nmax-connections-per-address = 2")
        relay.process.send_signal(signal.SIGHUP)
        relay.says(DONE, times=2)
        # Who is inside stays, and nobody else comes in.
        with connect(relay.url, proxy=None) as device:
            assert hear(device) == wire.RelayErrorFrame("too_many_connections")
        pair.check()


def test_sockets_are_counted_by_the_new_limits_too(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    with configured(file, "max-connections-per-address = 1") as relay:
        file.write_text("max-connections-per-address = 50")
        reload(relay, DONE)
        silent = [raw_connection(relay) for _ in range(90)]
        with bystanders(relay) as pair:
            pair.check()
        for raw in silent:
            raw.close()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('max-sessions = "many"', "max-sessions: 'many' is not a number"),
        ("max-sessions = ", "Invalid value"),
        ("max-session = 5", "max-session is not a setting"),
        ('unix = "/run/x"\nmax-sessions = 5', "--unix and --host exclude each other"),
    ],
)
def test_a_mistake_changes_nothing_and_is_said(tmp_path: Path, text: str, where: str) -> None:
    file = tmp_path / "relay.toml"
    with configured(file, "max-sessions = 1") as relay, bystanders(relay) as pair:
        file.write_text(text)
        reload(relay, KEPT)
        assert where in relay.log()
        assert answer_to_a_new_device(relay) == wire.RelayErrorFrame("relay_capacity")
        pair.check()


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    with configured(file, "max-sessions = 1") as relay, bystanders(relay) as pair:
        file.unlink()
        reload(relay, f"{KEPT}: {file}: no such file")
        assert answer_to_a_new_device(relay) == wire.RelayErrorFrame("relay_capacity")
        pair.check()


def test_what_cannot_change_is_said(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    with configured(file, "max-sessions = 1") as relay, bystanders(relay) as pair:
        file.write_text(
            'max-sessions = 2\nmetrics = "127.0.0.1:9"\nstate = "redis://:hunter2@localhost"'
        )
        reload(relay, DONE)
        # Which ones, and not what they say: a state may hold a password.
        assert "change without a restart, not metrics, state" in relay.log()
        assert "hunter2" not in relay.log()
        assert answer_to_a_new_device(relay) == wire.Ack()
        pair.check()
