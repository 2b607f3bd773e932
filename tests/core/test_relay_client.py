"""One ceremony over a socket: with a real relay, and with relays that misbehave."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from amesh_core.errors import (
    BadMessage,
    HomeUnwritable,
    NotConfirmed,
    OutOfOrder,
    PairingExpired,
    PeerCouldNotRecord,
    RejectedByPeer,
    RejectedHere,
    RelayLost,
    RelayRefused,
    UsageError,
    WrongDigits,
)
from amesh_core.identity import Peer
from amesh_core.io import relay_client, relay_line
from amesh_core.wire import pairing
from amesh_core.wire import relay as wire
from tests.support.ceremony import CODE, Device, Side, channel_of, controller, target
from tests.support.people import (
    ControllerAway,
    ControllerInRoom,
    ControllerWhoDoubts,
    Room,
    TargetAway,
    TargetInRoom,
    TargetWithBadEyes,
)
from tests.support.relay import relay_in_process
from tests.support.scripted_relay import CuttingRelay, scripted
from tests.support.scripted_relay import Device as AtRelay

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
PATIENCE_SECONDS = 20
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, and fail instead of hanging."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE_SECONDS))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Devices:
    """Two devices that pair at `url`, their people, and what each has recorded."""

    url: str
    room: Room = field(default_factory=Room)
    at_target: TargetInRoom = field(init=False)
    at_controller: ControllerInRoom = field(init=False)
    recorded_by_target: list[Peer] = field(default_factory=list)
    recorded_by_controller: list[Peer] = field(default_factory=list)
    record_at_target: Callable[[Peer], str] = field(init=False)
    record_at_controller: Callable[[Peer], str] = field(init=False)

    def __post_init__(self) -> None:
        self.at_target = TargetInRoom(self.room)
        self.at_controller = ControllerInRoom(self.room)
        self.record_at_target = self._recorder(self.recorded_by_target)
        self.record_at_controller = self._recorder(self.recorded_by_controller)

    @staticmethod
    def _recorder(recorded: list[Peer]) -> Callable[[Peer], str]:
        def record(peer: Peer) -> str:
            recorded.append(peer)
            return f"recorded {peer.friendly_name}"

        return record

    async def listen(self) -> str:
        return await relay_client.listen(
            self.url,
            identity=PROD.identity,
            key=PROD.key,
            person=self.at_target,
            record=self.record_at_target,
        )

    async def invite(self) -> str:
        return await relay_client.invite(
            self.url,
            await self.room.code,
            identity=LAPTOP.identity,
            key=LAPTOP.key,
            person=self.at_controller,
            record=self.record_at_controller,
        )

    async def pair(self) -> tuple[str | BaseException, str | BaseException]:
        """Run both to their ends: what target and controller returned, or raised."""
        first, second = await asyncio.gather(self.listen(), self.invite(), return_exceptions=True)
        return first, second

    def nobody_is_recorded(self) -> None:
        assert self.recorded_by_target == self.recorded_by_controller == []


# --- through a real relay -------------------------------------------------------------------


def test_two_devices_pair() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            assert await devices.pair() == ("recorded laptop", "recorded prod-api")
            assert [peer.public_key for peer in devices.recorded_by_target] == [LAPTOP.key.public]
            assert [peer.public_key for peer in devices.recorded_by_controller] == [PROD.key.public]
            assert devices.at_target.seen == [
                "code for 60 s",
                "countdown gone",
                "peer found",
                "asked",
                "prompt gone",
                "matched",
            ]
            assert devices.at_controller.seen == [
                "peer found",
                "digits",
                "asked about prod-api",
                "prompt gone",
            ]

    run(main())


def test_wrong_digits() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = TargetWithBadEyes(devices.room)
            at_target, at_controller = await devices.pair()
            assert isinstance(at_target, WrongDigits)
            assert isinstance(at_controller, RejectedByPeer)
            devices.nobody_is_recorded()
            assert "matched" not in devices.at_target.seen

    run(main())


def test_no_consent() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_controller = ControllerWhoDoubts(devices.room)
            at_target, at_controller = await devices.pair()
            assert isinstance(at_controller, RejectedHere)
            assert isinstance(at_target, RejectedByPeer)
            devices.nobody_is_recorded()

    run(main())


def cannot_write(peer: Peer) -> str:
    raise HomeUnwritable("disk full")


def test_the_target_cannot_record() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.record_at_target = cannot_write
            at_target, at_controller = await devices.pair()
            assert isinstance(at_target, HomeUnwritable)
            assert isinstance(at_controller, NotConfirmed)
            assert len(devices.recorded_by_controller) == 1

    run(main())


def test_the_controller_cannot_record() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.record_at_controller = cannot_write
            at_target, at_controller = await devices.pair()
            assert isinstance(at_controller, HomeUnwritable)
            assert isinstance(at_target, PeerCouldNotRecord)
            devices.nobody_is_recorded()

    run(main())


def test_a_code_that_is_taken_is_replaced_before_it_is_shown() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            first = Devices(url)
            first_listen = asyncio.create_task(first.listen())
            taken = await first.room.code
            codes = iter([taken, taken, "314159"])
            second = Devices(url)
            listening = asyncio.create_task(
                relay_client.listen(
                    url,
                    identity=PROD.identity,
                    key=PROD.key,
                    person=second.at_target,
                    record=second.record_at_target,
                    new_code=lambda: next(codes),
                )
            )
            assert await second.room.code == "314159"
            assert second.at_target.seen == ["code for 60 s"]
            await second.invite()
            assert await listening == "recorded laptop"
            first_listen.cancel()
            await asyncio.wait({first_listen})

    run(main())


def test_a_relay_that_calls_every_code_taken() -> None:
    tried: list[str] = []

    async def full(device: AtRelay) -> None:
        frame = await device.hear()
        assert isinstance(frame, wire.Listen)
        tried.append(frame.otc)
        await device.say(wire.RelayErrorFrame("otc_in_use"))
        await device.gone()

    async def main() -> None:
        async with scripted(full) as url:
            devices = Devices(url)
            with pytest.raises(RelayRefused) as raised:
                await devices.listen()
            assert raised.value.relay_code == "otc_in_use"
            assert devices.at_target.seen == []

    run(main())
    assert len(tried) == relay_client.CODE_TRIES
    assert len(set(tried)) > 1


def test_codes() -> None:
    codes = {relay_client.random_code() for _ in range(200)}
    assert len(codes) > 190
    assert all(100_000 <= int(code) <= 999_999 for code in codes)


def test_nobody_listens_under_that_code() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.room.code.set_result("314159")
            with pytest.raises(RelayRefused) as raised:
                await devices.invite()
            assert raised.value.relay_code == "otc_not_found"
            assert devices.at_controller.seen == []

    run(main())


def test_a_code_nobody_comes_for() -> None:
    """The end of a code is the end of the command: a person starts again."""
    clock = Clock()

    async def main() -> None:
        async with relay_in_process(clock=clock) as url:
            devices = Devices(url)
            listening = asyncio.create_task(devices.listen())
            await devices.room.code
            clock.now = 61
            with pytest.raises(RelayRefused) as raised:
                await listening
            assert raised.value.relay_code == "otc_expired"
            assert devices.at_target.seen[-1] == "countdown gone"

    run(main())


def test_a_relay_that_never_says_that_the_code_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_client, "CODE_SECONDS", 0.02)
    monkeypatch.setattr(relay_client, "ANSWER_SECONDS", 0.02)

    async def silent(device: AtRelay) -> None:
        await device.hear()
        await device.say(wire.Ack())
        await device.gone()

    async def main() -> None:
        async with scripted(silent) as url:
            with pytest.raises(RelayRefused) as raised:
                await Devices(url).listen()
            assert raised.value.relay_code == "otc_expired"

    run(main())


# --- while a person is asked ----------------------------------------------------------------


def test_the_controller_goes_while_the_target_s_person_is_asked() -> None:
    """The prompt goes away with the ceremony, instead of taking digits for nothing."""

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = TargetAway(devices.room)
            listening = asyncio.create_task(devices.listen())
            inviting = asyncio.create_task(devices.invite())
            await devices.room.digits
            inviting.cancel()
            with pytest.raises(RelayLost, match="other device"):
                await listening
            assert devices.at_target.seen[-2:] == ["asked", "prompt gone"]
            with pytest.raises(asyncio.CancelledError):
                await inviting
            devices.nobody_is_recorded()

    run(main())


def test_the_target_goes_while_the_controller_s_person_is_asked() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_controller = ControllerAway(devices.room)
            listening = asyncio.create_task(devices.listen())
            inviting = asyncio.create_task(devices.invite())
            await devices.room.asked.wait()
            listening.cancel()
            with pytest.raises(RelayLost, match="other device"):
                await inviting
            assert devices.at_controller.seen[-1] == "prompt gone"
            with pytest.raises(asyncio.CancelledError):
                await listening
            devices.nobody_is_recorded()

    run(main())


async def meet_target(device: AtRelay) -> Side:
    """Be relay and controller for a target, up to where its person is asked."""
    frame = await device.hear()
    assert isinstance(frame, wire.Listen)
    await device.say(wire.Ack(), wire.PeerFound())
    peer = controller(LAPTOP, "", code=frame.otc)
    peer.start()
    peer.hear(await device.payload())
    await device.say(wire.Data(peer.outbox.popleft()))
    peer.hear(await device.payload())
    return peer


async def meet_controller(device: AtRelay) -> Side:
    """Be relay and target for a controller, up to where it has shown the digits."""
    frame = await device.hear()
    assert isinstance(frame, wire.Connect)
    peer = target(PROD, "", code=frame.otc)
    peer.start()
    await device.say(wire.PeerFound(), wire.Data(peer.outbox.popleft()))
    peer.hear(await device.payload())
    await device.say(wire.Data(peer.outbox.popleft()))
    return peer


def test_a_message_while_the_target_s_person_is_asked() -> None:
    async def hasty(device: AtRelay) -> None:
        await meet_target(device)
        await device.say(wire.Data("anything"))
        await device.gone()

    async def main() -> None:
        async with scripted(hasty) as url:
            devices = Devices(url)
            devices.at_target = TargetAway(devices.room)
            with pytest.raises(BadMessage):
                await devices.listen()
            assert devices.at_target.seen[-1] == "prompt gone"
            devices.nobody_is_recorded()

    run(main())


def test_a_message_while_the_controller_s_person_is_asked() -> None:
    async def hasty(device: AtRelay) -> None:
        peer = await meet_controller(device)
        peer.type(channel_of(peer).digits)
        await device.say(wire.Data(peer.outbox.popleft()))
        await device.say(wire.Data(pairing.encode(pairing.Reveal(PROD.key.public, bytes(32)))))
        await device.gone()

    async def main() -> None:
        async with scripted(hasty) as url:
            devices = Devices(url)
            devices.at_controller = ControllerAway(devices.room)
            devices.room.code.set_result(CODE)
            with pytest.raises(OutOfOrder):
                await devices.invite()
            assert devices.at_controller.seen[-1] == "prompt gone"
            devices.nobody_is_recorded()

    run(main())


def test_a_person_who_cannot_be_asked() -> None:
    """An error of the prompt is the command's, and the other side learns that we are gone."""

    class NoTerminal(TargetInRoom):
        async def answer(self) -> str:
            raise UsageError("there is no terminal")

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = NoTerminal(devices.room)
            at_target, at_controller = await devices.pair()
            assert isinstance(at_target, UsageError)
            assert isinstance(at_controller, RelayLost)
            devices.nobody_is_recorded()

    run(main())


