"""Waiting at relays for targets: with real relays, and with relays that misbehave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from amesh_core.errors import AllowListMissing, RelayLost, TokenRecordsBroken
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.io.relay_line import Line
from amesh_core.wire import relay as wire
from amesh_core.wire.encoding import b64
from tests.support.bootstrap_target import TokenHolder
from tests.support.home import NOW, make_home
from tests.support.provisioning import (
    PATIENCE_SECONDS,
    Clock,
    HostileRelay,
    announce,
    given_out,
    is_acked,
    listed,
    waiting,
)
from tests.support.relay import relay_in_process
from tests.support.scripted_relay import Device as AtRelay
from tests.support.scripted_relay import scripted

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, and fail instead of hanging."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE_SECONDS))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "controller", name="laptop")


def test_a_target_announces_itself_and_is_recorded(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, holder.init())
                assert is_acked(holder, answer)
                await controller.ends()
                assert controller.told.events == ["watching", f"recorded {holder.device_id}"]
                assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_many_tokens_over_one_socket(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            holders = [TokenHolder(given_out(home, url, name=f"web-{n}")) for n in range(5)]
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                for holder in reversed(holders):
                    (answer,) = await announce(url, holder.init())
                    assert is_acked(holder, answer)
                await controller.ends()
                assert controller.told.events.count("watching") == 1
            assert listed(home) == {h.device_id: f"web-{n}" for n, h in enumerate(holders)}

    run(main())


def test_a_fleet(home: Home) -> None:
    """More questions than may be open at once; all are asked, and told of once."""

    async def main() -> None:
        async with relay_in_process() as url:
            text = given_out(home, url)
            (minted,) = provisioned.read(home)
            provisioned.add(
                home, [replace(minted, jti=f"bt_{n:032x}") for n in range(10_000, 10_199)], NOW
            )
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                assert controller.told.events == ["watching"]
                holder = TokenHolder(text)
                (answer,) = await announce(url, holder.init())
                assert is_acked(holder, answer)

    run(main())


def test_used_tokens_are_watched_without_a_word(home: Home) -> None:
    """The relay remembers what was used; the wait for the others is told all the same."""

    async def main() -> None:
        async with relay_in_process() as url:
            first, second = (TokenHolder(given_out(home, url)) for _ in range(2))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, second.init())
                assert is_acked(second, answer)
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, first.init())
                assert is_acked(first, answer)
                await controller.ends()
                assert controller.told.events == ["watching", f"recorded {first.device_id}"]

    run(main())


def test_used_tokens_alone_are_watched_until_they_expire(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            text = given_out(home, url)
            holder, thief = TokenHolder(text), TokenHolder(text)
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                await announce(url, holder.init())
                await controller.ends()
            clock = Clock()
            async with waiting(home, clock=clock) as controller:
                await controller.told.hears("watching")
                answers = await announce(url, holder.init(), thief.init(), holder.init())
                assert is_acked(holder, answers[0])
                assert answers[1] == wire.BootstrapReject(holder.jti, "token_already_used")
                assert is_acked(holder, answers[2])
                clock.now = NOW + 3600
                await controller.ends()
                again = f"answered again {holder.device_id}"
                assert controller.told.events == ["watching", again, "used twice", again]
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_used_tokens_of_another_relay_are_watched_as_long_as_any_is_waited_for(
    home: Home,
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as on:
            urls = [await on.enter_async_context(relay_in_process()) for _ in range(2)]
            used, other = (TokenHolder(given_out(home, url)) for url in urls)
            with_used = provisioned.read(home)[:1]
            async with waiting(home, tokens=with_used) as controller:
                await controller.told.hears("watching")
                await announce(urls[0], used.init())
                await controller.ends()
            async with waiting(home) as controller:
                await controller.told.hears("watching", 2)
                (answer,) = await announce(urls[0], used.init())
                assert is_acked(used, answer)
                (answer,) = await announce(urls[1], other.init())
                assert is_acked(other, answer)
                await controller.ends()

    run(main())


def test_used_tokens_take_no_place_from_those_that_are_waited_for(home: Home) -> None:
    """A relay lets one connection watch so many tokens."""

    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holders = [TokenHolder(given_out(home, url)) for _ in range(6)]
            tokens = provisioned.read(home)
            used = [replace(minted, recorded_at=minted.minted_at) for minted in tokens[:5]]
            async with waiting(home, tokens=[*used, tokens[5]]) as controller:
                await controller.told.hears("watching")
        assert script.asked[0] == holders[5].jti
        assert len(script.asked) == 6

    run(main())


def test_a_used_token_whose_place_is_still_taken_is_asked_for_again(home: Home) -> None:
    """By our own last connection, perhaps. Whatever else the relay says ends the questions."""

    async def main() -> None:
        questions: list[str] = []
        reasons = {1: "already_watched", 2: "already_watched", 3: "relay_overloaded"}
        used, other = (TokenHolder(given_out(home, "ws://127.0.0.1:1/ws")) for _ in range(2))
        done = asyncio.Event()

        async def script(device: AtRelay) -> None:
            while True:
                frame = await device.hear()
                assert isinstance(frame, wire.BootstrapWatch)
                questions.append(frame.jti)
                if frame.jti == other.jti:  # waited for, so always asked for
                    await device.say(wire.BootstrapReject(other.jti, "relay_overloaded"))
                    if questions.count(other.jti) == 8:
                        done.set()
                else:
                    reason = reasons[questions.count(used.jti)]
                    await device.say(wire.BootstrapReject(used.jti, reason))

        async with scripted(script) as url:
            first, second = (replace(minted, relay=url) for minted in provisioned.read(home))
            first = replace(first, recorded_at=first.minted_at)
            async with waiting(home, tokens=[first, second]) as controller:
                await done.wait()
                assert controller.told.events == ["held up: relay_overloaded"]
        assert questions.count(used.jti) == 3

    run(main())


def test_a_relay_that_goes_with_the_announcement(home: Home) -> None:
    """The device is recorded, though the ack may not have left."""

    async def main() -> None:
        holder = TokenHolder("")

        async def script(device: AtRelay) -> None:
            await device.hear()
            await device.say(wire.BootstrapWatching(holder.jti), holder.init())
            device.cut()

        async with scripted(script) as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.ends()
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_an_ack_that_cannot_be_sent(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is over all the same: the target believes its controller already."""
    send = Line.send

    async def lossy(line: Line, frame: wire.DeviceFrame) -> None:
        if isinstance(frame, wire.BootstrapAck):
            raise RelayLost("the connection to the relay was lost")
        await send(line, frame)

    monkeypatch.setattr(Line, "send", lossy)

    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            script.frames = [holder.init()]
            async with waiting(home) as controller:
                await controller.ends()
                assert controller.told.events[:2] == ["watching", f"recorded {holder.device_id}"]
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_a_used_token_is_watched_again_while_others_are_waited_for(home: Home) -> None:
    """A relay that restarted forgets what was used, and its second use is to be seen."""

    async def main() -> None:
        questions: list[set[str]] = []
        used = other = TokenHolder("")

        async def script(device: AtRelay) -> None:
            asked = [await device.hear() for _ in range(2)]
            questions.append(
                {frame.jti for frame in asked if isinstance(frame, wire.BootstrapWatch)}
            )
            if len(questions) == 1:
                await device.say(used.init())
                assert isinstance(await device.hear(), wire.BootstrapAck)
                device.cut()
            else:
                await device.say(other.init())
                await device.gone()

        async with scripted(script) as url:
            used, other = (TokenHolder(given_out(home, url)) for _ in range(2))
            async with waiting(home) as controller:
                await controller.told.hears(f"recorded {other.device_id}")
        assert questions == [{used.jti, other.jti}] * 2

    run(main())


