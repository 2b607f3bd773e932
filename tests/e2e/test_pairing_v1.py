"""`--pairing v1` through a real relay: with ourselves, with Node's devices, and with version 2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amesh_core.identity import Peer, Role
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support.ceremony import Device
from tests.support.cli import AtTerminal, amesh
from tests.support.home import NOW, make_home
from tests.support.in_process import Run, runner
from tests.support.node import NodeController, NodeTarget
from tests.support.relay import RelayProcess, relay_process

INVITE_LINE = r"amesh invite (\d{6})"
DIGITS = r"digits (\d{3} \d{3})"
MINE = r"type the word mine"
V1 = ("--pairing", "v1")
NODE = Device.named("node-js")
NOWHERE = "ws://127.0.0.1:9/ws"  # discard: what ends before it connects needs no relay


@pytest.fixture
def relay() -> Iterator[RelayProcess]:
    with relay_process() as process:
        yield process


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    target, controller = tmp_path / "target", tmp_path / "controller"
    for home in (target, controller):
        make_home(home, name=home.name)
    return target, controller


def listed(directory: Path) -> dict[str, str]:
    """Device id -> role of everything on the list, read from the file itself."""
    devices = json.loads((directory / "allow_list.json").read_bytes())["devices"]
    return {device["deviceId"]: device["role"] for device in devices}


def entry(directory: Path) -> dict[str, Any]:
    """The one device on the list of `directory`, as the file has it."""
    (device,) = json.loads((directory / "allow_list.json").read_bytes())["devices"]
    assert isinstance(device, dict)
    return device


def plain(screen: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen))


def test_two_of_ours(relay: RelayProcess, homes: tuple[Path, Path]) -> None:
    target, controller = homes
    listen = AtTerminal(target, "listen", "--relay", relay.url, *V1)
    listen.sees(MINE)
    listen.types("mine")
    code = listen.sees(INVITE_LINE)
    listen.sees(r"--pairing v1")
    invite = AtTerminal(controller, "invite", code, "--relay", relay.url, *V1)
    invite.sees(MINE)
    invite.types("mine")
    listen.types(invite.sees(DIGITS))
    listen.sees("The digits matched")
    invite.sees(r"\[y/N\]")
    assert listed(controller) == {}
    invite.types("y")
    assert listen.ends() == invite.ends() == 0
    for screen in (listen, invite):
        assert f"whoever runs the relay at {relay.url}" in plain(screen.seen)
        assert "can intercept" in plain(screen.seen)
    for home, role in ((target, "controller"), (controller, "target")):
        assert entry(home)["role"] == role
        assert entry(home)["pairing"] == "v1"
        assert "older pairing" in amesh(home, "list").out
        assert json.loads(amesh(home, "list", "--json").out)["devices"][0]["pairing"] == "v1"


def test_pairing_again_with_version_2_takes_the_mark_away(
    relay: RelayProcess, homes: tuple[Path, Path]
) -> None:
    target, controller = homes
    at_target, at_controller = (Home.open(Settings(directory=home)) for home in homes)
    for home, other, role in (
        (at_target, at_controller, Role.CONTROLLER),
        (at_controller, at_target, Role.TARGET),
    ):
        me = other.identity
        peer = Peer(me.device_id, me.public_key, me.friendly_name, role)
        with home.editing_allow_list(NOW) as edit:
            edit.allow_list = edit.allow_list.record(
                peer, added_by="handshake", now=NOW, limit=1, pairing="v1"
            )
        assert entry(home.directory)["pairing"] == "v1"
    listen = AtTerminal(target, "listen", "--relay", relay.url, "--replace", "controller")
    code = listen.sees(INVITE_LINE)
    invite = AtTerminal(controller, "invite", code, "--relay", relay.url)
    listen.types(invite.sees(DIGITS))
    invite.sees(r"\[y/N\]")
    invite.types("y")
    assert listen.ends() == invite.ends() == 0
    assert "pairing" not in entry(target)
    assert "pairing" not in entry(controller)


def test_a_node_target(relay: RelayProcess, homes: tuple[Path, Path]) -> None:
    _, controller = homes
    node = NodeTarget(relay.url, NODE)
    invite = AtTerminal(
        controller, "invite", "482916", "--relay", relay.url, *V1, "--accept-interception"
    )
    node.meet()
    node.type(invite.sees(DIGITS).replace(" ", ""))  # and it is gone
    invite.sees(r"\[y/N\]")
    invite.types("y")
    assert invite.ends() == 0
    assert "can intercept" in plain(invite.seen)  # said, though nothing was asked
    assert listed(controller) == {NODE.identity.device_id: "target"}
    assert entry(controller)["pairing"] == "v1"
    assert len(node.side.recorded) == 1


def test_a_node_controller(relay: RelayProcess, homes: tuple[Path, Path]) -> None:
    target, _ = homes
    listen = AtTerminal(
        target, "listen", "--relay", relay.url, *V1, "--accept-interception", "--trust-for", "90d"
    )
    node = NodeController(relay.url, NODE, listen.sees(INVITE_LINE))
    digits = node.meet()
    listen.sees("Type the six digits")
    listen.types(digits)
    assert node.finish() == "sas_confirmed"
    assert listen.ends() == 0
    assert listed(target) == {NODE.identity.device_id: "controller"}
    assert entry(target)["pairing"] == "v1"
    assert entry(target)["expiresAt"] is not None
    assert len(node.side.recorded) == 1


def test_wrong_digits_leave_node_s_controller_without_an_entry(
    relay: RelayProcess, homes: tuple[Path, Path]
) -> None:
    target, _ = homes
    listen = AtTerminal(target, "listen", "--relay", relay.url, *V1, "--accept-interception")
    node = NodeController(relay.url, NODE, listen.sees(INVITE_LINE))
    digits = node.meet()
    listen.sees("Type the six digits")
    listen.types(f"{(int(digits) + 1) % 1_000_000:06d}")
    assert node.finish() == "sas_rejected"
    assert listen.ends() == 6
    assert listed(target) == {}
    assert node.side.recorded == []


def test_a_no_at_the_controller_names_what_is_left_to_do(
    relay: RelayProcess, homes: tuple[Path, Path]
) -> None:
    _, controller = homes
    node = NodeTarget(relay.url, NODE)
    invite = AtTerminal(
        controller, "invite", "482916", "--relay", relay.url, *V1, "--accept-interception"
    )
    node.meet()
    node.type(invite.sees(DIGITS).replace(" ", ""))
    invite.sees(r"\[y/N\]")
    invite.types("n")
    assert invite.ends() == 6
    assert "the target may have recorded this device" in plain(invite.seen)
    assert "revoke it there" in plain(invite.seen)
    assert listed(controller) == {}


# --- the flag ---------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["y", "", "Mine"])
def test_only_the_word_is_an_answer(homes: tuple[Path, Path], answer: str) -> None:
    target, _ = homes
    listen = AtTerminal(target, "listen", "--relay", NOWHERE, *V1)
    listen.sees(MINE)
    listen.types(answer)
    assert listen.ends() == 1
    assert "nothing was changed" in listen.seen
    assert "amesh invite" not in listen.seen


PUBLIC = [
    (),
    ("--relay", "wss://relay.authmesh.dev/ws"),
    ("--relay", "wss://RELAY.authmesh.dev:443/ws?x"),
    ("--relay", "ws://relay.authmesh.dev./other"),
]


@pytest.mark.parametrize("options", PUBLIC)
@pytest.mark.parametrize("command", [("listen", "--digits-stdin"), ("invite", "482916")])
def test_the_public_relay_is_refused(
    homes: tuple[Path, Path],
    quickly: Run,
    command: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    done = quickly(
        homes[0],
        *command,
        *options,
        *V1,
        "--accept-interception",
        *(("--assume-match",) if command[0] == "invite" else ()),
    )
    assert done.status == 2
    assert "not done over the public relay" in done.err


@pytest.mark.parametrize(
    "url", ["ws://[::1/ws", "ws://host:x/ws", "http://host/ws", "ws://h/\x1b[2J", "ws://"]
)
def test_a_url_of_no_relay_is_refused_before_it_is_shown(
    homes: tuple[Path, Path], quickly: Run, url: str
) -> None:
    done = quickly(homes[0], "invite", "482916", "--assume-match", f"--relay={url}", *V1)
    assert done.status == 2
    assert "can intercept" not in done.err
    assert "\x1b" not in done.err


def test_without_a_terminal_the_flag_is_named(homes: tuple[Path, Path], quickly: Run) -> None:
    for command in (("listen", "--digits-stdin"), ("invite", "482916", "--assume-match")):
        done = quickly(homes[0], *command, "--relay", NOWHERE, *V1)
        assert done.status == 2
        assert "--accept-interception" in done.err
        assert "can intercept" in done.err


def test_there_is_nothing_to_accept_without_v1(homes: tuple[Path, Path], quickly: Run) -> None:
    done = quickly(
        homes[0],
        "invite",
        "482916",
        "--assume-match",
        "--accept-interception",
        "--relay",
        NOWHERE,
    )
    assert done.status == 2
    assert "--pairing v1" in done.err


@pytest.mark.parametrize("v1_side", ["listen", "invite"])
def test_a_mismatch_does_not_name_the_flag_to_who_speaks_version_2(
    homes: tuple[Path, Path], relay: RelayProcess, v1_side: str
) -> None:
    target, controller = homes
    older = (*V1, "--accept-interception")
    listen = AtTerminal(
        target, "listen", "--relay", relay.url, *(older if v1_side == "listen" else ())
    )
    invite = AtTerminal(
        controller,
        "invite",
        listen.sees(INVITE_LINE),
        "--relay",
        relay.url,
        *(older if v1_side == "invite" else ()),
    )
    v2 = invite if v1_side == "listen" else listen
    assert v2.ends() == 6
    assert "offered an older pairing" in plain(v2.seen)
    assert "update amesh on the other device" in plain(v2.seen)
    assert "--pairing" not in plain(v2.seen)
    v1 = listen if v1_side == "listen" else invite
    assert v1.ends() in (5, 6)
    if v1_side == "invite":
        assert "offered the current pairing" in plain(v1.seen)
    assert listed(target) == listed(controller) == {}


def test_serve_needs_the_word_too(homes: tuple[Path, Path]) -> None:
    target, controller = homes
    listen = AtTerminal(target, "listen", "--serve", "127.0.0.1:0", *V1)
    listen.sees(MINE)
    listen.types("mine")
    line = listen.sees(r"(amesh invite \d{6} --relay ws://127.0.0.1:\d+/ws --pairing v1)")
    invite = AtTerminal(controller, *line.split()[1:])
    invite.sees(MINE)
    invite.types("mine")
    listen.types(invite.sees(DIGITS))
    invite.sees(r"\[y/N\]")
    invite.types("y")
    assert listen.ends() == invite.ends() == 0
    assert entry(target)["pairing"] == entry(controller)["pairing"] == "v1"
