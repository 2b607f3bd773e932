"""Two devices pair through a real relay, each with a person at a terminal of its own."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import AtTerminal, amesh, listed
from tests.support.home import PASSPHRASE, make_home, make_peer, record
from tests.support.relay import RelayProcess, relay_process

INVITE_LINE = r"amesh invite (\d{6})"
DIGITS = r"digits (\d{3} \d{3})"


@pytest.fixture
def relay() -> Iterator[RelayProcess]:
    with relay_process() as process:
        yield process


class Pair:
    """A target and a controller, and the two commands between them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.relay = relay
        self.target = directory / "target"
        self.controller = directory / "controller"
        self.ids = {
            home: make_home(home, name=home.name).identity.device_id
            for home in (self.target, self.controller)
        }
        self.listen: AtTerminal
        self.invite: AtTerminal

    def meet(self) -> str:
        """Run both commands up to the digits; returns them."""
        self.listen = AtTerminal(self.target, "listen", "--relay", self.relay.url)
        code = self.listen.sees(INVITE_LINE)
        self.invite = AtTerminal(self.controller, "invite", code, "--relay", self.relay.url)
        digits = self.invite.sees(DIGITS)
        self.listen.sees("Type the six digits")
        return digits

    def match(self) -> None:
        """Go on until the controller's person is asked."""
        digits = self.meet()
        self.listen.types(digits)
        self.listen.sees("The digits matched")
        self.invite.sees(r"\[y/N\]")

    def nothing_is_recorded(self) -> bool:
        return listed(self.target) == listed(self.controller) == {}


@pytest.fixture
def pair(tmp_path: Path, relay: RelayProcess) -> Pair:
    return Pair(tmp_path, relay)


def test_two_devices_pair(pair: Pair) -> None:
    pair.match()
    assert listed(pair.controller) == {}  # nothing permanent before its own person agreed
    pair.invite.types("y")
    assert pair.listen.ends() == 0
    assert pair.invite.ends() == 0
    assert listed(pair.target) == {pair.ids[pair.controller]: "controller"}
    assert listed(pair.controller) == {pair.ids[pair.target]: "target"}
    assert '"controller" (am_' in pair.listen.seen
    assert '"target" (am_' in pair.invite.seen
    asked = pair.invite.seen.split("[y/N]")[0]
    assert "onfirmed" not in asked  # nothing before the question may look like its answer
    assert "matched" not in asked.split("Does the target")[0]


def test_pairing_again_refreshes_the_entry(pair: Pair) -> None:
    pair.match()
    pair.invite.types("y")
    assert pair.listen.ends() == pair.invite.ends() == 0
    first = json.loads(amesh(pair.target, "list", "--json").out)["devices"]

    pair.listen = AtTerminal(pair.target, "listen", "--relay", pair.relay.url)
    pair.listen.sees("already has 1 of 1 controllers")
    pair.listen.types("y")
    code = pair.listen.sees(INVITE_LINE)
    pair.invite = AtTerminal(pair.controller, "invite", code, "--relay", pair.relay.url)
    pair.listen.types(pair.invite.sees(DIGITS))
    pair.invite.sees(r"\[y/N\]")
    pair.invite.types("yes")
    assert pair.listen.ends() == pair.invite.ends() == 0
    again = json.loads(amesh(pair.target, "list", "--json").out)["devices"]
    assert [d["deviceId"] for d in again] == [d["deviceId"] for d in first]
    assert again[0]["addedAt"] > first[0]["addedAt"]


def test_wrong_digits_end_it_on_both_sides(pair: Pair) -> None:
    digits = pair.meet()
    pair.listen.types("12345")  # not six digits: cannot be right, and is asked again
    pair.listen.sees("six digits, as the controller shows them")
    pair.listen.types(f"{(int(digits.replace(' ', '')) + 1) % 1_000_000:06d}")
    assert pair.listen.ends() == 6
    assert pair.invite.ends() == 6
    assert "the relay may be trying" in re.sub(r"\s+", " ", pair.listen.seen)
    assert pair.nothing_is_recorded()