def test_tokens_for_two_relays(home: Home) -> None:
    async def main() -> None:
        async with AsyncExitStack() as on:
            urls = [await on.enter_async_context(relay_in_process()) for _ in range(2)]
            holders = [TokenHolder(given_out(home, url)) for url in urls]
            controller = await on.enter_async_context(waiting(home))
            await controller.told.hears("watching", 2)
            for url, holder in zip(urls, holders, strict=True):
                (answer,) = await announce(url, holder.init())
                assert is_acked(holder, answer)
            await controller.ends()
            assert set(listed(home)) == {holder.device_id for holder in holders}

    run(main())


def test_a_relay_that_comes_later_and_goes_in_between(home: Home) -> None:
    """Nothing of the wait is lost when a relay restarts; a target announces itself afterwards."""

    async def main() -> None:
        sockets: list[AtRelay] = []
        holder = TokenHolder("")

        async def script(device: AtRelay) -> None:
            sockets.append(device)
            frame = await device.hear()
            assert frame == wire.BootstrapWatch(holder.jti)
            await device.say(wire.BootstrapWatching(holder.jti))
            if len(sockets) < 3:
                device.cut()
                return
            await device.say(holder.init())
            acked = await device.hear()
            assert isinstance(acked, wire.BootstrapAck)
            device.cut()

        async with scripted(script) as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.ends()
                assert controller.told.events == [
                    *["watching", "trouble"] * 2,
                    "watching",
                    f"recorded {holder.device_id}",
                ]
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_no_relay_at_all_ends_with_the_token(home: Home) -> None:
    async def main() -> None:
        given_out(home, "ws://127.0.0.1:1/ws")
        clock = Clock()
        async with waiting(home, clock=clock) as controller:
            await controller.told.hears("trouble", 3)
            clock.now = NOW + 3600
            await controller.ends()
            assert controller.told.events[-1] == "settled prod-server"

    run(main())


