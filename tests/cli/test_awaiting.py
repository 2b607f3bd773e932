"""What is shown while `amesh provision` waits; what others wrote never reaches a screen raw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from amesh_cli.awaiting import AtTerminal, named
from amesh_core.admission import Announced
from amesh_core.errors import AlreadyListed, BadAnnouncement, RelayLost
from amesh_core.identity import device_id
from amesh_core.wire.provisioned import Minted
from tests.support.bootstrap_target import SoftKey

RELAY = "wss://relay.example/ws"
MINTED = Minted(
    jti="bt_" + "0" * 32,
    token_hash=bytes(32),
    name="prod-server",
    relay=RELAY,
    minted_at="2026-01-02T03:04:05.000Z",
    expires_at="2026-01-02T04:04:05.000Z",
)
SECOND = Announced(MINTED.jti, SoftKey().public, "thief", proven=True)


@pytest.fixture
def watcher() -> AtTerminal:
    return AtTerminal([MINTED])


def test_a_relay_that_comes_and_goes_is_said_once_each_time(
    watcher: AtTerminal, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher.trouble(RELAY, RelayLost("the connection to the relay was lost"))
    watcher.trouble(RELAY, RelayLost("the connection to the relay was lost"))
    watcher.watching(RELAY)
    watcher.trouble(RELAY, RelayLost("the connection to the relay was lost"))
    shown = capsys.readouterr().err
    assert shown.count("was lost; trying again") == 2
    assert shown.count(f"Connected to {RELAY}") == 1
    assert shown.count('Waiting for "prod-server"') == 1


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("already_watched", "another connection waits"),
        ("token_already_used", "takes it for used"),
        ("relay_overloaded", "full"),
        ("pay_me_or_else", "the relay refuses it"),
    ],
)
def test_the_words_of_a_relay_are_ours(
    watcher: AtTerminal, capsys: pytest.CaptureFixture[str], reason: str, word: str
) -> None:
    watcher.held_up(MINTED, reason)
    shown = capsys.readouterr().err
    assert word in shown
    assert reason not in shown


def test_a_second_device_is_a_warning_with_its_id(
    watcher: AtTerminal, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher.used_twice(MINTED, SECOND)
    shown = capsys.readouterr().err
    assert "used twice" in shown
    assert device_id(SECOND.public_key) in shown
    assert "stolen" in shown


def test_strangers_cannot_fill_the_screen(
    watcher: AtTerminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(100):
        watcher.refused(MINTED, BadAnnouncement("no"))
        watcher.refused(MINTED, AlreadyListed("am_0123456789abcdef"))
    shown = capsys.readouterr().err
    assert shown.count("without the token") == 1
    assert shown.count("am_0123456789abcdef is on the allow list already") == 1


def test_why_a_token_is_not_waited_for_any_more(
    watcher: AtTerminal, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher.settled(replace(MINTED, recorded_at=MINTED.expires_at))
    watcher.settled(replace(MINTED, cancelled_at=MINTED.expires_at))
    watcher.settled(MINTED)
    recorded, cancelled, expired = capsys.readouterr().err.splitlines()
    assert "Another `amesh provision` recorded" in recorded
    assert "was cancelled" in cancelled
    assert "has expired" in expired


def test_a_fleet_is_named_by_its_first_and_last() -> None:
    fleet = [replace(MINTED, name=f"web-{n}") for n in range(1, 21)]
    assert named(fleet[:2]) == '"web-1", "web-2"'
    assert named(fleet) == '20 servers ("web-1" to "web-20")'