@pytest.mark.parametrize("answer", ["n", "", "no"])
def test_no_is_the_default_at_the_controller(pair: Pair, answer: str) -> None:
    pair.match()
    pair.invite.types(answer)
    assert pair.invite.ends() == 6
    assert pair.listen.ends() == 6
    assert pair.nothing_is_recorded()


def test_keys_pressed_before_the_question_do_not_answer_it(pair: Pair) -> None:
    digits = pair.meet()
    pair.invite.types("y")  # impatient: the target has not matched anything yet
    pair.listen.types(digits)
    pair.invite.sees(r"\[y/N\]")
    pair.invite.types("n")
    assert pair.invite.ends() == 6
    assert pair.nothing_is_recorded()


STEPS: dict[str, Callable[[Pair], object]] = {"digits shown": Pair.meet, "matched": Pair.match}
SIDES = ("listen", "invite")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("side", SIDES)
def test_ctrl_c_leaves_nothing_behind(pair: Pair, step: str, side: str) -> None:
    STEPS[step](pair)
    interrupted, other = (getattr(pair, name) for name in sorted(SIDES, key=side.__ne__))
    interrupted.presses_ctrl_c()
    assert interrupted.ends() == 130
    assert other.ends() in (5, 6)
    assert "the other device disconnected" in other.seen
    assert pair.nothing_is_recorded()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("side", SIDES)
def test_a_kill_leaves_nothing_behind(pair: Pair, step: str, side: str) -> None:
    STEPS[step](pair)
    killed, other = (getattr(pair, name) for name in sorted(SIDES, key=side.__ne__))
    killed.is_killed()
    assert other.ends() in (5, 6)
    assert pair.nothing_is_recorded()


@pytest.mark.parametrize("step", STEPS)
def test_a_lost_relay_leaves_nothing_behind(pair: Pair, step: str) -> None:
    STEPS[step](pair)
    pair.relay.process.terminate()
    pair.relay.wait()
    assert pair.listen.ends() == 5
    assert pair.invite.ends() == 5
    assert pair.nothing_is_recorded()


def test_ctrl_c_while_the_code_is_shown(pair: Pair) -> None:
    listen = AtTerminal(pair.target, "listen", "--relay", pair.relay.url)
    code = listen.sees(INVITE_LINE)
    listen.sees(r"is good for \d+ s")
    listen.presses_ctrl_c()
    assert listen.ends() == 130
    late = amesh(pair.controller, "invite", code, "--relay", pair.relay.url, "--assume-match")
    assert late.status == 5
    assert "expired" in late.err


def test_a_third_controller_is_told_before_a_code_is_shown(pair: Pair) -> None:
    """The original wiped both at Enter."""
    home = make_home(pair.target.with_name("full"), max_controllers=2)
    first, second = make_peer("first"), make_peer("second")
    record(home, first, second)
    listen = AtTerminal(home.directory, "listen", "--relay", pair.relay.url)
    listen.sees("already has 2 of 2 controllers")
    listen.sees("Replace which one")
    listen.types("")
    assert listen.ends() == 9
    assert "invite" not in listen.seen
    assert set(listed(home.directory)) == {first.device_id, second.device_id}


def test_replacing_happens_only_when_the_new_one_is_paired(pair: Pair) -> None:
    home = make_home(pair.target.with_name("full"), max_controllers=2)
    first, second = make_peer("first"), make_peer("second")
    record(home, first, second)
    pair.target = home.directory
    for right in (False, True):
        listen = AtTerminal(
            home.directory, "listen", "--relay", pair.relay.url, "--replace", "second"
        )
        code = listen.sees(INVITE_LINE)
        invite = AtTerminal(pair.controller, "invite", code, "--relay", pair.relay.url)
        digits = invite.sees(DIGITS)
        listen.types(digits if right else f"{(int(digits.replace(' ', '')) + 1) % 10**6:06d}")
        if right:
            invite.sees(r"\[y/N\]")
            invite.types("y")
        assert (listen.ends() == 0) == (invite.ends() == 0) == right
        added = pair.ids[pair.controller] if right else second.device_id
        assert set(listed(home.directory)) == {first.device_id, added}