def test_a_token_that_expires_while_it_is_waited_for(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url))
            clock = Clock()
            async with waiting(home, clock=clock) as controller:
                await controller.told.hears("watching")
                clock.now = NOW + 3600
                await controller.ends()
                assert controller.told.events == ["watching", "settled prod-server"]
            (answer,) = await announce(url, holder.init())
            assert answer == wire.BootstrapReject(holder.jti, "no_watcher")
            assert listed(home) == {}

    run(main())


def test_cancelled_or_recorded_by_another_process(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            kept = TokenHolder(given_out(home, url, name="kept"))
            dropped = TokenHolder(given_out(home, url, name="dropped"))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                provisioned.cancel(home, dropped.jti, NOW)
                await controller.told.hears("settled dropped")
                from amesh_core import admission

                (minted, _) = provisioned.read(home)
                provisioned.admit(home, admission.verify(kept.init(), minted), NOW)
                await controller.ends()
                assert controller.told.events[-1] == "settled kept"

    run(main())


def test_two_controllers_wait_for_one_token(home: Home) -> None:
    """The second is held up, says so once, and takes over when the first one goes."""

    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as second_to_end:
                async with waiting(home) as first_to_end:
                    await asyncio.wait(
                        {
                            asyncio.create_task(one.told.hears("watching"))
                            for one in (first_to_end, second_to_end)
                        },
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    both = [first_to_end.told, second_to_end.told]
                    held = next(told for told in both if not told.events.count("watching"))
                    await held.hears("held up: already_watched")
                    if held is first_to_end.told:
                        first_to_end.task.cancel()
                await second_to_end.told.hears("watching")
                (answer,) = await announce(url, holder.init())
                assert is_acked(holder, answer)
                await second_to_end.ends()
                assert held.events.count("held up: already_watched") == 1

    run(main())


def test_the_ack_reaches_the_target_that_was_recorded(home: Home) -> None:
    """A relay matches answers to announcements in their order, so each gets one."""

    async def main() -> None:
        async with relay_in_process() as url:
            text = given_out(home, url)
            stranger, holder = TokenHolder(given_out(home, url, name="other")), TokenHolder(text)
            forged = wire.BootstrapInit(
                holder.jti, b64(stranger.key.public), "x", b64(bytes(64)), b64(bytes(32))
            )
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                answers = await announce(url, forged, holder.init(), forged)
                rejected = wire.BootstrapReject(holder.jti, "bad_announcement")
                assert answers[0] == rejected
                assert is_acked(holder, answers[1])
                assert answers[2] in (
                    rejected,
                    wire.BootstrapReject(holder.jti, "token_already_used"),
                )
                assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_an_announcement_of_both_machines_before_either_is_answered(home: Home) -> None:
    """Two machines with one token: the second is refused and shown, though all is settled."""

    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            text = given_out(home, url)
            first, second = TokenHolder(text), TokenHolder(text)
            script.frames = [first.init(), second.init()]
            async with waiting(home) as controller:
                await controller.ends()
                assert controller.told.events == [
                    "watching",
                    f"recorded {first.device_id}",
                    "used twice",
                ]
        ack, reject = script.heard
        assert isinstance(ack, wire.BootstrapAck)
        assert reject == wire.BootstrapReject(first.jti, "token_already_used")
        assert listed(home) == {first.device_id: "prod-server"}

    run(main())


@pytest.mark.parametrize(
    "nonsense",
    [
        wire.PeerFound(),
        wire.Data("x"),
        wire.Done(),
        wire.RelayErrorFrame("relay_capacity"),
        wire.BootstrapAcked("bt_" + "0" * 32, "key", "sig"),
        wire.BootstrapWatching("bt_" + "0" * 32),
        wire.BootstrapReject("bt_" + "0" * 32, "no_watcher"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_relay_that_talks_nonsense_is_left_and_tried_again(
    home: Home, nonsense: wire.RelayFrame
) -> None:
    async def main() -> None:
        script = HostileRelay([nonsense])
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.told.hears("trouble")
                script.frames = [holder.init()]
                await controller.ends()
        assert script.connections >= 2
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_a_relay_that_falls_silent_after_the_ack_holds_nobody_up(home: Home) -> None:
    async def main() -> None:
        script = HostileRelay(answers=1)
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            script.frames = [holder.init()]
            async with waiting(home) as controller:
                await controller.ends()
                assert controller.told.events == ["watching", f"recorded {holder.device_id}"]

    run(main())


def test_an_announcement_for_a_token_that_is_not_ours_is_not_answered(home: Home) -> None:
    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            foreign = wire.BootstrapInit("bt_" + "e" * 32, b64(holder.key.public))
            script.frames = [foreign, holder.init()]
            async with waiting(home) as controller:
                await controller.ends()
        assert isinstance(script.heard[0], wire.BootstrapAck)
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_what_cannot_be_recorded_is_said_and_ends_the_wait(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (home.directory / "allow_list.json").unlink()
                (answer,) = await announce(url, holder.init())
                assert answer == wire.BootstrapReject(holder.jti, "not_recorded")
                with pytest.raises(AllowListMissing):
                    await controller.ends()
        (minted,) = provisioned.read(home)
        assert minted.used_by is None

    run(main())


def test_records_that_were_changed_end_the_wait(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            given_out(home, url)
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                path = home.directory / "provisioned.json"
                path.write_bytes(path.read_bytes().replace(b"prod-server", b"prod-sErver"))
                with pytest.raises(TokenRecordsBroken):
                    await controller.ends()

    run(main())


def test_no_token_jti_or_hash_is_logged(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with relay_in_process() as url:
            text = given_out(home, url)
            first, second = TokenHolder(text), TokenHolder(text)
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                await announce(url, wire.BootstrapInit(first.jti, "A", "x", "A", "A"))
                await announce(url, second.init())
                await controller.ends()
            (minted,) = provisioned.read(home)
            for secret in (text, first.jti, b64(minted.token_hash), second.init().mac or text):
                assert secret not in caplog.text
            assert "announcement refused" in caplog.text

    run(main())