def test_a_code_that_cannot_be_shown() -> None:
    class BrokenScreen(TargetInRoom):
        async def code_ready(self, code: str, seconds: float) -> None:
            raise UsageError("nowhere to show it")

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = BrokenScreen(devices.room)
            with pytest.raises(UsageError):
                await devices.listen()

    run(main())


def test_a_code_shown_without_a_countdown() -> None:
    """A screen without a countdown returns at once, and that is no end."""

    class PlainScreen(TargetInRoom):
        async def code_ready(self, code: str, seconds: float) -> None:
            self.room.code.set_result(code)

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = PlainScreen(devices.room)
            assert await devices.pair() == ("recorded laptop", "recorded prod-api")

    run(main())


# --- lines that are cut ---------------------------------------------------------------------

# 1 commit, 2 hello, 3 reveal, 4 identity of the target, 5 of the controller, 6 done.
AFTER = {
    0: (RelayLost, RelayLost),
    1: (RelayLost, RelayLost),
    2: (RelayLost, RelayLost),
    3: (RelayLost, RelayLost),
    4: (RelayLost, NotConfirmed),
    5: (str, NotConfirmed),
    6: (str, str),
}


@pytest.mark.parametrize("messages", AFTER)
def test_a_line_cut_after_so_many_messages(messages: int) -> None:
    """Nothing one-sided but the controller's harmless entry, and nobody comes back."""

    async def main() -> None:
        relay = CuttingRelay(messages)
        async with scripted(relay.script) as url:
            devices = Devices(url)
            ends = await devices.pair()
            assert tuple(map(type, ends)) == AFTER[messages]
            assert len(devices.recorded_by_controller) == (messages >= 4)
            assert len(devices.recorded_by_target) == (messages >= 5)
            assert relay.connections == 2

    run(main())


