"""`amesh provision` as people and scripts run it: pipes, terminals, files, a real relay."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amesh_cli import provisioning as body
from amesh_cli.provisioning import Order
from amesh_core import admission, provisioning
from amesh_core.errors import TokenNotUsable, UsageError
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.provisioning import accept
from amesh_core.settings import Settings
from amesh_core.wire import relay as wire
from tests.support import vectors
from tests.support.bootstrap_target import TokenHolder, announcing, hear
from tests.support.cli import PATIENCE_SECONDS, AtTerminal, amesh, environment, listed
from tests.support.dying import each_death, put_back, snapshot
from tests.support.home import make_home
from tests.support.relay import RelayProcess, relay_process

NOWHERE = "ws://127.0.0.1:1/ws"
DETACHED = ("provision", "-n", "x", "--detach", "--relay", NOWHERE)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_home(tmp_path / "controller", name="laptop", now=time.time()).directory


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProcess]:
    with relay_process() as running:
        yield running


def home(directory: Path) -> Home:
    return Home.open(Settings(directory=directory))


def names(directory: Path) -> list[str]:
    """For whom tokens are remembered."""
    return [minted.name for minted in provisioned.read(home(directory))]


def given_out(directory: Path, name: str = "prod-server", relay: str = NOWHERE) -> str:
    """A token that the device in `directory` minted, without the command."""
    controller, now = home(directory), time.time()
    text = provisioning.mint(
        controller.key(),
        name=name,
        relay=relay,
        ttl_seconds=3600,
        now=now,
        jti_random=os.urandom(16),
    )
    provisioned.add(controller, [admission.remember(text, for_node=False)], now)
    return text


@contextmanager
def piped(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`amesh ARGUMENTS...` with pipes that are read while it runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "amesh_cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(directory),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line of stdout, which must come."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
    assert ready, "nothing was printed"
    return process.stdout.readline()


# --- at a terminal ----------------------------------------------------------------------


def test_a_person_provisions_a_server(directory: Path, relay: RelayProcess) -> None:
    person = AtTerminal(directory, "provision", "--name", "prod-server", "--relay", relay.url)
    text = person.sees(r"AMESH_BOOTSTRAP_TOKEN=(\S+)")
    assert accept(text, time.time()).claims.name == "prod-server"
    person.sees("treat it as a password")
    person.sees("Waiting for")
    holder = TokenHolder(text, name="container 7")
    holder.check(holder.announce(relay.url))
    person.sees(f'Recorded "prod-server" \\({holder.device_id}\\); it calls itself "container 7"')
    assert person.ends() == 0
    assert listed(directory) == {holder.device_id: "target"}
    assert person.seen.count(text) == 1


def test_a_person_sees_which_token_is_whose(directory: Path) -> None:
    person = AtTerminal(
        directory, "provision", "-n", "web", "--count", "2", "--detach", "--relay", NOWHERE
    )
    for name in ("web-1", "web-2"):
        text = person.sees(f'"{name}":\\s+AMESH_BOOTSTRAP_TOKEN=(\\S+)')
        assert accept(text, time.time()).claims.name == name
    assert person.ends() == 0


def test_ctrl_c_says_how_to_collect_later(directory: Path, relay: RelayProcess) -> None:
    person = AtTerminal(directory, "provision", "--name", "prod-server", "--relay", relay.url)
    text = person.sees(r"AMESH_BOOTSTRAP_TOKEN=(\S+)")
    person.sees("Waiting for")
    person.presses_ctrl_c()
    person.sees("amesh provision --watch")
    assert person.ends() == 130
    later = AtTerminal(directory, "provision", "--watch")
    later.sees("Waiting for")
    holder = TokenHolder(text)
    holder.check(holder.announce(relay.url))
    later.sees("Recorded")
    assert later.ends() == 0
    assert listed(directory) == {holder.device_id: "target"}


def test_what_a_server_calls_itself_never_reaches_the_terminal_raw(
    directory: Path, relay: RelayProcess
) -> None:
    person = AtTerminal(directory, "provision", "--name", "prod", "--relay", relay.url)
    text = person.sees(r"AMESH_BOOTSTRAP_TOKEN=(\S+)")
    person.sees("Waiting for")
    holder = TokenHolder(text, name='\x1b[2J\x07" is yours\u202e')
    holder.check(holder.announce(relay.url))
    person.sees(r"calls itself")
    assert person.ends() == 0
    assert "\x1b[2J" not in person.seen
    assert "\x07" not in person.seen
    assert "\u202e" not in person.seen
    assert r"\x1b[2J" in person.seen


def test_a_relay_that_is_not_there_is_said_once(directory: Path) -> None:
    person = AtTerminal(directory, "provision", "--name", "prod", "--relay", NOWHERE)
    person.sees("cannot reach the relay at .*; trying again until")
    person.presses_ctrl_c()
    assert person.ends() == 130
    assert person.seen.count("cannot reach") == 1


# --- through pipes ----------------------------------------------------------------------


def test_a_pipe_gets_the_token_alone_and_its_end(directory: Path, relay: RelayProcess) -> None:
    """Whoever reads the token to the end of the pipe does not wait for the server as well."""
    with piped(directory, "provision", "-n", "prod-server", "--relay", relay.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = process.stdout.read()
        assert text.endswith("\n")
        assert text.startswith("eyJ")
        assert process.poll() is None
        while "Waiting for" not in process.stderr.readline():
            pass
        holder = TokenHolder(text)
        holder.check(holder.announce(relay.url))
        assert "Recorded" in process.stderr.read()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert listed(directory) == {holder.device_id: "target"}


def test_detached_it_returns_at_once_and_is_collected_later(
    directory: Path, relay: RelayProcess
) -> None:
    done = amesh(directory, "provision", "--name", "prod", "--detach", "--relay", relay.url)
    assert done.status == 0
    assert accept(done.out, time.time()).claims.relay == relay.url
    assert done.out.count("\n") == 1
    assert done.out.strip() not in done.err
    with piped(directory, "provision", "--watch", "--json") as process:
        assert json.loads(line(process)) == {"event": "watching", "relay": relay.url}
        holder = TokenHolder(done.out)
        holder.check(holder.announce(relay.url))
        assert json.loads(line(process)) == {
            "event": "recorded",
            "jti": holder.jti,
            "name": "prod",
            "deviceId": holder.device_id,
            "friendlyName": "prod",
            "announcedName": "container 7",
            "proven": True,
        }
        assert process.wait(PATIENCE_SECONDS) == 0
    again = amesh(directory, "provision", "--watch")
    assert (again.status, again.out) == (0, "")
    assert "No token" in again.err


def test_json_says_all_that_a_script_needs(directory: Path) -> None:
    done = amesh(
        directory,
        "provision",
        "-n",
        "prod",
        "--detach",
        "--json",
        "--relay",
        NOWHERE,
        "--ttl",
        "90s",
    )
    assert done.err == ""
    minted = json.loads(done.out)
    claims = accept(minted["token"], time.time()).claims
    assert claims.expires_at - claims.issued_at == 90
    assert minted == {
        "event": "minted",
        "jti": claims.jti,
        "name": "prod",
        "relay": NOWHERE,
        "mintedAt": minted["mintedAt"],
        "expiresAt": minted["expiresAt"],
        "forNode": False,
        "state": "waiting",
        "deviceId": None,
        "token": minted["token"],
    }


def test_a_fleet(directory: Path) -> None:
    done = amesh(
        directory, "provision", "-n", "web", "--count", "3", "--detach", "--relay", NOWHERE
    )
    tokens = done.out.split()
    said = [accept(text, time.time()).claims.name for text in tokens]
    assert said == ["web-1", "web-2", "web-3"] == names(directory)
    assert len({accept(text, time.time()).claims.jti for text in tokens}) == 3


@pytest.mark.parametrize("state", ["memory", "sqlite"])
def test_two_machines_with_one_token(directory: Path, tmp_path: Path, state: str) -> None:
    """The second is refused by the controller, and shown there; also by way of a new relay."""
    options = ("--state", "memory" if state == "memory" else f"sqlite:{tmp_path / 'state'}")
    with relay_process(*options) as relay:
        text = given_out(directory, relay=relay.url)
        given_out(directory, "another", relay.url)
        first, second = TokenHolder(text, name="first"), TokenHolder(text, name="second")
        with piped(directory, "provision", "--watch", "--json") as process:
            assert json.loads(line(process))["event"] == "watching"
            first.check(first.announce(relay.url))
            assert json.loads(line(process))["deviceId"] == first.device_id
            assert_answers(process, relay, first, second)
            relay.process.terminate()
            assert relay.wait() == 0
            assert json.loads(line(process))["event"] == "relay_trouble"
            with relay_process("--port", str(relay.port), *options) as again:
                while (event := json.loads(line(process)))["event"] == "relay_trouble":
                    pass
                assert event["event"] == "watching"
                assert_answers(process, again, first, second)
    assert listed(directory) == {first.device_id: "target"}


def assert_answers(
    process: subprocess.Popen[str], relay: RelayProcess, first: TokenHolder, second: TokenHolder
) -> None:
    """The second device is refused and reported; the first is acknowledged as often as it asks."""
    used = wire.BootstrapReject(first.jti, "token_already_used")
    for holder, told in ((second, "used_twice"), (first, "answered_again")):
        answer = holder.announce(relay.url)
        if holder is first:
            holder.check(answer)
        else:
            assert answer == used
        event = json.loads(line(process))
        assert (event["event"], event["deviceId"]) == (told, holder.device_id)


def test_a_controller_that_was_started_again(directory: Path, relay: RelayProcess) -> None:
    """Nothing is waited for: a person still sees a second use, and a lost answer is repeated."""
    text = given_out(directory, relay=relay.url)
    first, second = TokenHolder(text), TokenHolder(text)
    with piped(directory, "provision", "--watch", "--json") as process:
        assert json.loads(line(process))["event"] == "watching"
        first.check(first.announce(relay.url))  # this answer is lost, say
        assert process.wait(PATIENCE_SECONDS) == 0
    person = AtTerminal(directory, "provision", "--watch")
    person.sees('Used, and still good until .* UTC: "prod-server"')
    person.sees('Watching the used tokens for "prod-server"')
    for _ in range(2):
        first.check(first.announce(relay.url))
        used = wire.BootstrapReject(first.jti, "token_already_used")
        assert second.announce(relay.url) == used
    person.sees(f"{first.device_id}\\) announced itself again, and was answered")
    person.sees(rf"used twice:(?s:.){{1,20}}{second.device_id}")  # colours between lines
    assert AtTerminal(directory, "provision", "--watch", "--json").ends() == 0
    given_out(directory, "another")  # which this one does not wait for
    person.presses_ctrl_c()
    assert person.ends() == 130
    assert person.seen.count("announced itself again") == 1
    assert person.seen.count("used twice") == 1
    assert "Not waiting any more" not in person.seen
    assert listed(directory) == {first.device_id: "target"}
    # A script has nothing to wait for.
    provisioned.cancel(home(directory), provisioned.read(home(directory))[1].jti, time.time())
    assert amesh(directory, "provision", "--watch", "--json").out == ""


# --- files ------------------------------------------------------------------------------


def test_a_token_in_a_file(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "token"
    arguments = ("provision", "-n", "prod", "--detach", "--relay", NOWHERE, "--output", str(path))
    done = amesh(directory, *arguments)
    assert (done.status, done.out) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert accept(text, time.time()).claims.name == "prod"
    assert text.strip() not in done.err
    again = amesh(directory, *arguments)
    assert again.status == 2
    assert path.read_text() == text
    assert names(directory) == ["prod"]


def test_a_file_that_is_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.symlink_to(tmp_path / "elsewhere")
    done = amesh(directory, "provision", "-n", "x", "--detach", "--relay", NOWHERE, "-o", str(path))
    assert done.status == 2
    assert not (tmp_path / "elsewhere").exists()
    assert names(directory) == []


def test_a_token_that_cannot_be_remembered_is_not_handed_out(
    directory: Path, tmp_path: Path
) -> None:
    (directory / "provisioned.json").touch(0o600)
    path = tmp_path / "token"
    arguments = ("provision", "-n", "x", "--detach", "--relay", NOWHERE)
    done = amesh(directory, *arguments)
    assert (done.status, done.out) == (3, "")
    assert "provisioned.json" in done.err
    assert amesh(directory, *arguments, "-o", str(path)).status == 3
    assert not path.exists()


def test_a_file_that_cannot_be_written_leaves_no_token_waiting(
    directory: Path, tmp_path: Path
) -> None:
    given_out(directory, "kept")
    path = tmp_path / "no such directory" / "tokens"
    done = amesh(
        *(directory, "provision", "-n", "x", "--count", "2", "--detach"),
        *("--relay", NOWHERE, "-o", str(path)),
    )
    assert done.status == 3
    assert names(directory) == ["kept"]


def test_killed_while_minting_into_a_file(directory: Path, tmp_path: Path) -> None:
    """Whoever finds the file finds tokens that this device knows."""
    path = tmp_path / "tokens"
    order = Order("web", relay=NOWHERE, count=2, output=path, detach=True)
    before = snapshot(directory)

    def mint() -> None:
        # The table of open files is the child's own: its words are nobody's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        body.mint(order, as_json=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTH_MESH_DIR", str(directory))
        wrote = set()
        for _ in each_death(mint):
            wrote.add(path.exists())
            if path.exists():
                assert names(directory) == ["web-1", "web-2"]
                path.unlink()
            put_back(directory, before)
    assert wrote == {False, True}


def test_many_tokens_in_one_file_are_not_one_servers(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    arguments = ("provision", "-n", "web", "--detach", "--relay", NOWHERE, "-o", str(path))
    done = amesh(directory, *arguments, "--count", "2")
    assert "a line each" in done.err
    assert "TOKEN_FILE=" not in done.err
    assert len(path.read_text().splitlines()) == 2
    path.unlink()
    assert "AMESH_BOOTSTRAP_TOKEN_FILE=tokens" in amesh(directory, *arguments).err


def test_a_token_that_nobody_reads_is_an_error(directory: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "amesh_cli", *DETACHED],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(directory),
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 2
    assert "error: standard output: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_is_taken_from_the_pipe_by_who_reads_a_line(directory: Path) -> None:
    with piped(directory, *DETACHED, "--count", "3", "--json") as process:
        assert json.loads(line(process))["event"] == "minted"
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert names(directory) == ["x-1", "x-2", "x-3"]


# --- list and cancel --------------------------------------------------------------------


def test_the_list_shows_what_became_of_each_and_no_token(directory: Path) -> None:
    used, kept = given_out(directory, "used"), given_out(directory, "kept")
    dropped, expired = given_out(directory, "dropped"), given_out(directory, "expired")
    holder, controller = TokenHolder(used), home(directory)
    minted = provisioned.read(controller)
    provisioned.admit(controller, admission.verify(holder.init(), minted[0]), time.time())
    past = replace(
        minted[3],
        jti="bt_" + "e" * 32,
        minted_at="2026-01-01T00:00:00.000Z",
        expires_at=minted[3].minted_at,
    )
    provisioned.add(controller, [past], time.time())
    dropped_jti = TokenHolder(dropped).jti
    cancelled = amesh(directory, "provision", "--cancel", dropped_jti)
    assert cancelled.status == 0
    assert "still trusts this device" in cancelled.err
    shown = amesh(directory, "provision", "--list").out
    as_json = amesh(directory, "provision", "--list", "--json").out
    assert [record["state"] for record in json.loads(as_json)["tokens"]] == [
        "recorded",
        "waiting",
        "cancelled",
        "waiting",
        "expired",
    ]
    assert f"recorded {holder.device_id}" in shown
    for text in (used, kept, dropped, expired):
        for part in text.split(".")[1:]:
            assert part not in shown
            assert part not in as_json


def test_what_cannot_be_cancelled(directory: Path) -> None:
    holder, controller = TokenHolder(given_out(directory)), home(directory)
    (minted,) = provisioned.read(controller)
    provisioned.admit(controller, admission.verify(holder.init(), minted), time.time())
    used = amesh(directory, "provision", "--cancel", holder.jti)
    assert used.status == 6
    assert holder.device_id in used.err
    assert amesh(directory, "provision", "--cancel", "bt_" + "0" * 32).status == 2


def test_a_device_that_is_revoked_after_a_crash_stays_away(directory: Path) -> None:
    """`revoke` finishes what the crash cut off, and goes on if it cannot."""
    controller, holder = home(directory), TokenHolder(given_out(directory))
    (minted,) = provisioned.read(controller)
    announced = admission.verify(holder.init(), minted)
    provisioned.admit(controller, announced, time.time())
    provisioned.forget(controller, [minted])
    begun = replace(minted, used_by=holder.key.public)  # all but the third write
    provisioned.add(controller, [begun], time.time())
    path = directory / "provisioned.json"
    path.chmod(0o644)
    refused = amesh(directory, "revoke", "prod-server", "--yes")
    assert refused.status == 0
    assert "mode 0644" in refused.err
    assert listed(directory) == {}
    path.chmod(0o600)
    provisioned.admit(controller, announced, time.time())
    provisioned.forget(controller, [minted])
    provisioned.add(controller, [begun], time.time())
    assert amesh(directory, "revoke", "prod-server", "--yes").err.count("!") == 0
    with pytest.raises(TokenNotUsable):
        provisioned.admit(controller, announced, time.time())
    assert listed(directory) == {}


def test_cancelled_while_it_is_waited_for(directory: Path, relay: RelayProcess) -> None:
    with piped(directory, "provision", "-n", "x", "--json", "--relay", relay.url) as process:
        jti = json.loads(line(process))["jti"]
        assert json.loads(line(process))["event"] == "watching"
        done = amesh(directory, "provision", "--cancel", jti, "--json")
        assert json.loads(done.out) == {"event": "cancelled", "jti": jti, "name": "x"}
        assert json.loads(line(process)) == {"event": "cancelled", "jti": jti, "name": "x"}
        assert process.wait(PATIENCE_SECONDS) == 6


def test_an_id_of_the_list_is_whole_in_a_narrow_terminal(directory: Path) -> None:
    jti = TokenHolder(given_out(directory, "a server with a long name")).jti
    command = AtTerminal(directory, "provision", "--list", COLUMNS="60")
    assert command.ends() == 0
    assert jti in command.seen


def test_an_unproven_key_is_marked_in_the_list(directory: Path, relay: RelayProcess) -> None:
    with piped(
        directory, "provision", "-n", "node", "--for-node", "--relay", relay.url, "--json"
    ) as process:
        holder = TokenHolder(json.loads(line(process))["token"])
        assert json.loads(line(process))["event"] == "watching"
        with announcing(relay.url, holder.node_init()) as socket:
            holder.check(hear(socket))
        assert json.loads(line(process))["proven"] is False
        assert process.wait(PATIENCE_SECONDS) == 0
    assert "key unproven" in amesh(directory, "list").out
    (device,) = json.loads(amesh(directory, "list", "--json").out)["devices"]
    assert device["pairing"] == "bootstrap-unproven"


# --- what cannot work -------------------------------------------------------------------


@pytest.mark.parametrize("case", vectors.load("bootstrap.json")["ttl"], ids=lambda c: c["ttl"])
def test_times_as_node_reads_them(case: dict[str, Any]) -> None:
    """All that Node takes we take, but for a token of no time; days and seconds are ours."""
    ours = {"0m": None, "1d": 86_400}
    expected = ours.get(case["ttl"], case["result"])
    if isinstance(expected, int):
        assert body.lifetime_seconds(case["ttl"]) == expected
    else:
        with pytest.raises(UsageError):
            body.lifetime_seconds(case["ttl"])


@pytest.mark.parametrize(
    ("order", "word"),
    [
        (Order(None), "--name"),
        (Order("x", ttl="25h"), "24 hours"),
        (Order("x", ttl="86401s"), "24 hours"),
        (Order("x", ttl="soon"), "duration"),
        (Order('a "b"'), "name"),
        (Order("x" * 62, count=10), "with -10 at its end"),
        (Order("x", relay="", detach=True), "ws://"),
        (Order("x", relay="ws://example\\.org"), "host"),
        (Order("x", relay="http://example"), "ws://"),
        (Order("x", relay="ws://user:secret@example"), "password"),
    ],
)
def test_what_cannot_be_made(
    directory: Path, monkeypatch: pytest.MonkeyPatch, order: Order, word: str
) -> None:
    monkeypatch.setenv("AUTH_MESH_DIR", str(directory))
    with pytest.raises(UsageError, match=word) as caught:
        body.mint(order, as_json=True)
    assert "secret" not in str(caught.value)
    assert not (directory / "provisioned.json").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--name"),
        (("--name", "x", "--count", "0"), "count"),
        (("--list", "--watch"), "exclude"),
        (("--list", "--name", "x"), "--list"),
    ],
)
def test_wrong_usage(directory: Path, arguments: tuple[str, ...], word: str) -> None:
    done = amesh(directory, "provision", *arguments)
    assert (done.status, done.out) == (2, "")
    assert word in done.err
    assert not (directory / "provisioned.json").exists()


def test_each_of_the_four_things_alone() -> None:
    nothing = Order(None)
    wanted: dict[str, Any] = {"watch": False, "show_list": False, "cancel": None}
    assert body.mode(Order("x"), **wanted) == "mint"
    assert body.mode(nothing, **wanted | {"watch": True}) == "watch"
    assert body.mode(nothing, **wanted | {"show_list": True}) == "list"
    assert body.mode(nothing, **wanted | {"cancel": ""}) == "cancel"
    for other in (
        Order("x"),
        Order(None, detach=True),
        Order(None, ttl="5m"),
        Order(None, count=1),
    ):
        with pytest.raises(UsageError):
            body.mode(other, **wanted | {"cancel": "bt_0"})