def test_without_a_terminal_a_full_target_names_the_flag(pair: Pair) -> None:
    home = make_home(pair.target.with_name("full"))
    record(home, make_peer("first"))
    done = amesh(home.directory, "listen", "--relay", pair.relay.url, "--digits-stdin")
    assert done.status == 9
    assert "--replace" in done.err


def test_one_key_never_has_both_roles(pair: Pair) -> None:
    pair.match()
    pair.invite.types("y")
    assert pair.listen.ends() == pair.invite.ends() == 0
    pair.target, pair.controller = pair.controller, pair.target
    pair.match()
    pair.invite.types("y")
    assert pair.invite.ends() == 9
    assert "already listed as a controller" in pair.invite.seen
    assert pair.listen.ends() == 6
    assert listed(pair.target) == {pair.ids[pair.controller]: "target"}


def test_a_device_does_not_pair_with_itself(pair: Pair) -> None:
    pair.controller = pair.target
    pair.ids[pair.controller] = pair.ids[pair.target]
    pair.listen = AtTerminal(pair.target, "listen", "--relay", pair.relay.url)
    code = pair.listen.sees(INVITE_LINE)
    pair.invite = AtTerminal(pair.controller, "invite", code, "--relay", pair.relay.url)
    pair.listen.types(pair.invite.sees(DIGITS))
    assert pair.invite.ends() == 9
    assert "own key" in pair.invite.seen
    assert listed(pair.target) == {}


def test_flags_can_answer_for_the_people(pair: Pair) -> None:
    """Flags answer for the people; the digits still cross from one side to the other."""
    listen = AtTerminal(pair.target, "listen", "--relay", pair.relay.url, "--digits-stdin")
    code = listen.sees(INVITE_LINE)
    at_controller = AtTerminal(
        pair.controller, "invite", code, "--relay", pair.relay.url, "--assume-match"
    )
    listen.types(at_controller.sees(DIGITS))
    assert listen.ends() == at_controller.ends() == 0
    assert "--assume-match" in at_controller.seen


def test_serve_runs_the_relay_inside_the_same_command(pair: Pair) -> None:
    pair.listen = AtTerminal(pair.target, "listen", "--serve", "127.0.0.1:0")
    line = pair.listen.sees(r"(amesh invite \d{6} --relay ws://127.0.0.1:\d+/ws)")
    pair.invite = AtTerminal(pair.controller, *line.split()[1:])
    pair.listen.types(pair.invite.sees(DIGITS))
    pair.invite.sees(r"\[y/N\]")
    pair.invite.types("y")
    assert pair.listen.ends() == pair.invite.ends() == 0
    assert listed(pair.target) == {pair.ids[pair.controller]: "controller"}


def test_the_served_relay_does_not_outlive_a_killed_listen(pair: Pair) -> None:
    listen = AtTerminal(pair.target, "listen", "--serve", "127.0.0.1:0")
    line = listen.sees(r"(amesh invite \d{6} --relay ws://127.0.0.1:\d+/ws)")
    listen.is_killed()
    done = amesh(pair.controller, *line.split()[1:], "--assume-match")
    assert done.status == 5
    assert listed(pair.controller) == {}


