"""The announcement at honest, absent and hostile relays: only the controller's word ends it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from amesh_core import provisioning
from amesh_core.errors import HomeBusy, Malformed
from amesh_core.io import announcing, relay_line
from amesh_core.io.announcing import Ending, announce
from amesh_core.io.bootstrapping import FoundToken, create_from
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from amesh_core.wire import relay as wire
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.encoding import b64
from tests.support.bootstrap import CONTROLLER, END, NOW, NOWHERE, file_of, token_of
from tests.support.bootstrap_target import SoftKey
from tests.support.dying import finish, start
from tests.support.home import cheap_init
from tests.support.scripted_relay import Device, scripted

Script = Callable[[Device], Awaitable[None]]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap_init(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A device made from a token whose relay is nowhere yet."""
    token = FoundToken(token_of(now=int(NOW)), "a test")
    return create_from(token, Settings(tmp_path / "amesh"), int(NOW)).home


def pending(home: Home) -> AnnounceFile:
    file = announcing.read(home.directory)
    assert file is not None
    return file


def announce_at(home: Home, url: str) -> None:
    """Let the token have named that relay."""
    file = replace(pending(home), relay_url=url)
    (home.directory / "announce.json").write_bytes(file.encode())


@dataclass
class Time:
    """A clock that goes on when somebody pauses."""

    now: float = int(NOW)
    pauses: list[float] = field(default_factory=list)
    between: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        self.between()
        await asyncio.sleep(0)


def run(home: Home, script: Script, time: Time | None = None) -> Ending:
    """Announce at a relay that does as the script says, once a connection."""
    time = time or Time()

    async def both() -> Ending:
        async with scripted(script) as url:
            announce_at(home, url)
            return await announce(home, clock=time.clock, pause=time.pause)

    return asyncio.run(both())


async def heard(device: Device) -> wire.BootstrapInit:
    frame = await device.hear()
    assert isinstance(frame, wire.BootstrapInit)
    return frame


def acked(
    frame: wire.BootstrapInit,
    *,
    by: SoftKey = CONTROLLER,
    named: SoftKey | None = None,
    public: bytes | None = None,
    jti: str | None = None,
    sent_jti: str | None = None,
) -> wire.BootstrapAcked:
    """What a relay delivers when `by` has signed; everything else can be somebody else's."""
    public = provisioning.target_key(frame.target_public_key) if public is None else public
    signature = provisioning.acknowledge(by, public, jti or frame.jti)
    return wire.BootstrapAcked(sent_jti or frame.jti, b64((named or by).public), b64(signature))


class Relay:
    """Answers each announcement with the next answer; the last one again and again."""

    def __init__(self, *answers: Callable[[wire.BootstrapInit], wire.RelayFrame | str]) -> None:
        self._answers = list(answers)
        self.heard: list[wire.BootstrapInit] = []

    async def script(self, device: Device) -> None:
        frame = await heard(device)
        self.heard.append(frame)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        reply = answer(frame)
        await device.socket.send(reply if isinstance(reply, str) else wire.encode(reply))
        await device.gone()


# --- the controller acknowledges --------------------------------------------------------