def test_a_line_lost_once_the_target_has_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have recorded: the target says so, and the controller that it does not know."""
    send = relay_line.Line.send
    devices: Devices

    async def lost(line: relay_line.Line, frame: wire.DeviceFrame) -> None:
        if devices.recorded_by_target:
            raise RelayLost("gone")
        await send(line, frame)

    async def main() -> None:
        nonlocal devices
        async with relay_in_process() as url:
            devices = Devices(url)
            at_target, at_controller = await devices.pair()
            assert at_target == "recorded laptop"
            assert isinstance(at_controller, NotConfirmed)

    monkeypatch.setattr(relay_line.Line, "send", lost)
    run(main())


# --- interrupted by a person ----------------------------------------------------------------


def test_interrupted_while_the_code_is_shown() -> None:
    closed: asyncio.Event

    async def waits(device: AtRelay) -> None:
        await device.hear()
        await device.say(wire.Ack())
        await device.gone()
        closed.set()

    async def main() -> None:
        nonlocal closed
        closed = asyncio.Event()
        async with scripted(waits) as url:
            devices = Devices(url)
            listening = asyncio.create_task(devices.listen())
            await devices.room.code
            listening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listening
            await closed.wait()
            assert devices.at_target.seen[-1] == "countdown gone"

    run(main())


def test_the_controller_is_interrupted_while_it_records() -> None:
    """Once the list is written the identity goes out, and the entry is not passed over."""

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            listening = asyncio.create_task(devices.listen())
            inviting = asyncio.create_task(devices.invite())
            record = devices.record_at_controller

            def interrupted(peer: Peer) -> str:
                inviting.cancel()
                return record(peer)

            devices.record_at_controller = interrupted
            with pytest.raises(NotConfirmed):
                await inviting
            assert await listening == "recorded laptop"
            assert len(devices.recorded_by_controller) == 1

    run(main())


def test_the_target_is_interrupted_while_it_records() -> None:
    """Both sides have recorded, so both say so."""

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            listening = asyncio.create_task(devices.listen())
            inviting = asyncio.create_task(devices.invite())
            record = devices.record_at_target

            def interrupted(peer: Peer) -> str:
                listening.cancel()
                return record(peer)

            devices.record_at_target = interrupted
            assert await inviting == "recorded prod-api"
            assert await listening == "recorded laptop"

    run(main())


# --- time -----------------------------------------------------------------------------------


def ticks(*seconds: float) -> Callable[[], float]:
    """A clock that shows these times, one a look, and stands still at the last."""
    left = list(seconds)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def listen_at(url: str, devices: Devices, clock: Callable[[], float]) -> str:
    return await relay_client.listen(
        url,
        identity=PROD.identity,
        key=PROD.key,
        person=devices.at_target,
        record=devices.record_at_target,
        clock=clock,
    )


def test_a_silent_controller() -> None:
    async def silent(device: AtRelay) -> None:
        await device.hear()
        await device.say(wire.Ack(), wire.PeerFound())
        await device.gone()

    async def main() -> None:
        async with scripted(silent) as url:
            devices = Devices(url)
            with pytest.raises(PairingExpired, match="30 s"):
                await listen_at(url, devices, ticks(0.0, 29.99))
            devices.nobody_is_recorded()

    run(main())


def test_a_person_who_takes_all_day() -> None:
    async def patient(device: AtRelay) -> None:
        await meet_target(device)
        await device.gone()

    async def main() -> None:
        async with scripted(patient) as url:
            devices = Devices(url)
            devices.at_target = TargetAway(devices.room)
            # Looked at for: the start, the wait for hello, hello, the wait for the person.
            with pytest.raises(PairingExpired, match="5 minutes"):
                await listen_at(url, devices, ticks(0.0, 0.0, 0.0, 299.99))
            assert devices.at_target.seen[-1] == "prompt gone"
            devices.nobody_is_recorded()

    run(main())


def test_a_target_that_never_says_done() -> None:
    async def silent(device: AtRelay) -> None:
        peer = await meet_controller(device)
        peer.type(channel_of(peer).digits)
        await device.say(wire.Data(peer.outbox.popleft()))
        await device.payload()
        await device.gone()

    async def main() -> None:
        async with scripted(silent) as url:
            devices = Devices(url)
            devices.room.matched.set()
            # The start; a wait and a message for commit, reveal and identity, with a wait for
            # the person; consent, recorded; and 29.99 s later the wait for done.
            clock = ticks(*[0.0] * 10, 29.99)
            with pytest.raises(NotConfirmed) as raised:
                await relay_client.invite(
                    url,
                    CODE,
                    identity=LAPTOP.identity,
                    key=LAPTOP.key,
                    person=devices.at_controller,
                    record=devices.record_at_controller,
                    clock=clock,
                )
            assert isinstance(raised.value.__cause__, PairingExpired)
            assert len(devices.recorded_by_controller) == 1

    run(main())


# --- relays that misbehave ------------------------------------------------------------------

NOT_FOR_US = {
    "no JSON": "ack",
    "null": "null",
    "binary": b"\x00",
    "out of turn": wire.encode(wire.PeerFound()),
    "a payload": wire.encode(wire.Data("")),
    "somebody else's": wire.encode(wire.BootstrapWatching("bt_" + "0" * 32)),
}


@pytest.mark.parametrize("answer", NOT_FOR_US.values(), ids=NOT_FOR_US.keys())
def test_a_relay_that_makes_no_sense(answer: str | bytes) -> None:
    async def babbling(device: AtRelay) -> None:
        await device.hear()
        await device.socket.send(answer)
        await device.gone()

    async def main() -> None:
        async with scripted(babbling) as url:
            devices = Devices(url)
            with pytest.raises(RelayLost, match="the relay sent") as raised:
                await devices.listen()
            assert str(raised.value).isprintable()
            assert devices.at_target.seen == []

    run(main())


def test_an_error_code_of_the_relay_s_own() -> None:
    """It is whatever the relay wrote, so it reaches no screen."""

    async def rude(device: AtRelay) -> None:
        await device.hear()
        await device.socket.send('{"type":"error","code":"\\u001b[2Jpaired"}')
        await device.gone()

    async def main() -> None:
        async with scripted(rude) as url:
            with pytest.raises(RelayRefused) as raised:
                await Devices(url).listen()
            assert raised.value.relay_code == wire.UNKNOWN_ERROR

    run(main())


def test_a_relay_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_line, "ANSWER_SECONDS", 0.02)

    async def main() -> None:
        async with scripted(AtRelay.gone) as url:
            with pytest.raises(RelayLost, match="did not answer"):
                await Devices(url).listen()

    run(main())


def test_a_full_relay() -> None:
    """It may close before we have asked for anything; what it said first still counts."""

    async def full(device: AtRelay) -> None:
        await device.socket.close(1013)

    async def says_so(device: AtRelay) -> None:
        await device.say(wire.RelayErrorFrame("too_many_connections"))
        await device.socket.close(1013)

    async def main() -> None:
        for script in full, says_so:
            async with scripted(script) as url:
                with pytest.raises(RelayRefused) as raised:
                    await Devices(url).listen()
                assert raised.value.relay_code == "too_many_connections"

    run(main())


def test_the_reason_of_a_closed_line_is_kept() -> None:
    """The relay ended the session while a person was typing; the error says why."""

    async def impatient(device: AtRelay) -> None:
        await meet_target(device)
        await device.say(wire.RelayErrorFrame("session_data_limit"))
        await device.socket.close()

    async def main() -> None:
        async with scripted(impatient) as url:
            devices = Devices(url)
            devices.at_target = TargetAway(devices.room)
            with pytest.raises(RelayRefused) as raised:
                await devices.listen()
            assert raised.value.relay_code == "session_data_limit"
            devices.nobody_is_recorded()

    run(main())


def test_done_from_the_relay_is_not_done_from_the_target() -> None:
    async def lying(device: AtRelay) -> None:
        peer = await meet_controller(device)
        peer.type(channel_of(peer).digits)
        await device.say(wire.Data(peer.outbox.popleft()))
        await device.payload()
        await device.say(wire.Done())
        await device.gone()

    async def main() -> None:
        async with scripted(lying) as url:
            devices = Devices(url)
            devices.room.code.set_result(CODE)
            devices.room.matched.set()
            with pytest.raises(NotConfirmed):
                await devices.invite()

    run(main())


def test_a_frame_over_the_limit() -> None:
    async def flooding(device: AtRelay) -> None:
        await meet_target(device)
        await device.socket.send("x" * (wire.MAX_FRAME_BYTES + 1))
        await device.gone()

    async def main() -> None:
        async with scripted(flooding) as url:
            devices = Devices(url)
            devices.at_target = TargetAway(devices.room)
            # The socket itself refuses it, before it fills the memory.
            with pytest.raises(RelayLost, match="connection to the relay was lost"):
                await devices.listen()
            devices.nobody_is_recorded()

    run(main())


def test_the_target_says_done_to_the_relay_last() -> None:
    """Box first, then the relay's own `done`, then the end: nothing is cut off."""
    after_identity: list[wire.DeviceFrame] = []

    async def honest(device: AtRelay) -> None:
        peer = await meet_target(device)
        assert peer.digits is not None
        room.digits.set_result(peer.digits)
        peer.hear(await device.payload())
        peer.answer(yes=True)
        await device.say(wire.Data(peer.outbox.popleft()))
        peer.hear(await device.payload())
        assert peer.ended is None
        assert len(peer.recorded) == 1
        after_identity.append(await device.hear())
        await device.gone()

    room: Room

    async def main() -> None:
        nonlocal room
        async with scripted(honest) as url:
            devices = Devices(url)
            room = devices.room
            assert await devices.listen() == "recorded laptop"

    run(main())
    assert after_identity == [wire.Done()]


def test_invite_checks_its_url_and_code_before_it_connects() -> None:
    async def main(url: str, code: str) -> None:
        devices = Devices(url)
        devices.room.code.set_result(code)
        await devices.invite()

    with pytest.raises(UsageError):
        run(main("http://relay.example/ws", CODE))
    with pytest.raises(UsageError, match="six digits"):
        run(main("ws://127.0.0.1:1/ws", "48291"))


# --- secrets, and what is loaded ------------------------------------------------------------


def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            await devices.pair()
            for secret in await devices.room.code, await devices.room.digits:
                assert secret not in caplog.text

    run(main())
    assert "amesh.pairing" in caplog.text
    for record in caplog.records:
        assert "payload" not in record.getMessage()


def test_the_socket_library_is_loaded_only_to_connect() -> None:
    """It takes 170 ms, and `amesh list` does not need it."""
    code = "import sys, amesh_core.io.relay_client; sys.exit('websockets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