def test_the_served_relay_is_not_told_our_secrets(pair: Pair) -> None:
    """It faces the network: who breaks into it must not read the key's passphrase there."""
    secrets = {
        "AUTH_MESH_PASSPHRASE": PASSPHRASE,
        "AMESH_BOOTSTRAP_TOKEN": "eyJ-a-token",
        "AMESH_RELAY_TOKEN": "a-token-of-a-relay",
    }
    pair.listen = AtTerminal(pair.target, "listen", "--serve", "127.0.0.1:0", **secrets)
    pair.listen.sees(r"amesh invite \d{6}")
    listen = Path("/proc") / str(pair.listen.process_id)
    relay = (listen / "task" / listen.name / "children").read_text().strip()
    told = {line.partition(b"=")[0] for line in variables(listen)}
    passed_on = {line.partition(b"=")[0] for line in variables(listen.with_name(relay))}
    assert told - passed_on == set(map(str.encode, secrets))


def variables(process: Path) -> list[bytes]:
    return (process / "environ").read_bytes().rstrip(b"\0").split(b"\0")


def test_serve_says_why_it_cannot(pair: Pair) -> None:
    taken = AtTerminal(pair.target, "listen", "--serve", f"127.0.0.1:{pair.relay.port}")
    assert taken.ends() == 5
    assert "in use" in taken.seen
    for place in ("nowhere", "1:2:3", "127.0.0.1:99999", "127.0.0.1"):
        wrong = AtTerminal(pair.target, "listen", "--serve", place)
        assert wrong.ends() == 2
        assert "[HOST:]PORT" in wrong.seen


def test_the_relay_is_found_in_order(pair: Pair) -> None:
    """--relay, AMESH_RELAY_URL, config.json."""
    nobody = "ws://127.0.0.1:9/ws"  # discard: nothing listens there

    def reached(*options: str, **env: str) -> bool:
        done = amesh(pair.controller, "invite", "000000", "--assume-match", *options, **env)
        assert done.status == 5
        return "no target waits" in done.err

    (pair.controller / "config.json").write_text(json.dumps({"relay": pair.relay.url}))
    assert reached()
    assert not reached(AMESH_RELAY_URL=nobody)
    assert reached("--relay", pair.relay.url, AMESH_RELAY_URL=nobody)
    (pair.controller / "config.json").write_text('{"relay": "http://x"}')
    wrong = amesh(pair.controller, "invite", "000000", "--assume-match")
    assert wrong.status == 2
    assert "config.json" in wrong.err


@pytest.mark.parametrize("url", ["http://x/ws", "ws://", "localhost:3001", "ws://u:p@h/ws", ""])
def test_a_relay_url_that_cannot_work_is_refused_first(pair: Pair, url: str) -> None:
    done = amesh(pair.controller, "invite", "482916", "--assume-match", f"--relay={url}")
    assert done.status in (2, 5)
    if url:
        assert done.status == 2


@pytest.mark.parametrize("code", ["48291", "4829161", "abcdef", "48 916", "４８２９１６"])
def test_a_code_that_is_none_is_refused_first(pair: Pair, code: str) -> None:
    done = amesh(pair.controller, "invite", code, "--assume-match", "--relay", pair.relay.url)
    assert done.status == 2
    assert "six digits" in done.err


def test_without_a_terminal_the_flags_are_named(pair: Pair) -> None:
    listen = amesh(pair.target, "listen", "--relay", pair.relay.url)
    assert listen.status == 2
    assert "--digits-stdin" in listen.err
    invite = amesh(pair.controller, "invite", "482916", "--relay", pair.relay.url)
    assert invite.status == 2
    assert "--assume-match" in invite.err


def test_no_secret_is_in_the_arguments_of_a_process(pair: Pair) -> None:
    pair.meet()
    passphrase = (pair.target / ".passphrase").read_bytes()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert passphrase not in entry.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    pair.listen.presses_ctrl_c()
    pair.invite.ends()


def test_sigterm_ends_listen_without_a_trace(pair: Pair) -> None:
    pair.match()
    os.kill(pair.listen.process_id, signal.SIGTERM)
    pair.listen.ends()
    assert pair.invite.ends() in (5, 6)
    assert pair.nothing_is_recorded()