def test_the_acknowledgement_ends_the_attempts(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    relay, time = Relay(acked), Time()
    before = {p.name for p in home.directory.iterdir()}
    sent = pending(home).frame
    assert run(home, relay.script, time) is Ending.ACKNOWLEDGED
    assert relay.heard == [sent]
    assert time.pauses == []
    assert {p.name for p in home.directory.iterdir()} == before - {"announce.json"}
    assert announcing.read(home.directory) is None
    assert asyncio.run(announce(home)) is Ending.NOTHING_LEFT
    assert caplog.text == ""


def test_the_relay_is_down_at_first(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Down for a few attempts, then up at the same place: nothing but time passes."""
    time, attempts = Time(), 0

    async def both() -> Ending:
        nonlocal attempts

        def count() -> None:
            nonlocal attempts
            attempts += 1

        time.between = count
        relay = Relay(acked)
        async with scripted(relay.script) as url:
            good = pending(home).relay_url
            assert good == NOWHERE

            async def pause(seconds: float) -> None:
                await time.pause(seconds)
                if attempts == 3:
                    patched.setattr(
                        "amesh_core.io.announcing.connected", lambda *_: relay_line.connected(url)
                    )

            with pytest.MonkeyPatch.context() as patched:
                return await announce(home, clock=time.clock, pause=pause)

    assert asyncio.run(both()) is Ending.ACKNOWLEDGED
    assert attempts == 3
    assert caplog.text.count("cannot reach the relay") == 1, "one line, not one an attempt"


# --- nobody but the controller ends anything --------------------------------------------

STRANGER = SoftKey()


@pytest.mark.parametrize(
    "forged",
    [
        lambda frame: acked(frame, by=STRANGER),
        lambda frame: acked(frame, by=STRANGER, named=CONTROLLER),
        lambda frame: acked(frame, named=STRANGER),
        lambda frame: acked(frame, public=STRANGER.public),
        lambda frame: acked(frame, jti="bt_" + "0" * 32),
        lambda frame: acked(frame, sent_jti="bt_" + "0" * 32),
        lambda frame: replace(acked(frame), controller_sig=""),
        lambda frame: replace(acked(frame), controller_sig=b64(bytes(64))),
        lambda frame: replace(acked(frame), controller_public_key=""),
        lambda frame: wire.BootstrapReject(frame.jti, "token_already_used"),
        lambda frame: wire.BootstrapReject("bt_" + "0" * 32, "no_watcher"),
        lambda frame: wire.RelayErrorFrame("rate_limited"),
        lambda frame: wire.BootstrapWatching(frame.jti),
        lambda frame: frame,
        lambda frame: "null",
        lambda frame: "{",
    ],
)
def test_whatever_a_relay_says_the_attempts_go_on(
    home: Home, forged: Callable[[wire.BootstrapInit], wire.RelayFrame | str]
) -> None:
    relay, time = Relay(forged, forged, acked), Time()
    there = []
    time.between = lambda: there.append((home.directory / "announce.json").exists())
    assert run(home, relay.script, time) is Ending.ACKNOWLEDGED
    assert len(relay.heard) == 3
    assert there == [True, True], "kept for the next start"


def test_a_flood_of_refusals_is_heard_once_a_connection(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_line, "CLOSE_SECONDS", 0.05)  # it is not polite either
    connections = 0

    async def flood(device: Device) -> None:
        nonlocal connections
        connections += 1
        frame = await heard(device)
        if connections == 3:
            await device.say(acked(frame))
        for _ in range(2000):
            await device.say(wire.BootstrapReject(frame.jti, "no_watcher"))

    time = Time()
    assert run(home, flood, time) is Ending.ACKNOWLEDGED
    assert connections == 3
    assert len(time.pauses) == 2


def test_silence_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "ANSWER_SECONDS", 0.05)
    silent = 2

    async def script(device: Device) -> None:
        nonlocal silent
        frame = await heard(device)
        if silent:
            silent -= 1
        else:
            await device.say(acked(frame))
        await device.gone()

    assert run(home, script) is Ending.ACKNOWLEDGED
    assert silent == 0


def test_a_relay_that_hangs_up_is_asked_again(home: Home) -> None:
    cut = 2

    async def script(device: Device) -> None:
        nonlocal cut
        frame = await heard(device)
        if cut:
            cut -= 1
            device.cut()
            return
        await device.say(acked(frame))
        await device.gone()

    assert run(home, script) is Ending.ACKNOWLEDGED


# --- until the token ends ---------------------------------------------------------------


def refuse(frame: wire.BootstrapInit) -> wire.RelayFrame:
    return wire.BootstrapReject(frame.jti, "no_watcher")


def test_slower_and_slower_until_the_token_ends(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    relay, time = Relay(refuse), Time()
    assert run(home, relay.script, time) is Ending.EXPIRED
    assert time.now == pytest.approx(END)
    assert time.pauses[0] == pytest.approx(3, rel=0.2)
    assert time.pauses[1] == pytest.approx(6, rel=0.2)
    assert all(48 <= seconds <= 72 for seconds in time.pauses[5:-1])
    assert len(relay.heard) == len(time.pauses) <= 80
    # The relay takes 10 of one token in a minute.
    assert sum(time.pauses[:9]) > 60
    assert announcing.read(home.directory) is None
    assert home.allow_list().controller(CONTROLLER.public, NOW).public_key == CONTROLLER.public
    assert len(caplog.records) == 1, "a refusal is said once, not 80 times"


def test_an_expired_announcement_is_not_sent(home: Home) -> None:
    relay = Relay(acked)
    assert run(home, relay.script, Time(END)) is Ending.EXPIRED
    assert relay.heard == []
    assert announcing.read(home.directory) is None


# --- whose announcement, and whose turn -------------------------------------------------


def test_the_announcement_of_another_device_is_left_alone(home: Home) -> None:
    """announce.json of an identity that is not here any more, or was put here by a stranger."""
    (home.directory / "announce.json").write_bytes(file_of(token_of(), STRANGER).encode())
    relay = Relay(acked)
    assert asyncio.run(announce(home)) is Ending.NOTHING_LEFT
    assert relay.heard == []
    assert (home.directory / "announce.json").exists()


def test_a_new_identity_keeps_its_own_announcement(home: Home) -> None:
    """The old device's last answer comes while `init --force` has replaced it."""
    theirs = file_of(token_of(), STRANGER).encode()

    def replaced(frame: wire.BootstrapInit) -> wire.RelayFrame:
        (home.directory / "announce.json").unlink()
        (home.directory / "announce.json").write_bytes(theirs)
        return acked(frame)

    assert run(home, Relay(replaced).script) is Ending.ACKNOWLEDGED
    assert (home.directory / "announce.json").read_bytes() == theirs


def test_a_damaged_announcement_is_an_error_with_its_path(home: Home) -> None:
    path = home.directory / "announce.json"
    path.write_text("{}")
    with pytest.raises(Malformed, match=str(path)):
        asyncio.run(announce(home))
    assert path.exists()


def test_one_process_announces_at_a_time(home: Home) -> None:
    relay, time = Relay(acked), Time()
    with (home.directory / "announce.json").open("r+b") as other:
        announced_alone = []

        def between() -> None:
            announced_alone.append(len(relay.heard))
            if len(time.pauses) == 3:
                other.close()  # the other process has died

        async def both() -> Ending:
            async with scripted(relay.script) as url:
                announce_at_same_inode(home, url)
                fcntl.flock(other, fcntl.LOCK_EX)
                time.between = between
                return await announce(home, clock=time.clock, pause=time.pause)

        assert asyncio.run(both()) is Ending.ACKNOWLEDGED
    assert announced_alone == [0, 0, 0]
    assert len(relay.heard) == 1


def announce_at_same_inode(home: Home, url: str) -> None:
    data = replace(pending(home), relay_url=url).encode()
    with (home.directory / "announce.json").open("r+b") as file:
        file.truncate()
        file.write(data)


def test_who_waited_for_its_turn_sees_the_end(home: Home) -> None:
    relay, time = Relay(acked), Time()
    path = home.directory / "announce.json"
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        time.between = path.unlink
        ending = asyncio.run(announce(home, clock=time.clock, pause=time.pause))
    assert ending is Ending.NOTHING_LEFT
    assert relay.heard == []


def test_another_process_was_done_just_before_its_lock_was_ours(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look at the file and our lock on it, the other one saw the end of it."""
    relay, path = Relay(acked), home.directory / "announce.json"
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        path.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run(home, relay.script) is Ending.NOTHING_LEFT
    assert relay.heard == []


def test_a_forked_child_does_not_keep_the_turn(home: Home) -> None:
    """A lock lasts until the last copy of its descriptor is closed, children's included."""
    path = home.directory / "announce.json"
    gate, opener = os.pipe()
    born, bear = os.pipe()

    def child() -> None:
        os.close(opener)
        os.write(bear, b"!")
        os.read(gate, 1)  # lives on until the test is over

    with announcing._turn(path) as is_ours:
        assert is_ours
        number = start(child)
        os.read(born, 1)
    try:
        with announcing._turn(path) as is_ours:
            assert is_ours
    finally:
        for descriptor in (opener, gate, born, bear):
            os.close(descriptor)
        assert finish(number) == 0


def test_what_cannot_be_removed_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(directory: Path) -> None:
        raise HomeBusy("another process is changing it")

    monkeypatch.setattr("amesh_core.io.announcing.disk.locked", busy)
    with pytest.raises(HomeBusy):
        run(home, Relay(acked).script)
    assert (home.directory / "announce.json").exists()


def test_no_secret_is_logged(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    frame = pending(home).frame
    run(home, Relay(refuse, acked).script)
    for secret in (frame.jti, frame.mac, frame.proof):
        assert str(secret) not in caplog.text
